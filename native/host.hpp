// Whole derivatives for Python, without XLA: functions of the module on arrays of float64,
// which run without the interpreter's lock.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "differentiate.hpp"
#include "python.hpp"

namespace diffqcp::host {

constexpr const char* kProblem = "diffqcp problem";

// Arrays of an argument, held as long as this lives.
class Arrays {
 public:
  Arrays() = default;
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;
  ~Arrays() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
  }

  // Reads one array of this length. Whether that has succeeded; if not, an error is set.
  bool read(const char* name, PyObject* object, int64_t length, bool writable) {
    Py_buffer view;
    const int flags = PyBUF_ND | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view, flags) != 0) return false;
    views_.push_back(view);
    const std::string format = view.format == nullptr ? "B" : view.format;
    if (view.ndim == 1 && view.shape[0] == length && format == "d" &&
        reinterpret_cast<uintptr_t>(view.buf) % alignof(double) == 0)
      return true;
    PyErr_Format(PyExc_ValueError,
                 "%s: expected an array of %lld numbers of float64, got %d dimensions and "
                 "%zd bytes of the format '%s'",
                 name, static_cast<long long>(length), view.ndim, view.len, format.c_str());
    return false;
  }

  // Reads a tuple of arrays.
  bool read_all(const char* name, PyObject* tuple, const std::vector<int64_t>& lengths,
                bool writable) {
    if (!PyTuple_Check(tuple) ||
        PyTuple_Size(tuple) != static_cast<Py_ssize_t>(lengths.size())) {
      PyErr_Format(PyExc_TypeError, "%s: expected a tuple of %zu arrays", name,
                   lengths.size());
      return false;
    }
    views_.reserve(views_.size() + lengths.size());
    for (size_t k = 0; k < lengths.size(); ++k)
      if (!read(name, PyTuple_GetItem(tuple, static_cast<Py_ssize_t>(k)), lengths[k],
                writable))
        return false;
    return true;
  }

  double* operator[](size_t k) const { return static_cast<double*>(views_[k].buf); }

 private:
  std::vector<Py_buffer> views_;
};

using Shared = std::shared_ptr<const Problem>;

inline const Shared* shared_problem(PyObject* capsule) {
  return static_cast<Shared*>(PyCapsule_GetPointer(capsule, kProblem));
}

inline const Problem* problem_of(PyObject* capsule) {
  const Shared* shared = shared_problem(capsule);
  return shared == nullptr ? nullptr : shared->get();
}

struct Settings {
  Options options;
  int polish;
  double smoothing;

  // Reads a tuple of numbers; whether that has succeeded.
  bool read(PyObject* tuple) {
    int adapt, well_posed, max_steps;
    if (!PyTuple_Check(tuple)) {
      PyErr_SetString(PyExc_TypeError, "options: expected a tuple");
      return false;
    }
    if (!PyArg_ParseTuple(tuple, "dppdiddpd", &options.relative, &adapt, &well_posed,
                          &options.tolerance, &max_steps, &options.epsilon, &options.worth,
                          &polish, &smoothing))
      return false;
    options.adapt = adapt != 0;
    options.well_posed = well_posed != 0;
    options.max_steps = max_steps;
    return true;
  }
};

// The problem from its parts, in the order of Problem::Part, and the exponents of its power
// cones.
inline PyObject* make_problem(PyObject* args, const Lapack& lapack) {
  PyObject *tuple, *numbers;
  if (!PyArg_ParseTuple(args, "O!O", &PyTuple_Type, &tuple, &numbers)) return nullptr;
  std::vector<Indices> parts(static_cast<size_t>(PyTuple_Size(tuple)));
  for (size_t k = 0; k < parts.size(); ++k)
    if (!read_indices("parts", PyTuple_GetItem(tuple, static_cast<Py_ssize_t>(k)),
                      parts[k]))
      return nullptr;
  const Py_ssize_t count = PyObject_Length(numbers);
  Arrays array;
  if (count < 0 || !array.read("exponents", numbers, count, false)) return nullptr;
  auto shared = std::make_unique<Shared>();
  const bool made = without_lock([&] {
    const std::vector<double> exponents(array[0], array[0] + count);
    *shared = std::make_shared<const Problem>(std::move(parts), exponents, lapack);
  });
  if (!made) return nullptr;
  PyObject* capsule = PyCapsule_New(shared.get(), kProblem, [](PyObject* object) {
    delete static_cast<Shared*>(PyCapsule_GetPointer(object, kProblem));
  });
  if (capsule != nullptr) shared.release();
  return capsule;
}

