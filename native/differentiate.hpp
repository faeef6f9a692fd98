// Whole derivatives of a QCP at a solution, after Newton steps as long as they help: what
// the Python module diffqcp._differentiate computes with JAX, with the same steps and the
// same tests.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "linearised.hpp"

namespace diffqcp {

// How many numbers the arrays of a call have.
inline std::vector<int64_t> data_lengths(const Problem& problem) {
  return {static_cast<int64_t>(problem.P.count()), static_cast<int64_t>(problem.A.count()),
          problem.n, problem.m};
}

inline std::vector<int64_t> solution_lengths(const Problem& problem) {
  return {problem.n, problem.m, problem.m};
}

inline std::vector<int64_t> given_lengths(const Problem& problem) {
  std::vector<int64_t> lengths = data_lengths(problem);
  for (int64_t length : solution_lengths(problem)) lengths.push_back(length);
  return lengths;
}

template <typename Arrays>
Given given_of(const Arrays& arrays) {
  return {{arrays[0], arrays[1], arrays[2], arrays[3]}, {arrays[4], arrays[5], arrays[6]}};
}

// The arrays that the state of a derivative consists of: lam, the frames, K, its factor.
inline std::vector<int64_t> state_lengths(const Problem& problem, bool eliminates) {
  const Pattern K = problem.pattern();
  return {problem.m, problem.cone.frame, K.entries,
          Factor::size(K, factor_room(problem, eliminates))};
}

// How a derivative came about: see the Python class Progress.
struct Report {
  bool solved;
  double error;
};

// The differentiation of one QCP. It is used once.
class Differentiation {
 public:
  Differentiation(const Problem& problem, const Options& options, bool polish,
                  double smoothing, const Given& given)
      : problem_(problem), options_(options), polish_(polish && smoothing == 0),
        smoothing_(smoothing), given_(given),
        x_(given.solution.x, given.solution.x + problem.n),
        y_(given.solution.y, given.solution.y + problem.m),
        s_(given.solution.s, given.solution.s + problem.m) {}

  Report vjp(const Solution<const double>& cotangent, const Data<double>& out) {
    Report report;
    std::optional<Answer> answer;
    // Neither right-hand side needs the solution of the other, and the first point is
    // usually the last one, but for curved cones. Where two are no cheaper than one after
    // the other, the cotangent waits for the last point.
    const bool flat = problem_.zero + problem_.rays == problem_.m;
    const auto adjoint = [&](Linearised& point) {
      return adjoint_system(problem_, point.A.data(), cotangent);
    };
    const auto solve = [&](Linearised& point, double enough) {
      answer.reset();
      if (!flat || !point.takes_two()) return newton_step(point, enough);
      const std::vector<double> upper = adjoint(point);
      const auto [newton_upper, newton_dual] = point.newton();
      auto [own, step] = point.system().solve_both(
          upper.data(), cotangent.y, newton_upper.data(), newton_dual.data());
      answer = std::move(own);
      return std::move(step);
    };
    const auto [point, stepped] = settle(solve, &report);
    if (!stepped || !answer) answer = point->solve(adjoint(*point).data(), cotangent.y);
    report.solved = answer->solved;
    pull_back(problem_, x_.data(), y_.data(), cotangent, *answer, out);
    return report;
  }

  Report jvp(const Data<const double>& change, const Solution<double>& out) {
    Report report;
    const auto point = settle(newton_step, &report).first;
    report.solved = push_forward(problem_, *point, point->A.data(), x_.data(),
                                 y_.data(), change, out);
    return report;
  }

  // The point where the derivative is taken.
  std::unique_ptr<Linearised> linearise(Report* report) {
    return settle(newton_step, report).first;
  }

  // The solution there.
  const std::vector<double>& x() const { return x_; }
  const std::vector<double>& y() const { return y_; }

 private:
  static constexpr int kMostRepeats = 10;

  static Answer newton_step(Linearised& point, double enough) {
    const auto [upper, dual] = point.newton();
    return point.solve(upper.data(), dual.data(), enough);
  }

  // The relative error of a step that leaves rounding errors of a residual, with a margin
  // for steps that are large beside it.
  double enough(double residual) const {
    return std::min(1e-6, 1e-2 * options_.epsilon / residual);
  }

