// The proximal method of multipliers: what the Python module diffqcp.forward._proximal does
// with JAX, with the same steps and the same tests. The mathematics is described there.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "interior.hpp"
#include "line_search.hpp"
#include "linearised.hpp"
#include "quasidefinite.hpp"

namespace diffqcp {

// Those of the Python class Status that a solve ends with.
enum Status {
  kSolved = 0, kInfeasible = 1, kUnbounded = 2, kIterationLimit = 3, kNumericalTrouble = 4,
  kNotFinite = 5, kInaccurate = 6, kNotConvex = 7, kRunning = -1
};

// K*, in which the multipliers of some nonnegative rows, those that are not zero in `free`,
// have any sign: the dual of a face of K.
class DualFace {
 public:
  DualFace(const Problem& problem, const double* free) : problem_(problem) {
    for (Index k = 0; k < problem.m; ++k) {
      const Index row = problem.cone.rows.empty() ? k : problem.cone.rows[k];
      const bool ray = problem.zero <= row && row < problem.zero + problem.rays;
      if (ray && free[row] != 0) free_.push_back({k, row});
    }
  }

  void project(const std::vector<double>& v, std::vector<double>& y) const {
    problem_.cone.project(v.data(), y.data());
    for (const auto& [coordinate, row] : free_) y[row] = v[row];
  }

  void jacobian(const std::vector<double>& v, Spectral& D) const {
    problem_.cone.jacobian(v.data(), 0, D.lam.data(), D.frames.data());
    for (const auto& [coordinate, row] : free_) D.lam[coordinate] = 1;
  }

 private:
  const Problem& problem_;
  std::vector<std::pair<Index, Index>> free_;
};

class Proximal {
 public:
  struct Result {
    std::vector<double> x, y, s;
    double error;
    int status, steps;
  };

  Proximal(const Problem& problem, double epsilon, const Data<const double>& data,
           const double* free)
      : problem_(problem), epsilon_(epsilon), data_(data), cone_(problem, free),
        system_(problem, data.P, data.A),
        interior_(problem, data, free, epsilon, nearby()), point_(problem), next_(problem),
        outer_(problem), before_(problem), place_(problem.m), D_(problem),
        gradient_(problem.n), upper_(problem.n), lower_(problem.m), path_(problem.m),
        d_(problem.n), dy_(problem.m), Ad_(problem.m), Pd_(problem.n), end_(problem) {
    system_.eliminate(nearby());
  }

  // Whether P is known to be positive definite.
  bool definite() const { return system_.definite(); }

  // From `start`, or from zero if that is null. `known` says that it is the solution.
  Result minimise(const Solution<const double>* start, bool known, int max_steps) {
    begin(start);
    best_ = point_;
    status_ = known || point_.error <= exact() ? kSolved : kRunning;
    int steps = 0;
    const bool inside_first = start == nullptr && problem_.P.count() == 0;
    const int patience = inside_first ? 0 : kPatience;
    for (; status_ == kRunning && steps < max_steps; ++steps) {
      if (steps == patience && Interior::takes(problem_)) enter();
      const bool inside = inside_ > 0 && !polishing_;
      if (inside)
        follow();
      else
        step();
      if (next_.error < best_.error) best_ = next_;
      if (polishing_)
        polished();
      else if (inside)
        followed(start);
      else
        descended();
    }
    int status = status_ == kRunning ? kIterationLimit : status_;
    const bool open = status == kIterationLimit || status == kNumericalTrouble;
    if (open && best_.error <= accurate_error(epsilon_)) status = kSolved;
    Result found{best_.x, best_.y, best_.y, best_.error, status, steps};
    for (Index k = 0; k < problem_.m; ++k) found.s[k] -= best_.v[k];
    return found;
  }

 private:
  static constexpr double kEqualities = 100, kRho = 10, kSigma = 1e-2;
  static constexpr double kSlow = 0.25, kFaster = 3, kLargest = 1e6;
  static constexpr double kCloser = 0.3, kSmallest = 1e-7, kWidest = 1, kNear = 0.1;
  static constexpr int kMany = 8, kMostInner = 30;
  static constexpr double kClose = 1e-4, kCloserStill = 0.1;
  static constexpr int kPatience = 8, kMostInside = 100;

  // v is y - s.
  struct Iterate {
    std::vector<double> x, y, v;
    double error = 0;
  };

  // With its products and its residuals.
  struct Point : Iterate {
    std::vector<double> Px, Ax, dual, primal;

    explicit Point(const Problem& problem)
        : Iterate{std::vector<double>(problem.n), std::vector<double>(problem.m),
                  std::vector<double>(problem.m)},
          Px(problem.n), Ax(problem.m), dual(problem.n), primal(problem.m) {}
  };

  double exact() const { return 100 * epsilon_; }
  double nearby() const { return std::pow(epsilon_, 0.45); }
  double rho(Index row) const { return row < problem_.zero ? kEqualities * rho_ : rho_; }