inline PyObject* sizes(PyObject*, PyObject* capsule) {
  const Problem* problem = problem_of(capsule);
  if (problem == nullptr) return nullptr;
  const auto own = state_lengths(*problem, false), traced = state_lengths(*problem, true);
  return Py_BuildValue("(LLLL)", own[1], own[2], own[3], traced[3]);
}

// project(problem, v, out)
inline PyObject* project(PyObject*, PyObject* args) {
  PyObject *capsule, *v, *out;
  if (!PyArg_ParseTuple(args, "OOO", &capsule, &v, &out)) return nullptr;
  const Problem* problem = problem_of(capsule);
  Arrays arrays;
  if (problem == nullptr || !arrays.read("v", v, problem->m, false) ||
      !arrays.read("out", out, problem->m, true) ||
      !without_lock([&] { problem->cone.project(arrays[0], arrays[1]); }))
    return nullptr;
  Py_RETURN_NONE;
}

// jacobian(problem, v, smoothing, (lam, frames))
inline PyObject* jacobian(PyObject*, PyObject* args) {
  PyObject *capsule, *v, *out;
  double smoothing;
  if (!PyArg_ParseTuple(args, "OOdO", &capsule, &v, &smoothing, &out)) return nullptr;
  const Problem* problem = problem_of(capsule);
  Arrays arrays;
  if (problem == nullptr || !arrays.read("v", v, problem->m, false) ||
      !arrays.read_all("out", out, {problem->m, problem->cone.frame}, true) ||
      !without_lock([&] {
        problem->cone.jacobian(arrays[0], smoothing, arrays[1], arrays[2]);
      }))
    return nullptr;
  Py_RETURN_NONE;
}

// rotate(problem, frames, vector, out, back): U vector, or U'vector.
inline PyObject* rotate(PyObject*, PyObject* args) {
  PyObject *capsule, *frames, *vector, *out;
  int back;
  if (!PyArg_ParseTuple(args, "OOOOp", &capsule, &frames, &vector, &out, &back))
    return nullptr;
  const Problem* problem = problem_of(capsule);
  Arrays arrays;
  if (problem == nullptr ||
      !arrays.read("frames", frames, problem->cone.frame, false) ||
      !arrays.read("vector", vector, problem->m, false) ||
      !arrays.read("out", out, problem->m, true) || !without_lock([&] {
        if (back) {
          problem->cone.rotate_back(arrays[0], arrays[1], arrays[2]);
        } else {
          std::vector<double> coordinates(arrays[1], arrays[1] + problem->m);
          problem->cone.rotate(arrays[0], coordinates, arrays[2]);
        }
      }))
    return nullptr;
  Py_RETURN_NONE;
}

// vjp(problem, options, given, cotangents, out) -> (solved, error), and jvp likewise.
template <bool transposed>
PyObject* product(PyObject*, PyObject* args) {
  PyObject *capsule, *tuple, *given_arrays, *in_arrays, *out_arrays;
  if (!PyArg_ParseTuple(args, "OOOOO", &capsule, &tuple, &given_arrays, &in_arrays,
                        &out_arrays))
    return nullptr;
  const Problem* problem = problem_of(capsule);
  Settings settings;
  Arrays given, in, out;
  if (problem == nullptr || !settings.read(tuple)) return nullptr;
  const auto data = data_lengths(*problem), solution = solution_lengths(*problem);
  if (!given.read_all("given", given_arrays, given_lengths(*problem), false) ||
      !in.read_all("perturbation", in_arrays, transposed ? solution : data, false) ||
      !out.read_all("out", out_arrays, transposed ? data : solution, true))
    return nullptr;
  settings.options.eliminates = true;
  Report report{};
  const bool done = without_lock([&] {
    Differentiation differentiation(*problem, settings.options, settings.polish != 0,
                                    settings.smoothing, given_of(given));
    if constexpr (transposed)
      report = differentiation.vjp({in[0], in[1], in[2]}, {out[0], out[1], out[2], out[3]});
    else
      report = differentiation.jvp({in[0], in[1], in[2], in[3]}, {out[0], out[1], out[2]});
  });
  if (!done) return nullptr;
  return Py_BuildValue("(Od)", report.solved ? Py_True : Py_False, report.error);
}

