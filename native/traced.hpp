// Whole derivatives, Newton's method and the proximal one, as XLA FFI calls: what the Python
// module diffqcp._traced calls under jax.jit. The problem belongs to the executable, which
// finds it by its key.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "batch.hpp"
#include "least_shift.hpp"
#include "newton.hpp"
#include "parallel.hpp"
#include "proximal.hpp"
#include "room.hpp"
#include "search.hpp"
#include "units.hpp"

namespace diffqcp::traced {

// The problems that are alive, by their keys.
class Registry {
 public:
  void add(int64_t key, const std::shared_ptr<const Problem>& problem) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = problems_.begin(); entry != problems_.end();)
      entry = entry->second.expired() ? problems_.erase(entry) : std::next(entry);
    problems_[key] = problem;
  }

  std::shared_ptr<const Problem> find(int64_t key) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = problems_.find(key);
    return entry == problems_.end() ? nullptr : entry->second.lock();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<int64_t, std::weak_ptr<const Problem>> problems_;
};

inline Registry registry;

// A call, as an executable keeps it: its structure, and what else of it is static.
struct Call {
  inline static ffi::TypeId id{};
  std::shared_ptr<const Problem> shared;
  Options options;
  bool polish;
  int32_t steps, patience, corrections;

  const Problem& problem() const { return *shared; }
};

inline ffi::ErrorOr<std::unique_ptr<Call>> instantiate(ffi::Dictionary attributes) {
  std::string missing;
  const auto read = [&](const char* name, auto& value) {
    auto found = attributes.get<std::decay_t<decltype(value)>>(name);
    if (found.has_value())
      value = *found;
    else
      missing = name;
  };
  int64_t key = 0;
  auto call = std::make_unique<Call>();
  read("problem", key);
  read("relative", call->options.relative);
  read("adapt", call->options.adapt);
  read("well_posed", call->options.well_posed);
  read("tolerance", call->options.tolerance);
  read("max_steps", call->options.max_steps);
  read("epsilon", call->options.epsilon);
  read("worth", call->options.worth);
  call->options.eliminates = true;
  read("polish", call->polish);
  read("steps", call->steps);
  read("patience", call->patience);
  read("corrections", call->corrections);
  if (!missing.empty())
    return ffi::Unexpected(ffi::Error::InvalidArgument(missing + ": expected it"));
  call->shared = registry.find(key);
  if (call->shared == nullptr)
    return ffi::Unexpected(ffi::Error(
        ffi::ErrorCode::kNotFound,
        "diffqcp: the program is of another process, and its structure is not known here"));
  return call;
}

using Lengths = std::vector<int64_t>;
using Inputs = std::vector<const double*>;
using Outputs = std::vector<double*>;

inline Lengths operator+(Lengths left, const Lengths& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// (P, A, q, b, x, y, s, smoothing, dx, dy, ds) -> (dP, dA, dq, db, (solved, error))
struct Vjp {
  static Lengths in(const Problem& problem) {
    return given_lengths(problem) + Lengths{1} + solution_lengths(problem);
  }
  static Lengths out(const Problem& problem) { return data_lengths(problem) + Lengths{2}; }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    Differentiation differentiation(call.problem(), call.options, call.polish, *in[7],
                                    given_of(in));
    const Report report = differentiation.vjp({in[8], in[9], in[10]},
                                              {out[0], out[1], out[2], out[3]});
    out[4][0] = report.solved;
    out[4][1] = report.error;
  }
};

// (P, A, q, b, x, y, s, smoothing, dP, dA, dq, db) -> (dx, dy, ds, (solved, error))
struct Jvp {
  static Lengths in(const Problem& problem) {
    return given_lengths(problem) + Lengths{1} + data_lengths(problem);
  }
  static Lengths out(const Problem& problem) {
    return solution_lengths(problem) + Lengths{2};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    Differentiation differentiation(call.problem(), call.options, call.polish, *in[7],
                                    given_of(in));
    const Report report = differentiation.jvp({in[8], in[9], in[10], in[11]},
                                              {out[0], out[1], out[2]});
    out[3][0] = report.solved;
    out[3][1] = report.error;
  }
};

