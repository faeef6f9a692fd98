// The proximal method of multipliers: what the Python module diffqcp.forward._proximal does
// with JAX, with the same steps and the same tests. The mathematics is described there.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "line_search.hpp"
#include "linearised.hpp"
#include "quasidefinite.hpp"

namespace diffqcp {

// Those of the Python class Status that the method ends with.
enum Status {
  kSolved = 0, kInfeasible = 1, kUnbounded = 2, kIterationLimit = 3, kNumericalTrouble = 4,
  kRunning = -1
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

  Spectral jacobian(const std::vector<double>& v) const {
    Spectral D{std::vector<double>(problem_.m), std::vector<double>(problem_.cone.frame)};
    problem_.cone.jacobian(v.data(), 0, D.lam.data(), D.frames.data());
    for (const auto& [coordinate, row] : free_) D.lam[coordinate] = 1;
    return D;
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
        system_(problem, data.P, data.A), q_(data.q, data.q + problem.n),
        b_(data.b, data.b + problem.m) {}

  // From `start`, or from zero if that is null. `known` says that it is the solution.
  Result minimise(const Solution<const double>* start, bool known, int max_steps) {
    begin(start);
    status_ = known || point_.error <= exact() ? kSolved : kRunning;
    int steps = 0;
    for (; status_ == kRunning && steps < max_steps; ++steps) {
      Point next = step();
      if (next.error < best_.error) best_ = {next.x, next.y, next.v, next.error};
      if (polishing_)
        polished(std::move(next));
      else
        descended(std::move(next));
    }
    int status = status_ == kRunning ? kIterationLimit : status_;
    const bool open = status == kIterationLimit || status == kNumericalTrouble;
    if (open && best_.error <= accurate()) status = kSolved;
    std::vector<double> s = best_.y;
    for (Index k = 0; k < problem_.m; ++k) s[k] -= best_.v[k];
    return {std::move(best_.x), std::move(best_.y), std::move(s), best_.error, status,
            steps};
  }

 private:
  static constexpr double kEqualities = 100, kRho = 10, kSigma = 1e-2;
  static constexpr double kSlow = 0.25, kFaster = 3, kLargest = 1e6;
  static constexpr double kCloser = 0.3, kSmallest = 1e-7, kWidest = 1, kNear = 0.1;
  static constexpr int kMany = 8, kMostInner = 30;

  struct Best {
    std::vector<double> x, y, v;
    double error;
  };

  // With its products, its residuals and v = y - s.
  struct Point {
    std::vector<double> x, y, v, Px, Ax, Aty, dual, primal;
    double error;
  };

  double exact() const { return 100 * epsilon_; }
  double accurate() const { return std::pow(epsilon_, 0.7); }
  double nearby() const { return std::pow(epsilon_, 0.45); }
  double rho(Index row) const { return row < problem_.zero ? kEqualities * rho_ : rho_; }

  std::vector<double> multiply_A(const std::vector<double>& x) const {
    std::vector<double> out(problem_.m, 0.0);
    problem_.A.add_product(data_.A, x.data(), out.data());
    return out;
  }

  std::vector<double> multiply_transposed(const std::vector<double>& y) const {
    std::vector<double> out(problem_.n, 0.0);
    problem_.A.add_transposed(data_.A, y.data(), out.data());
    return out;
  }

  std::vector<double> multiply_P(const std::vector<double>& x) const {
    std::vector<double> out(problem_.n, 0.0);
    problem_.add_P(data_.P, x.data(), out.data());
    return out;
  }

  Point at(std::vector<double> x, std::vector<double> y, std::vector<double> v) const {
    Point point{std::move(x), std::move(y), std::move(v), {}, {}, {}, q_, b_, 0};
    point.Px = multiply_P(point.x);
    point.Ax = multiply_A(point.x);
    point.Aty = multiply_transposed(point.y);
    for (Index j = 0; j < problem_.n; ++j) point.dual[j] += point.Px[j] + point.Aty[j];
    for (Index k = 0; k < problem_.m; ++k)
      point.primal[k] = point.Ax[k] + (point.y[k] - point.v[k]) - b_[k];
    point.error = scaled_error(problem_, epsilon_, data_, point.x, point.y, point.v,
                               point.dual, point.primal);
    return point;
  }

  void begin(const Solution<const double>* start) {
    std::vector<double> x(problem_.n, 0.0), y(problem_.m, 0.0), v(problem_.m);
    if (start == nullptr) {
      for (Index k = 0; k < problem_.m; ++k) v[k] = -b_[k];
    } else {
      std::copy(start->x, start->x + problem_.n, x.begin());
      for (Index k = 0; k < problem_.m; ++k) v[k] = start->y[k] - start->s[k];
      cone_.project(v, y);
    }
    point_ = at(std::move(x), std::move(y), std::move(v));
    if (start == nullptr) point_.error = std::numeric_limits<double>::infinity();
    outer_ = point_;
    best_ = {point_.x, point_.y, point_.v, point_.error};
    rho_ = kRho;
    sigma_ = kSigma;
    tol_ = 1 + largest(q_) + largest(b_);
    last_primal_ = std::numeric_limits<double>::infinity();
    threshold_ = kNear;
    polishing_ = start != nullptr;
    inner_ = 0;
  }

  // The next point, after a step of either kind.
  Point step() {
    const Index n = problem_.n, m = problem_.m;
    const double near = nearby();
    std::vector<double> place = outer_.v;
    if (!polishing_)
      for (Index k = 0; k < m; ++k)
        place[k] = outer_.y[k] + rho(k) * (point_.Ax[k] - b_[k]);
    Spectral D = cone_.jacobian(place);
    const std::vector<double> y =
        projection(problem_, {D.lam.data(), D.frames.data()}, place.data());
    const std::vector<double> Aty = multiply_transposed(y);
    std::vector<double> gradient(n), upper(n), primal(m, 0.0), dual(m, 0.0);
    for (Index j = 0; j < n; ++j) {
      gradient[j] = point_.Px[j] + Aty[j] + q_[j] + sigma_ * (point_.x[j] - outer_.x[j]);
      upper[j] = -gradient[j];
    }
    if (polishing_)
      for (Index k = 0; k < m; ++k) {
        primal[k] = point_.Ax[k] + y[k] - outer_.v[k] - b_[k];
        dual[k] = -primal[k];
      }
    // Equalities come first, in every order of the coordinates.
    for (Index k = 0; k < m; ++k) {
      double& lam = D.lam[k];
      lam = polishing_ ? lam / (1 + near * lam) : rho(k) * lam / (1 + rho(k) * lam);
    }
    auto [d, dy] = system_.solve(std::move(D.lam), D.frames, polishing_ ? near : sigma_,
                                 upper, dual);
    const bool downhill = all_finite(d) && dot(gradient, d) < 0;
    if (!downhill && !polishing_) d = upper;
    const std::vector<double> Ad = multiply_A(d);
    std::vector<double> path(m);
    for (Index k = 0; k < m; ++k)
      path[k] = polishing_ ? (1 - near) * dy[k] + primal[k] + Ad[k] : rho(k) * Ad[k];
    const double first = dot(gradient, d);
    const double curvature = dot(d, multiply_P(d)) + sigma_ * dot(d, d);
    const Slope slope{first - dot(y, Ad), curvature, first, Ad};
    Stepped end = line_search(
        slope, place, path, polishing_,
        [&](const std::vector<double>& z, std::vector<double>& y) { cone_.project(z, y); });
    std::vector<double> x = point_.x, v = std::move(end.z);
    for (Index j = 0; j < n; ++j) x[j] += end.length * d[j];
    // s is y - z after a step of polishing, else that over rho.
    if (!polishing_)
      for (Index k = 0; k < m; ++k) v[k] = end.y[k] - (end.y[k] - v[k]) / rho(k);
    return at(std::move(x), std::move(end.y), std::move(v));
  }

  // After a step of a minimisation, which may be its last one.
  void descended(Point next) {
    double gradient = 0;
    for (Index j = 0; j < problem_.n; ++j)
      gradient = std::max(
          gradient, std::abs(next.dual[j] + sigma_ * (next.x[j] - outer_.x[j])));
    const double primal = largest(next.primal);
    const double floor =
        10 * epsilon_ * (1 + largest(next.y) + rho_ * (1 + largest(next.x)));
    const double small = std::max(std::min(tol_, primal), floor);
    const bool done = gradient <= small || inner_ >= kMostInner;
    if (next.error <= exact()) status_ = kSolved;
    if (done) status_ = certificate(next);
    if (!all_finite(next.x)) status_ = kNumericalTrouble;
    if (done) {
      if (inner_ >= kMany) {
        sigma_ = std::min(sigma_ / kCloser, kWidest);
      } else {
        if (primal > kSlow * last_primal_) rho_ = std::min(rho_ * kFaster, kLargest);
        sigma_ = std::max(sigma_ * kCloser, kSmallest);
      }
      tol_ = std::max(0.3 * tol_, floor);
      last_primal_ = primal;
      polishing_ = next.error <= threshold_;
      inner_ = 0;
      outer_ = next;
    } else {
      ++inner_;
    }
    point_ = std::move(next);
  }

  // After a step in x and v.
  void polished(Point next) {
    const bool improved = next.error < outer_.error, good = next.error < 0.5 * outer_.error;
    // At the level of rounding errors no step improves any more.
    const bool stalled = !good && best_.error <= accurate();
    if (next.error <= exact() || stalled) status_ = kSolved;
    if (improved) outer_ = std::move(next);
    if (!good) threshold_ = 0.1 * outer_.error;
    point_ = outer_;
    polishing_ = good;
  }

  // Infeasible or unbounded, if the last change of the multipliers or that of the solution
  // proves it, else the status as it is: the Python function _certificate.
  int certificate(const Point& next) const {
    constexpr double huge = 1e6, tiny = 1e-9;
    const Index n = problem_.n, m = problem_.m;
    std::vector<double> d(n), t(m), along(m), projected(m), rest(m);
    for (Index j = 0; j < n; ++j) d[j] = next.x[j] - outer_.x[j];
    const double size = std::max(largest(d), tiny);
    for (Index k = 0; k < m; ++k) {
      t[k] = (next.y[k] - outer_.y[k]) / rho(k);
      along[k] = (next.Ax[k] - outer_.Ax[k]) / size;
    }
    cone_.project(t, projected);
    cone_.project(along, rest);  // zero along a ray, where A d is in -K
    const double unit = std::max(largest(projected), tiny);
    for (double& entry : projected) entry /= unit;
    const double support = dot(b_, projected);
    if (support < -tiny && sum_of_sizes(multiply_transposed(projected)) <= -support / huge)
      return kInfeasible;
    const double slope = dot(q_, d) / size;
    double moved = sum_of_sizes(rest);
    for (Index j = 0; j < n; ++j) moved += std::abs(next.Px[j] - outer_.Px[j]) / size;
    return slope < -tiny && moved <= -slope / huge ? kUnbounded : status_;
  }

  const Problem& problem_;
  double epsilon_;
  Data<const double> data_;
  DualFace cone_;
  Quasidefinite system_;
  std::vector<double> q_, b_;

  Point point_, outer_;  // outer_ is the last one of the minimisation before
  Best best_;
  double rho_ = 0, sigma_ = 0;
  double tol_ = 0;          // a minimisation ends at a gradient of this size
  double last_primal_ = 0;  // the primal residual at the end of the last one
  double threshold_ = 0;    // below this error, steps in x and v are tried
  bool polishing_ = false;  // whether the next step is one of these
  int inner_ = 0, status_ = kRunning;
};

}  // namespace diffqcp
