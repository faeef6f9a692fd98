// Semismooth Newton's method on the optimality conditions: what the Python module
// diffqcp._newton does with JAX, with the same steps and the same tests.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "accuracy.hpp"
#include "differentiate.hpp"

namespace diffqcp {

class Newton {
 public:
  // A point with y the projection of y - s, D there, and its error.
  struct Point {
    std::vector<double> x, y, s;
    Spectral D;
    double error;
  };

  Newton(const Problem& problem, const Options& options, const Data<const double>& data)
      : problem_(problem), options_(options), data_(data) {}

  // The best point of all steps, and how many there were. The problem is to be in units of
  // its own.
  std::pair<Point, int> run(const Solution<const double>& start, int max_steps,
                            int patience) const {
    std::vector<double> v(start.y, start.y + problem_.m);
    for (Index k = 0; k < problem_.m; ++k) v[k] -= start.s[k];
    Point point = at({start.x, start.x + problem_.n}, v);
    Point best = point;
    int steps = 0;
    for (int misses = 0; point.error > 100 * options_.epsilon &&
                         std::isfinite(point.error) && misses <= patience &&
                         steps < max_steps;
         ++steps) {
      Point next = step(point);
      if (!(next.error < point.error)) ++misses;
      if (next.error < best.error) best = next;
      point = std::move(next);
    }
    return {std::move(best), steps};
  }

 private:
  Point step(const Point& point) const {
    const Given given{data_, {nullptr, nullptr, nullptr}};
    Linearised linearised(problem_, options_, 0, given, point.x, point.y, point.s,
                          &point.D);
    const auto [upper, dual] = linearised.newton();
    const Answer answer = linearised.solve(upper.data(), dual.data());
    std::vector<double> x = point.x, v(problem_.m);
    for (Index j = 0; j < problem_.n; ++j) x[j] += answer.w[j];
    for (Index k = 0; k < problem_.m; ++k)
      v[k] = point.y[k] + answer.u[k] - point.s[k] + linearised.primal[k];
    problem_.A.add_product(data_.A, answer.w.data(), v.data());
    return at(std::move(x), v);
  }

  Point at(std::vector<double> x, const std::vector<double>& v) const {
    Point point;
    point.x = std::move(x);
    point.D.lam.resize(problem_.m);
    point.D.frames.resize(problem_.cone.frame);
    problem_.cone.jacobian(v.data(), 0, point.D.lam.data(), point.D.frames.data());
    point.y = projection(problem_, {point.D.lam.data(), point.D.frames.data()}, v.data());
    point.s.resize(problem_.m);
    for (Index k = 0; k < problem_.m; ++k) point.s[k] = point.y[k] - v[k];
    point.error = error_of(point, v);
    return point;
  }

  double error_of(const Point& point, const std::vector<double>& v) const {
    std::vector<double> dual(data_.q, data_.q + problem_.n), primal = point.s;
    problem_.add_P(data_.P, point.x.data(), dual.data());
    problem_.A.add_transposed(data_.A, point.y.data(), dual.data());
    for (Index k = 0; k < problem_.m; ++k) primal[k] -= data_.b[k];
    problem_.A.add_product(data_.A, point.x.data(), primal.data());
    return scaled_error(problem_, options_.epsilon, data_, point.x, point.y, v, dual, primal);
  }

  const Problem& problem_;
  Options options_;
  Data<const double> data_;
};

// Where to start without a nearby point: the Python function central_point.
inline void central_point(const Problem& problem, const Options& options,
                          const Data<const double>& data, const Solution<double>& out) {
  const Pattern K = problem.pattern();
  Spectral D(problem);
  const std::vector<double> apex(problem.m, 0.0);
  problem.cone.jacobian(apex.data(), 0, D.lam.data(), D.frames.data());
  std::fill(D.lam.begin(), D.lam.end(), 0.5);
  // Equalities come first, in every order of the coordinates.
  std::fill(D.lam.begin(), D.lam.begin() + problem.zero, 1.0);
  std::vector<double> values, minus_q(problem.n);
  Room factor(Factor::size(K, factor_room(problem, options.eliminates)));
  std::vector<double> shift(problem.n + problem.m);
  System system(problem, options,
                {D.lam.data(), D.frames.data(), nullptr, factor.data(), false, data.P,
                 data.A});
  system.factorise(values, shift.data());
  for (Index j = 0; j < problem.n; ++j) minus_q[j] = -data.q[j];
  const Answer answer = system.solve(minus_q.data(), data.b);
  std::copy(answer.w.begin(), answer.w.end(), out.x);
  std::copy(answer.u.begin(), answer.u.end(), out.y);
  std::vector<double> Ax(problem.m, 0.0);
  problem.A.add_product(data.A, out.x, Ax.data());
  for (Index k = 0; k < problem.m; ++k) out.s[k] = data.b[k] - Ax[k];
}

}  // namespace diffqcp
