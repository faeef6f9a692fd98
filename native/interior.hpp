// Mehrotra's predictor-corrector method for equations and rays: what the Python module
// diffqcp.forward._interior does with JAX, with the same steps. The mathematics is described
// there.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accuracy.hpp"
#include "quasidefinite.hpp"

namespace diffqcp {

class Interior {
 public:
  std::vector<double> x, y, s;
  double mu = 0;  // the mean of y_k s_k

  static bool takes(const Problem& problem) {
    return problem.lengths.empty() && problem.cone.rows.empty();
  }

  // `free` is not zero for rays whose multipliers have any sign; `sigma` is the proximal term
  // of x, and the largest one of y.
  Interior(const Problem& problem, const Data<const double>& data, const double* free,
           double epsilon, double sigma)
      : x(problem.n), y(problem.m), s(problem.m), problem_(problem), data_(data),
        D_(problem), ray_(problem.m), accurate_(std::pow(epsilon, 0.4)), sigma_(sigma),
        delta_(std::pow(epsilon, 0.64)), upper_(problem.n), lower_(problem.m),
        dual_(problem.n), primal_(problem.m), aim_(problem.m), u_(problem.m), d_(problem) {
    for (Index k = problem.zero; k < problem.zero + problem.rays; ++k)
      count_ += ray_[k] = free[k] == 0;
  }

  void begin(Quasidefinite& system) {
    for (Index k = 0; k < problem_.m; ++k) D_.lam[k] = shifted(ray_[k] ? 0.5 : 1);
    for (Index j = 0; j < problem_.n; ++j) upper_[j] = -data_.q[j];
    lower_.assign(data_.b, data_.b + problem_.m);
    system.solve(D_, sigma_, upper_, lower_, x, y);
    problem_.A.multiply(data_.A, x, s);
    for (Index k = 0; k < problem_.m; ++k) s[k] = ray_[k] ? data_.b[k] - s[k] : 0;
    make_positive(y);
    make_positive(s);
    mu = mean();
  }

  // A step; or none, but a larger proximal term, where rounding errors are too large.
  void step(Quasidefinite& system) {
    constexpr double inside = 0.995;
    problem_.multiply_P(data_.P, x, dual_);
    problem_.A.multiply_transposed(data_.A, y, upper_);
    for (Index j = 0; j < problem_.n; ++j) dual_[j] += upper_[j] + data_.q[j];
    problem_.A.multiply(data_.A, x, primal_);
    for (Index k = 0; k < problem_.m; ++k) {
      primal_[k] += s[k] - data_.b[k];
      D_.lam[k] = shifted(ray_[k] ? y[k] / (y[k] + s[k]) : 1);
      aim_[k] = y[k] * s[k];
    }
    find_direction(system);
    const bool exact = all_finite(d_.x) && system.residual() <= accurate_;
    if (!exact && delta_ < sigma_) {
      delta_ = sigma_;
      return;
    }
    const double length = std::min(1.0, longest());
    const double share = mu > 0 ? mean(length) / mu : 0, centring = share * share * share;
    for (Index k = 0; k < problem_.m; ++k)
      if (ray_[k]) aim_[k] += d_.y[k] * d_.s[k] - centring * mu;
    find_direction(system);
    move(std::min(1.0, inside * longest()));
    mu = mean();
  }

 private:
  struct Direction {
    std::vector<double> x, y, s;

    explicit Direction(const Problem& problem)
        : x(problem.n), y(problem.m), s(problem.m) {}
  };

  double shifted(double lam) const { return lam / (1 + delta_ * lam); }

  void make_positive(std::vector<double>& vector) const {
    double lowest = std::numeric_limits<double>::infinity();
    for (Index k = 0; k < problem_.m; ++k)
      if (ray_[k]) lowest = std::min(lowest, vector[k]);
    if (lowest > 0) return;
    for (Index k = 0; k < problem_.m; ++k)
      if (ray_[k]) vector[k] += 1 - lowest;
  }

  // d_ becomes the Newton direction with y ds + s dy = -aim.
  void find_direction(Quasidefinite& system) {
    std::vector<double>& pull = d_.s;
    for (Index k = 0; k < problem_.m; ++k) {
      pull[k] = ray_[k] ? -aim_[k] / (y[k] + s[k]) : 0;
      lower_[k] = -primal_[k] - (1 - delta_) * pull[k];
    }
    problem_.A.multiply_transposed(data_.A, pull, upper_);
    for (Index j = 0; j < problem_.n; ++j) upper_[j] = -dual_[j] - upper_[j];
    system.solve(D_, sigma_, upper_, lower_, d_.x, u_);
    for (Index k = 0; k < problem_.m; ++k) d_.y[k] = u_[k] + pull[k];
    problem_.A.multiply(data_.A, d_.x, d_.s);
    for (Index k = 0; k < problem_.m; ++k)
      d_.s[k] = ray_[k] ? delta_ * d_.y[k] - primal_[k] - d_.s[k] : 0;
  }

  // The longest step that leaves y and s positive.
  double longest() const {
    double length = std::numeric_limits<double>::infinity();
    for (Index k = 0; k < problem_.m; ++k) {
      if (!ray_[k]) continue;
      if (d_.y[k] < 0) length = std::min(length, -y[k] / d_.y[k]);
      if (d_.s[k] < 0) length = std::min(length, -s[k] / d_.s[k]);
    }
    return length;
  }

  // That of y_k s_k after a step of this length.
  double mean(double length = 0) const {
    double sum = 0;
    for (Index k = 0; k < problem_.m; ++k)
      sum += (y[k] + length * d_.y[k]) * (s[k] + length * d_.s[k]);
    return sum / std::max<Index>(count_, 1);
  }

  void move(double length) {
    for (Index j = 0; j < problem_.n; ++j) x[j] += length * d_.x[j];
    for (Index k = 0; k < problem_.m; ++k) {
      y[k] += length * d_.y[k];
      s[k] += length * d_.s[k];
    }
  }

  const Problem& problem_;
  Data<const double> data_;
  Spectral D_;
  std::vector<char> ray_;
  Index count_ = 0;
  double accurate_, sigma_, delta_;
  std::vector<double> upper_, lower_, dual_, primal_, aim_, u_;
  Direction d_;
};

}  // namespace diffqcp