  // Newton steps, as long as they improve the solution: the last point, and whether a step
  // has been computed there. `solve` returns the step at a point, with the relative error
  // that is enough. Later points borrow the factors of the first one if these will do, so
  // that a solution of usual accuracy takes one factorisation.
  template <typename Solve>
  std::pair<std::unique_ptr<Linearised>, bool> settle(const Solve& solve, Report* report) {
    Spectral next;
    next.lam.resize(problem_.m);
    next.frames.resize(problem_.cone.frame);
    std::unique_ptr<Linearised> point;
    for (int repeat = 0;; ++repeat) {
      point = std::make_unique<Linearised>(problem_, options_, smoothing_, given_, x_, y_, s_,
                                           repeat == 0 ? nullptr : &next, point.get());
      *report = {true, 0};
      if (!polish_) {
        // The solution as it is given, but for rows without a bound.
        for (Index k = problem_.zero; k < problem_.zero + problem_.rays; ++k)
          if (std::isinf(given_.data.b[k])) y_[k] = 0;
        return {std::move(point), false};
      }
      report->error = error_of(*point, point->products, point->y, point->s);
      if (report->error <= exact()) {
        x_ = point->x;
        y_ = point->y;
        s_ = point->s;
        return {std::move(point), false};
      }
      const Answer step = solve(*point, enough(report->error));
      report->solved = step.solved;
      const bool last = repeat == kMostRepeats;
      if (!improve(*point, step, last, next, &report->error))
        return {std::move(point), true};
    }
  }

  // A residual of rounding errors.
  double exact() const { return 100 * options_.epsilon; }

  // The best solution whose D is that of `point`, after a Newton step. Unless this is the
  // last one, whether the step leads to a better one, where the derivative is to be taken
  // instead, with `next` for D. `error` is the residual of `point`, and becomes that of the
  // solution.
  bool improve(const Linearised& point, const Answer& step, bool last, Spectral& next,
               double* error) {
    std::vector<double> v(problem_.m), moved_x = point.x, moved_s(problem_.m);
    for (Index k = 0; k < problem_.m; ++k)
      v[k] = point.y[k] + step.u[k] - point.s[k] + point.primal[k];
    problem_.A.add_product(point.A.data(), step.w.data(), v.data());
    problem_.cone.jacobian(v.data(), 0, next.lam.data(), next.frames.data());
    std::vector<double> moved_y =
        projection(problem_, {next.lam.data(), next.frames.data()}, v.data());
    for (Index k = 0; k < problem_.m; ++k) moved_s[k] = moved_y[k] - v[k];
    for (Index j = 0; j < problem_.n; ++j) moved_x[j] += step.w[j];

    const double before = *error;
    const double after =
        error_of(point, point.multiply(moved_x, moved_y), moved_y, moved_s);
    const bool better = after < before;
    const bool again = better && !kept(point, moved_y, moved_s) && !wild(point, v);
    const bool taken = better && !(again && last);
    x_ = taken ? std::move(moved_x) : point.x;
    y_ = taken ? std::move(moved_y) : point.y;
    s_ = taken ? std::move(moved_s) : point.s;
    if (taken) *error = after;
    return again && !last;
  }

  // Whether D stays the same: in zero and nonnegative cones it depends on signs only.
  bool kept(const Linearised& point, const std::vector<double>& y,
            const std::vector<double>& s) const {
    if (problem_.zero + problem_.rays != problem_.m) return false;
    for (Index k = 0; k < problem_.m; ++k)
      if ((y[k] > s[k]) != (point.y[k] > point.s[k])) return false;
    return true;
  }

  // In other cones a v that moves by more than a tenth is one of rounding errors, at a
  // kink, where the new D would be no better than the old one.
  bool wild(const Linearised& point, const std::vector<double>& v) const {
    Index start = problem_.zero + problem_.rays;
    for (Index length : problem_.lengths) {
      double largest = 0, change = 0;
      for (Index k = start; k < start + length; ++k) {
        const double old = point.y[k] - point.s[k];
        largest = std::max(largest, std::abs(old));
        change = std::max(change, std::abs(v[k] - old));
      }
      if (change > 0.1 * largest) return true;
      start += length;
    }
    return false;
  }

  // The largest residual over the largest term: the Python function relative_error. The
  // products are those with x and y.
  double error_of(const Linearised& point, const Linearised::Products& products,
                  const std::vector<double>& y, const std::vector<double>& s) const {
    double size = 0, residual = 0, poison = 0;
    const auto grow = [](double& largest, double value) {
      largest = std::max(largest, std::abs(value));
    };
    const auto end = [&](double value) {
      grow(residual, value);
      poison += 0 * value;
    };
    const auto& [Px, pulled, Ax] = products;
    for (Index j = 0; j < problem_.n; ++j) {
      const double q = given_.data.q[j];
      for (double term : {Px[j], pulled[j], q}) grow(size, term);
      end(Px[j] + pulled[j] + q);
    }
    for (Index k = 0; k < problem_.m; ++k) {
      grow(size, Ax[k]);
      // Where a constraint is not active, b and s may be as large as one likes.
      if (y[k] != 0) {
        grow(size, point.b[k]);
        grow(size, s[k]);
      }
      end(Ax[k] + s[k] - point.b[k]);
    }
    return (residual == 0 ? 0 : residual / (size > 0 ? size : 1)) + poison;
  }

  const Problem& problem_;
  Options options_;
  bool polish_;
  double smoothing_;
  Given given_;
  std::vector<double> x_, y_, s_;
};

}  // namespace diffqcp