// (P, A, q, b, x, y, s, smoothing) -> (lam, frames, K, its factor, (singular,))
struct Linearise {
  static Lengths in(const Problem& problem) {
    return given_lengths(problem) + Lengths{1};
  }
  static Lengths out(const Problem& problem) {
    return state_lengths(problem, true) + Lengths{1};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    Differentiation differentiation(call.problem(), call.options, false, *in[7],
                                    given_of(in));
    Report report{};
    const auto point = differentiation.linearise(&report);
    *out[4] = point->own_system().singular();
    std::copy(point->lam.begin(), point->lam.end(), out[0]);
    std::copy(point->frames.begin(), point->frames.end(), out[1]);
    point->values.resize(call.problem().pattern().entries);
    std::copy(point->values.begin(), point->values.end(), out[2]);
    std::copy(point->factor.begin(), point->factor.end(), out[3]);
  }
};

// (lam, frames, K, its factor, (singular,), P, A, right) -> the solution in all unknowns
struct Solve {
  static Lengths in(const Problem& problem) {
    const Lengths data = data_lengths(problem);
    return state_lengths(problem, true) + Lengths{1, data[0], data[1]} + out(problem);
  }
  static Lengths out(const Problem& problem) {
    return {int64_t{problem.n} + 2 * int64_t{problem.m}};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    System system(call.problem(), call.options,
                  {in[0], in[1], in[2], const_cast<double*>(in[3]), *in[4] != 0, in[5],
                   in[6]});
    solve_unknowns(call.problem(), system, in[6], in[7], out[0]);
  }
};

// (P, A, q, b, x, y, s) -> (x, y, s, (error, steps))
struct Polish {
  static Lengths in(const Problem& problem) { return given_lengths(problem); }
  static Lengths out(const Problem& problem) {
    return solution_lengths(problem) + Lengths{2};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    const Given given = given_of(in);
    const Newton newton(call.problem(), call.options, given.data);
    const auto [point, steps] = newton.run(given.solution, call.steps, call.patience);
    std::copy(point.x.begin(), point.x.end(), out[0]);
    std::copy(point.y.begin(), point.y.end(), out[1]);
    std::copy(point.s.begin(), point.s.end(), out[2]);
    out[3][0] = point.error;
    out[3][1] = steps;
  }
};

// (P, A, q, b) -> (x, y, s)
struct Central {
  static Lengths in(const Problem& problem) { return data_lengths(problem); }
  static Lengths out(const Problem& problem) { return solution_lengths(problem); }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    central_point(call.problem(), call.options, {in[0], in[1], in[2], in[3]},
                  {out[0], out[1], out[2]});
  }
};

// (P, A, q, b, x, y, s, (there is a start, it is exact), free) -> (x, y, s, (error, status,
// steps)). The multipliers of rows that are not zero in `free` have any sign.
struct Minimise {
  static Lengths in(const Problem& problem) {
    return given_lengths(problem) + Lengths{2, problem.m};
  }
  static Lengths out(const Problem& problem) {
    return solution_lengths(problem) + Lengths{3};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    const Given given = given_of(in);
    Proximal proximal(call.problem(), call.options.epsilon, given.data, in[8]);
    const bool begins = in[7][0] != 0, known = in[7][1] != 0;
    const auto found =
        proximal.minimise(begins ? &given.solution : nullptr, known, call.steps);
    std::copy(found.x.begin(), found.x.end(), out[0]);
    std::copy(found.y.begin(), found.y.end(), out[1]);
    std::copy(found.s.begin(), found.s.end(), out[2]);
    out[3][0] = found.error;
    out[3][1] = found.status;
    out[3][2] = found.steps;
  }
};

// Candidates as arrays: x, y, s and (whether a better one is looked for, status, steps,
// error).
struct Candidates {
  static Lengths lengths(const Problem& problem) {
    return solution_lengths(problem) + Lengths{4};
  }
  static Search search(const Call& call, const Inputs& in) {
    const Polishing polishing{call.options, call.corrections, call.patience};
    return {call.problem(), polishing, {in[0], in[1], in[2], in[3]}};
  }
  static void write(const Candidate& from, const Outputs& out) {
    std::copy(from.x.begin(), from.x.end(), out[0]);
    std::copy(from.y.begin(), from.y.end(), out[1]);
    std::copy(from.s.begin(), from.s.end(), out[2]);
    out[3][0] = !from.settled();
    out[3][1] = from.status;
    out[3][2] = from.steps;
    out[3][3] = from.error;
  }
};

