// The smallest shift of b that makes constraints satisfiable: the Python function
// least_shift in diffqcp.forward._least_shift.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "line_search.hpp"
#include "linearised.hpp"
#include "quasidefinite.hpp"

namespace diffqcp {

class LeastShift {
 public:
  // `known` says whether t is known to be the smallest one.
  struct Result {
    std::vector<double> t;
    bool known;
    int steps;
  };

  // `inside` is a point inside of K, zero in the rows of zero cones.
  LeastShift(const Problem& problem, double epsilon, const double* A, const double* b,
             const double* inside)
      : problem_(problem), epsilon_(epsilon), A_(A, A + problem.A.count()),
        b_(b, b + problem.m), nothing_(problem.P.count(), 0.0),
        inward_(inside, inside + problem.m), x_(problem.n, 0.0), Ax_(problem.m, 0.0),
        system_(problem, nothing_.data(), A_.data()) {
    std::vector<double> cols(problem.n, 0.0);
    for (size_t k = 0; k < A_.size(); ++k)
      cols[problem.A.cols[k]] = std::max(cols[problem.A.cols[k]], std::abs(A_[k]));
    for (double& size : cols)
      if (size == 0) size = 1;
    for (size_t k = 0; k < A_.size(); ++k) A_[k] /= cols[problem.A.cols[k]];
    unit_ = largest(b_) > 0 ? largest(b_) : 1;
    for (double& entry : b_) entry /= unit_;
    for (double& entry : inward_) entry *= small();
  }

  Result run(int max_steps) {
    std::vector<double> t = b_, gradient(problem_.n);
    double last = std::numeric_limits<double>::infinity();
    bool done = false, finite = true;
    int steps = 0;
    for (; finite && !done && steps < max_steps; ++steps) {
      const double length = step(t, gradient);
      const double size = largest(gradient), floor = 10 * epsilon_ * (1 + largest(x_));
      done = size <= floor || largest(t) <= floor;
      // At the level of rounding errors no step improves any more.
      done = done || (size > 0.5 * last && last <= kStalled * floor);
      done = done || length <= epsilon_ * largest(x_);
      last = size;
      finite = all_finite(t) && all_finite(gradient);
    }
    Result result = conclude(std::move(t), gradient, done, steps);
    result.known = result.known && finite;
    return result;
  }

 private:
  static constexpr double kNoise = 1e4, kProven = 1e3, kStalled = 100;

  double small() const { return std::pow(epsilon_, 0.45); }

  // A Newton step: x_ and its products, t and the gradient become the new ones. Returns its
  // length.
  double step(std::vector<double>& t, std::vector<double>& gradient) {
    const Index n = problem_.n, m = problem_.m;
    std::vector<double> place = Ax_, inner(m);
    for (Index k = 0; k < m; ++k) {
      place[k] -= b_[k];
      inner[k] = place[k] + inward_[k];
    }
    problem_.cone.project(place.data(), t.data());
    std::vector<double> own(n), upper(n), d, u, Ad(m);
    problem_.A.multiply_transposed(A_.data(), t, own);
    for (Index j = 0; j < n; ++j) upper[j] = -own[j];
    // Constraints that the last step has satisfied are at zero up to rounding errors. Those
    // that the next one would violate again at once are to count as active, and so all of
    // them do: otherwise many steps are taken to and fro.
    Spectral D(problem_);
    problem_.cone.jacobian(inner.data(), 0, D.lam.data(), D.frames.data());
    for (double& lam : D.lam) lam /= 1 + lam;
    system_.solve(D, small(), upper, std::vector<double>(m, 0.0), d, u);
    if (!(all_finite(d) && dot(own, d) < 0)) d = upper;
    const double first = dot(own, d);
    problem_.A.multiply(A_.data(), d, Ad);
    const Slope slope{first - dot(t, Ad), small() * dot(d, d), first, Ad};
    Stepped end(problem_);
    const auto project = [&](const std::vector<double>& z, std::vector<double>& y) {
      problem_.cone.project(z.data(), y.data());
    };
    line_search(slope, place, Ad, false, project, end);
    for (Index j = 0; j < n; ++j) x_[j] += end.length * d[j];
    problem_.A.multiply(A_.data(), x_, Ax_);
    t = std::move(end.y);
    problem_.A.multiply_transposed(A_.data(), t, gradient);
    return end.length * largest(d);
  }

  // Blocks of t that are rounding errors are zero.
  Result conclude(std::vector<double> t, const std::vector<double>& gradient, bool solved,
                  int steps) const {
    const double size = 1 + largest(x_), noise = kNoise * epsilon_ * size;
    const bool tiny = largest(t) <= noise;
    const bool proven = dot(t, t) >= kProven * sum_of_sizes(gradient) * size && solved;
    const auto clean = [&](Index start, Index length) {
      const bool keep = !tiny && largest(t.data() + start, length) > noise;
      for (Index k = start; k < start + length; ++k) t[k] = keep ? unit_ * t[k] : 0;
    };
    Index start = problem_.zero + problem_.rays;
    for (Index k = 0; k < start; ++k) clean(k, 1);
    for (Index length : problem_.lengths) {
      clean(start, length);
      start += length;
    }
    return {std::move(t), tiny || proven, steps};
  }

  const Problem& problem_;
  double epsilon_, unit_ = 1;
  std::vector<double> A_, b_, nothing_, inward_, x_, Ax_;
  Quasidefinite system_;
};

}  // namespace diffqcp