  // All of a point from x, y and v.
  void complete(Point& point) const {
    problem_.multiply_P(data_.P, point.x, point.Px);
    problem_.A.multiply(data_.A, point.x, point.Ax);
    problem_.A.multiply_transposed(data_.A, point.y, point.dual);
    for (Index j = 0; j < problem_.n; ++j)
      point.dual[j] = data_.q[j] + (point.Px[j] + point.dual[j]);
    for (Index k = 0; k < problem_.m; ++k)
      point.primal[k] = point.Ax[k] + (point.y[k] - point.v[k]) - data_.b[k];
    point.error = scaled_error(problem_, epsilon_, data_, point.x, point.y, point.v,
                               point.dual, point.primal);
  }

  void begin(const Solution<const double>* start) {
    if (start == nullptr) {
      for (Index k = 0; k < problem_.m; ++k) point_.v[k] = -data_.b[k];
    } else {
      std::copy(start->x, start->x + problem_.n, point_.x.begin());
      for (Index k = 0; k < problem_.m; ++k) point_.v[k] = start->y[k] - start->s[k];
      cone_.project(point_.v, point_.y);
    }
    complete(point_);
    if (start == nullptr) point_.error = std::numeric_limits<double>::infinity();
    outer_ = point_;
    rho_ = first_rho();
    sigma_ = system_.definite() ? nearby() : kSigma;
    tol_ = 1 + largest(data_.q, problem_.n) + largest(data_.b, problem_.m);
    last_primal_ = std::numeric_limits<double>::infinity();
    threshold_ = kNear;
    polishing_ = start != nullptr;
    inner_ = 0;
  }

  // Where constraints are far from being satisfied, a smaller penalty is large enough. For
  // equations and rays it would cost steps: where they are slow, the interior-point method
  // takes over.
  double first_rho() const {
    if (Interior::takes(problem_)) return kRho;
    std::vector<double> v(problem_.m), y(problem_.m);
    for (Index k = 0; k < problem_.m; ++k) v[k] = point_.Ax[k] - data_.b[k];
    cone_.project(v, y);
    double square = 0;
    for (Index k = problem_.zero; k < problem_.m; ++k) square += y[k] * y[k];
    return kRho / std::max(1.0, square / 2);
  }

  // next_ becomes the next point, after a step of a minimisation or of polishing.
  void step() {
    const Index n = problem_.n, m = problem_.m;
    const double near = nearby();
    for (Index k = 0; k < m; ++k)
      place_[k] = polishing_ ? outer_.v[k]
                             : outer_.y[k] + rho(k) * (point_.Ax[k] - data_.b[k]);
    cone_.jacobian(place_, D_);
    const std::vector<double> y = projection(problem_, D_.view(), place_.data());
    problem_.A.multiply_transposed(data_.A, y, gradient_);
    for (Index j = 0; j < n; ++j) {
      gradient_[j] =
          point_.Px[j] + gradient_[j] + data_.q[j] + sigma_ * (point_.x[j] - outer_.x[j]);
      upper_[j] = -gradient_[j];
    }
    for (Index k = 0; k < m; ++k)
      lower_[k] = polishing_ ? data_.b[k] - (point_.Ax[k] + y[k] - outer_.v[k]) : 0;
    // Equalities come first, in every order of the coordinates.
    for (Index k = 0; k < m; ++k) {
      double& lam = D_.lam[k];
      lam = polishing_ ? lam / (1 + near * lam) : rho(k) * lam / (1 + rho(k) * lam);
    }
    system_.solve(D_, polishing_ ? near : sigma_, upper_, lower_, d_, dy_);
    const bool downhill = all_finite(d_) && dot(gradient_, d_) < 0;
    if (!downhill && !polishing_) d_ = upper_;
    problem_.A.multiply(data_.A, d_, Ad_);
    problem_.multiply_P(data_.P, d_, Pd_);
    for (Index k = 0; k < m; ++k)
      path_[k] = polishing_ ? (1 - near) * dy_[k] - lower_[k] + Ad_[k] : rho(k) * Ad_[k];
    const double first = dot(gradient_, d_);
    const double curvature = dot(d_, Pd_) + sigma_ * dot(d_, d_);
    const Slope slope{first - dot(y, Ad_), curvature, first, Ad_};
    const auto project = [&](const std::vector<double>& from, std::vector<double>& to) {
      cone_.project(from, to);
    };
    line_search(slope, place_, path_, polishing_, project, end_);
    for (Index j = 0; j < n; ++j) next_.x[j] = point_.x[j] + end_.length * d_[j];
    next_.y = end_.y;
    // s is y - z after a step of polishing, else that over rho.
    for (Index k = 0; k < m; ++k)
      next_.v[k] =
          polishing_ ? end_.z[k] : end_.y[k] - (end_.y[k] - end_.z[k]) / rho(k);
    complete(next_);
  }