// (P, A, q, b, x, y, s, (there is a start,)) -> a candidate, by the proximal method; or if
// it has no steps, what there is before another solver is asked
struct Find {
  static Lengths in(const Problem& problem) { return given_lengths(problem) + Lengths{1}; }
  static Lengths out(const Problem& problem) { return Candidates::lengths(problem); }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    const Solution<const double> start{in[4], in[5], in[6]};
    const Search search = Candidates::search(call, in);
    Candidate found = call.steps == 0
                          ? search.before()
                          : search.first(*in[7] != 0 ? &start : nullptr, call.steps);
    search.restore(found);
    Candidates::write(found, out);
  }
};

// (P, A, q, b, a candidate, and x, y, s, (status,), (steps,) by another solver, in units of
// the problem's own) -> the better one
struct Improve {
  static Lengths in(const Problem& problem) {
    return data_lengths(problem) + Candidates::lengths(problem) +
           solution_lengths(problem) + Lengths{1, 1};
  }
  static Lengths out(const Problem& problem) { return Candidates::lengths(problem); }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    const Lengths lengths = Candidates::lengths(call.problem());
    const double* report = in[7];
    if (report[0] != 0) {
      const Search search = Candidates::search(call, in);
      const auto part = [&](int k) {
        return std::vector<double>(in[8 + k], in[8 + k] + lengths[k]);
      };
      Candidate other = search.polished({part(0), part(1), part(2), static_cast<int>(*in[11]),
                                         static_cast<int>(*in[12]), 0});
      search.restore(other);
      if (other.settled() || !(report[3] <= other.error))
        return Candidates::write(other, out);
    }
    for (size_t k = 0; k < out.size(); ++k)
      std::copy(in[4 + k], in[4 + k] + lengths[k], out[k]);
  }
};

// (A, b, a point inside of K) -> (t, (whether it is known to be the smallest one, steps))
struct Shift {
  static Lengths in(const Problem& problem) {
    return {static_cast<int64_t>(problem.A.count()), problem.m, problem.m};
  }
  static Lengths out(const Problem& problem) { return {problem.m, 2}; }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    LeastShift least(call.problem(), call.options.epsilon, in[0], in[1], in[2]);
    const auto found = least.run(call.steps);
    std::copy(found.t.begin(), found.t.end(), out[0]);
    out[1][0] = found.known;
    out[1][1] = found.steps;
  }
};

// (P, A, q, b) -> (P, A, q, b, cols, rows, (unit,)), in units of its own
struct Equilibrate {
  static Lengths in(const Problem& problem) { return data_lengths(problem); }
  static Lengths out(const Problem& problem) {
    return data_lengths(problem) + Lengths{problem.n, problem.m, 1};
  }
  static void run(const Call& call, const Inputs& in, const Outputs& out) {
    const Data<const double> data{in[0], in[1], in[2], in[3]};
    const Scaling scaling = equilibrate(call.problem(), data);
    scaling.scale(call.problem(), data, {out[0], out[1], out[2], out[3]});
    std::copy(scaling.cols.begin(), scaling.cols.end(), out[4]);
    std::copy(scaling.rows.begin(), scaling.rows.end(), out[5]);
    *out[6] = scaling.unit;
  }
};

// One array of a call: numbers, or pairs of 32-bit words that are doubles.
class Array {
 public:
  Array(const ffi::AnyBuffer& buffer, int64_t length, ffi::Span<const int64_t> batch)
      : buffer_(buffer), length_(length), words_(buffer.element_type() == ffi::U32) {
    const auto dims = buffer.dimensions();
    fits_ = dims.size() == batch.size() && dims.size() > 0 &&
            dims[dims.size() - 1] == (words_ ? 2 * length : length) &&
            (words_ || real(buffer)) &&
            reinterpret_cast<uintptr_t>(buffer.untyped_data()) % alignof(double) == 0;
    for (size_t axis = 0; fits_ && axis + 1 < dims.size(); ++axis)
      fits_ = dims[axis] == batch[axis] || dims[axis] == 1;
  }

