// The forward pass of a solve by the proximal method: what the Python module diffqcp._search
// does with JAX, with the same steps and the same tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "newton.hpp"
#include "proximal.hpp"
#include "room.hpp"
#include "units.hpp"

namespace diffqcp {

// A point, how it was found, and its error.
struct Candidate {
  std::vector<double> x, y, s;
  int status, steps;
  double error;

  // Whether no better one is looked for.
  bool settled() const {
    return status == kSolved || status == kInfeasible || status == kUnbounded ||
           status == kNotFinite || status == kNotConvex;
  }
};

// How Newton's method is used.
struct Polishing {
  Options options;
  int steps, patience;
};

// One problem, given in any units. Candidates are in its own, until they are restored.
class Search {
 public:
  Search(const Problem& problem, const Polishing& polishing, const Data<const double>& data)
      : problem_(problem), polishing_(polishing), given_(data), P_(problem.P.count()),
        A_(problem.A.count()), q_(problem.n), b_(problem.m),
        units_(equilibrate(problem, data)) {
    units_.scale(problem, data, {P_.data(), A_.data(), q_.data(), b_.data()});
  }

  // What there is before another solver is asked: a verdict, or nothing.
  Candidate before() const {
    if (!is_finite()) return none(kNotFinite);
    if (!is_convex()) return none(kNotConvex);
    return none(kIterationLimit, 0, std::numeric_limits<double>::infinity());
  }

  // What the proximal method finds, from `start` or from zero.
  Candidate first(const Solution<const double>* start, int max_steps) const {
    if (!is_finite()) return none(kNotFinite);
    const std::vector<double> bound(problem_.m, 0.0);
    Proximal proximal(problem_, polishing_.options.epsilon, own(), bound.data());
    if (!proximal.definite() && !is_convex()) return none(kNotConvex);
    std::vector<double> x, y, s;
    if (start != nullptr) {
      x.assign(start->x, start->x + problem_.n);
      y.assign(start->y, start->y + problem_.m);
      s.assign(start->s, start->s + problem_.m);
      units_.scale(x, y, s);
    }
    const Solution<const double> scaled{x.data(), y.data(), s.data()};
    auto found = proximal.minimise(start == nullptr ? nullptr : &scaled, false, max_steps);
    return polished({std::move(found.x), std::move(found.y), std::move(found.s),
                     found.status, found.steps, 0});
  }

  // The candidate after Newton steps as long as they improve it, and the status that its
  // error implies. Without any, its own status is taken.
  Candidate polished(Candidate found) const {
    if (polishing_.steps == 0) return found;
    const Options& options = polishing_.options;
    auto [point, steps] =
        Newton(problem_, options, own())
            .run({found.x.data(), found.y.data(), found.s.data()}, polishing_.steps,
                 polishing_.patience);
    int status = found.status == kSolved ? kInaccurate : found.status;
    if (point.error <= accurate_error(options.epsilon)) status = kSolved;
    return {std::move(point.x), std::move(point.y), std::move(point.s),
            status, found.steps, point.error};
  }

  // The point in the units of the data; NaN where it is no solution.
  void restore(Candidate& candidate) const {
    if (candidate.status == kSolved || candidate.status == kInaccurate)
      units_.restore(candidate.x, candidate.y, candidate.s);
    else
      candidate = none(candidate.status, candidate.steps, candidate.error);
  }

 private:
  Data<const double> own() const { return {P_.data(), A_.data(), q_.data(), b_.data()}; }

  bool is_finite() const {
    const auto finite = [](const double* part, size_t count) {
      return std::all_of(part, part + count, [](double x) { return std::isfinite(x); });
    };
    return finite(given_.P, P_.size()) && finite(given_.A, A_.size()) &&
           finite(given_.q, q_.size()) && finite(given_.b, b_.size());
  }

  bool is_convex() const {
    const double epsilon = polishing_.options.epsilon;
    return problem_.curvature().is_convex(P_.data(), epsilon, problem_.lapack.gemm);
  }

  Candidate none(int status, int steps = 0, double error = 0) const {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    const std::vector<double> x(problem_.n, nan), y(problem_.m, nan);
    return {x, y, y, status, steps, error};
  }

  const Problem& problem_;
  Polishing polishing_;
  Data<const double> given_;
  Room P_, A_, q_, b_;  // in units of its own
  Scaling units_;
};

}  // namespace diffqcp