  // After a step of a minimisation, which may be its last one.
  void descended() {
    double gradient = 0;
    for (Index j = 0; j < problem_.n; ++j)
      gradient = std::max(
          gradient, std::abs(next_.dual[j] + sigma_ * (next_.x[j] - outer_.x[j])));
    const double primal = largest(next_.primal);
    const double floor =
        10 * epsilon_ * (1 + largest(next_.y) + rho_ * (1 + largest(next_.x)));
    const double small = std::max(std::min(tol_, primal), floor);
    const bool done = gradient <= small || inner_ >= kMostInner;
    if (next_.error <= exact()) status_ = kSolved;
    if (done) status_ = certificate(outer_);
    if (!all_finite(next_.x)) status_ = kNumericalTrouble;
    if (done) {
      const bool hard = inner_ >= kMany;
      if (!hard && primal > kSlow * last_primal_) rho_ = std::min(rho_ * kFaster, kLargest);
      if (!system_.definite())
        sigma_ = hard ? std::min(sigma_ / kCloser, kWidest)
                      : std::max(sigma_ * kCloser, kSmallest);
      tol_ = std::max(0.3 * tol_, floor);
      last_primal_ = primal;
      polishing_ = next_.error <= threshold_;
      inner_ = 0;
      outer_ = next_;
    } else {
      ++inner_;
    }
    std::swap(point_, next_);
  }

  // The interior-point method begins.
  void enter() {
    interior_.begin(system_);
    before_ = point_;
    trigger_ = kClose * interior_.mu;
    inside_ = kMostInside;
  }

  // next_ becomes the point next to that of the interior-point method after a step of it.
  void follow() {
    interior_.step(system_);
    next_.x = interior_.x;
    for (Index k = 0; k < problem_.m; ++k) next_.v[k] = interior_.y[k] - interior_.s[k];
    cone_.project(next_.v, next_.y);
    complete(next_);
  }

  // After that step, which may be the last one.
  void followed(const Solution<const double>* start) {
    inside_ = all_finite(next_.x) ? inside_ - 1 : 0;
    if (next_.error <= exact()) status_ = kSolved;
    status_ = certificate(before_);
    polishing_ = interior_.mu <= trigger_;
    if (polishing_) {
      trigger_ = kCloserStill * interior_.mu;
      point_ = outer_ = next_;
    } else if (inside_ == 0) {
      begin(start);
    }
    std::swap(before_, next_);
  }

  // After a step in x and v.
  void polished() {
    const bool improved = next_.error < outer_.error;
    const bool good = next_.error < 0.5 * outer_.error;
    // At the level of rounding errors no step improves any more.
    const bool stalled = !good && best_.error <= accurate_error(epsilon_);
    if (next_.error <= exact() || stalled) status_ = kSolved;
    if (improved) std::swap(outer_, next_);
    if (!good) threshold_ = 0.1 * outer_.error;
    point_ = outer_;
    polishing_ = good;
  }

  // Infeasible or unbounded, if the last change of the multipliers or that of the solution
  // proves it, else the status as it is: the Python function _certificate.
  int certificate(const Point& old) const {
    constexpr double huge = 1e6, tiny = 1e-9;
    const Index n = problem_.n, m = problem_.m;
    std::vector<double> d(n), t(m), along(m), projected(m), rest(m), pulled(n);
    for (Index j = 0; j < n; ++j) d[j] = next_.x[j] - old.x[j];
    const double size = std::max(largest(d), tiny);
    for (Index k = 0; k < m; ++k) {
      t[k] = next_.y[k] - old.y[k];
      along[k] = (next_.Ax[k] - old.Ax[k]) / size;
    }
    cone_.project(t, projected);
    cone_.project(along, rest);  // zero along a ray, where A d is in -K
    const double unit = std::max(largest(projected), tiny);
    for (double& entry : projected) entry /= unit;
    problem_.A.multiply_transposed(data_.A, projected, pulled);
    const double support = dot(m, data_.b, projected.data());
    if (support < -tiny && sum_of_sizes(pulled) <= -support / huge) return kInfeasible;
    const double slope = dot(n, data_.q, d.data()) / size;
    double moved = sum_of_sizes(rest);
    for (Index j = 0; j < n; ++j) moved += std::abs(next_.Px[j] - old.Px[j]) / size;
    return slope < -tiny && moved <= -slope / huge ? kUnbounded : status_;
  }

  const Problem& problem_;
  double epsilon_;
  Data<const double> data_;
  DualFace cone_;
  Quasidefinite system_;
  Interior interior_;

  Point point_, next_, outer_;  // outer_: the last one of the minimisation before
  Point before_;                // the last one of the interior-point method
  Iterate best_;
  double rho_ = 0, sigma_ = 0;
  double tol_ = 0;          // a minimisation ends at a gradient of this size
  double last_primal_ = 0;  // the primal residual at the end of the last one
  double threshold_ = 0;    // below this error, steps in x and v are tried
  bool polishing_ = false;  // whether the next step is one of these
  int inner_ = 0, status_ = kRunning;
  int inside_ = 0;      // the steps that the interior-point method may still take
  double trigger_ = 0;  // with this mean of y_k s_k there, steps in x and v are tried

  // Of a step.
  std::vector<double> place_;
  Spectral D_;
  std::vector<double> gradient_, upper_, lower_, path_, d_, dy_, Ad_, Pd_;
  Stepped end_;
};

}  // namespace diffqcp
