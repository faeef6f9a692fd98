// The computations of traced.hpp for Python, without XLA: batches of problems in arrays of
// float64, on threads that end with the call.
#pragma once

#include <thread>
#include <utility>
#include <vector>

#include "host.hpp"
#include "traced.hpp"

namespace diffqcp::host {

// A pool, for `parallel`, whose threads are joined when it is destroyed.
class Threads {
 public:
  explicit Threads(int count) : count_(count) {}
  ~Threads() {
    for (std::thread& thread : running_) thread.join();
  }

  int64_t num_threads() const { return count_; }

  template <typename Task>
  void Schedule(Task&& task) {
    running_.emplace_back(std::forward<Task>(task));
  }

 private:
  int count_;
  std::vector<std::thread> running_;
};

// A function (problem, options, (steps, patience, corrections), count, threads, inputs,
// outputs) of arrays that have the numbers of one item after those of another.
template <typename Computation>
PyObject* of_batch(PyObject*, PyObject* args) {
  PyObject *capsule, *tuple, *in_arrays, *out_arrays;
  Settings settings;
  traced::Call call;
  int steps, patience, corrections, threads;
  long long count;
  if (!PyArg_ParseTuple(args, "OO(iii)LiOO", &capsule, &tuple, &steps, &patience,
                        &corrections, &count, &threads, &in_arrays, &out_arrays))
    return nullptr;
  const Shared* shared = shared_problem(capsule);
  if (shared == nullptr || !settings.read(tuple)) return nullptr;
  call.shared = *shared;
  call.options = settings.options;
  call.options.eliminates = true;
  call.polish = settings.polish != 0;
  call.steps = steps;
  call.patience = patience;
  call.corrections = corrections;
  const traced::Lengths in = Computation::in(**shared), out = Computation::out(**shared);
  const auto times_count = [count](traced::Lengths lengths) {
    for (int64_t& length : lengths) length *= count;
    return lengths;
  };
  Arrays inputs, outputs;
  if (!inputs.read_all("inputs", in_arrays, times_count(in), false) ||
      !outputs.read_all("outputs", out_arrays, times_count(out), true) ||
      !without_lock([&] {
        Threads pool(threads);
        parallel(pool, count, [&](int64_t item) {
          traced::Inputs from(in.size());
          traced::Outputs to(out.size());
          for (size_t k = 0; k < in.size(); ++k) from[k] = inputs[k] + item * in[k];
          for (size_t k = 0; k < out.size(); ++k) to[k] = outputs[k] + item * out[k];
          Computation::run(call, from, to);
        });
      }))
    return nullptr;
  Py_RETURN_NONE;
}

}  // namespace diffqcp::host