  bool fits() const { return fits_; }
  bool copied() const { return buffer_.element_type() == ffi::F32; }

  // The numbers of an item; `copy` is where they are put if they are not doubles.
  double* data(int64_t offset, std::vector<double>& copy) const {
    if (words_) return reinterpret_cast<double*>(buffer_.typed_data<uint32_t>()) + offset / 2;
    if (!copied()) return buffer_.typed_data<double>() + offset;
    const float* from = buffer_.typed_data<float>() + offset;
    copy.assign(from, from + length_);
    return copy.data();
  }

  void write(const std::vector<double>& copy, int64_t offset) const {
    float* to = buffer_.typed_data<float>() + offset;
    for (int64_t k = 0; k < length_; ++k) to[k] = static_cast<float>(copy[k]);
  }

 private:
  ffi::AnyBuffer buffer_;
  int64_t length_;
  bool words_, fits_;
};

template <typename Computation>
ffi::Error compute(ffi::ThreadPool pool, Call* call, ffi::RemainingArgs args,
                   ffi::RemainingRets rets, ffi::Dictionary) {
  const Problem& problem = call->problem();
  const Lengths in = Computation::in(problem), out = Computation::out(problem);
  const auto misfit = [](const char* kind, size_t k) {
    return ffi::Error::InvalidArgument(std::string(kind) + " " + std::to_string(k) +
                                       " does not fit the structure");
  };
  if (args.size() != in.size()) return misfit("the number of arguments,", args.size());
  if (rets.size() != out.size()) return misfit("the number of results,", rets.size());
  const ffi::AnyBuffer first = **rets.get<ffi::AnyBuffer>(0);
  const auto batch = first.dimensions();
  std::vector<Array> inputs, outputs;
  std::vector<Batch> places, targets;
  for (size_t k = 0; k < in.size(); ++k) {
    const ffi::AnyBuffer buffer = *args.get<ffi::AnyBuffer>(k);
    inputs.emplace_back(buffer, in[k], batch);
    if (!inputs.back().fits()) return misfit("argument", k);
    places.emplace_back(buffer.dimensions(), batch);
  }
  for (size_t k = 0; k < out.size(); ++k) {
    const ffi::AnyBuffer buffer = **rets.get<ffi::AnyBuffer>(k);
    prefer_huge_pages(buffer.untyped_data(), buffer.size_bytes());
    outputs.emplace_back(buffer, out[k], batch);
    if (!outputs.back().fits()) return misfit("result", k);
    targets.emplace_back(buffer.dimensions(), batch);
  }
  parallel(pool, items(batch), [&](int64_t item) {
    std::vector<std::vector<double>> copies(in.size() + out.size());
    Inputs from(in.size());
    Outputs to(out.size());
    for (size_t k = 0; k < in.size(); ++k)
      from[k] = inputs[k].data(places[k](item), copies[k]);
    for (size_t k = 0; k < out.size(); ++k)
      to[k] = outputs[k].data(targets[k](item), copies[in.size() + k]);
    Computation::run(*call, from, to);
    for (size_t k = 0; k < out.size(); ++k)
      if (outputs[k].copied()) outputs[k].write(copies[in.size() + k], targets[k](item));
  });
  return ffi::Error::Success();
}

inline auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Ctx<ffi::State<Call>>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

XLA_FFI_DEFINE_HANDLER(kInstantiate, instantiate, ffi::Ffi::BindInstantiate().Attrs());
XLA_FFI_DEFINE_HANDLER(kVjp, Guarded<compute<Vjp>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kJvp, Guarded<compute<Jvp>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kLinearise, Guarded<compute<Linearise>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kSolve, Guarded<compute<Solve>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kNewton, Guarded<compute<Polish>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kCentral, Guarded<compute<Central>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kMinimise, Guarded<compute<Minimise>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kFind, Guarded<compute<Find>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kImprove, Guarded<compute<Improve>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kShift, Guarded<compute<Shift>>::call, binding());
XLA_FFI_DEFINE_HANDLER(kEquilibrate, Guarded<compute<Equilibrate>>::call, binding());

}  // namespace diffqcp::traced