// linearise(problem, options, given, state, (shift, A, x, y)) -> (singular, solved, error)
inline PyObject* linearise(PyObject*, PyObject* args) {
  PyObject *capsule, *tuple, *given_arrays, *state_arrays, *out_arrays;
  if (!PyArg_ParseTuple(args, "OOOOO", &capsule, &tuple, &given_arrays, &state_arrays,
                        &out_arrays))
    return nullptr;
  const Problem* problem = problem_of(capsule);
  Settings settings;
  Arrays given, state, out;
  if (problem == nullptr || !settings.read(tuple)) return nullptr;
  const Index n = problem->n, m = problem->m;
  const int64_t A = static_cast<int64_t>(problem->A.count());
  if (!given.read_all("given", given_arrays, given_lengths(*problem), false) ||
      !state.read_all("state", state_arrays, state_lengths(*problem, false), true) ||
      !out.read_all("out", out_arrays, {int64_t{n} + m, A, n, m}, true))
    return nullptr;
  Report report{};
  bool singular = false;
  const bool done = without_lock([&] {
    Differentiation differentiation(*problem, settings.options, settings.polish != 0,
                                    settings.smoothing, given_of(given));
    const auto point = differentiation.linearise(&report);
    singular = point->own_system().singular();
    const auto keep = [](const auto& from, double* to) {
      std::copy(from.begin(), from.end(), to);
    };
    keep(point->lam, state[0]);
    keep(point->frames, state[1]);
    keep(point->values, state[2]);
    keep(point->factor, state[3]);
    keep(point->shift, out[0]);
    keep(point->A, out[1]);
    keep(differentiation.x(), out[2]);
    keep(differentiation.y(), out[3]);
  });
  if (!done) return nullptr;
  return Py_BuildValue("(OOd)", singular ? Py_True : Py_False,
                       report.solved ? Py_True : Py_False, report.error);
}

// pull_back(problem, options, state, singular, (A, x, y), cotangents, out) -> solved, and
// push_forward likewise.
template <bool transposed>
PyObject* applied(PyObject*, PyObject* args) {
  PyObject *capsule, *tuple, *state_arrays, *point_arrays, *in_arrays, *out_arrays;
  int singular;
  if (!PyArg_ParseTuple(args, "OOOpOOO", &capsule, &tuple, &state_arrays, &singular,
                        &point_arrays, &in_arrays, &out_arrays))
    return nullptr;
  const Problem* problem = problem_of(capsule);
  Settings settings;
  Arrays state, point, in, out;
  if (problem == nullptr || !settings.read(tuple)) return nullptr;
  const auto data = data_lengths(*problem), solution = solution_lengths(*problem);
  if (!state.read_all("state", state_arrays, state_lengths(*problem, false), false) ||
      !point.read_all("point", point_arrays, {data[1], problem->n, problem->m}, false) ||
      !in.read_all("perturbation", in_arrays, transposed ? solution : data, false) ||
      !out.read_all("out", out_arrays, transposed ? data : solution, true))
    return nullptr;
  bool solved = false;
  const bool done = without_lock([&] {
    System system(*problem, settings.options,
                  {state[0], state[1], state[2], state[3], singular != 0});
    if constexpr (transposed) {
      const Solution<const double> cotangent{in[0], in[1], in[2]};
      const auto upper = adjoint_system(*problem, point[0], cotangent);
      const Answer answer = system.solve(upper.data(), cotangent.y);
      pull_back(*problem, point[1], point[2], cotangent, answer,
                {out[0], out[1], out[2], out[3]});
      solved = answer.solved;
    } else {
      solved = push_forward(*problem, system, point[0], point[1], point[2],
                            {in[0], in[1], in[2], in[3]}, {out[0], out[1], out[2]});
    }
  });
  if (!done) return nullptr;
  return PyBool_FromLong(solved);
}

}  // namespace diffqcp::host
