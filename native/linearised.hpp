// A QCP around a point: D there, the residuals, and the linear system, which is solved by
// iterations where that is faster, or else with the factors of K, which are made when they
// are needed.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "derivative.hpp"
#include "iterative.hpp"

namespace diffqcp {

struct Given {
  Data<const double> data;
  Solution<const double> solution;
};

// D v, which is the projection of v, as projections are homogeneous.
inline std::vector<double> projection(const Problem& problem, const Jacobian& D,
                                      const double* v) {
  std::vector<double> coordinates(problem.m), y(problem.m);
  problem.cone.rotate_back(D.frames, v, coordinates.data());
  for (Index k = 0; k < problem.m; ++k) coordinates[k] *= D.lam[k];
  problem.cone.rotate(D.frames, coordinates, y.data());
  return y;
}

// The vectors are for others to keep.
class Linearised {
 public:
  // Where a nonnegative row has no bound, A is zero, and the row is 0 <= 1. `known` is D
  // there, or null. `nearby`, if not null, is a point whose factors may do here, and which
  // loses them.
  Linearised(const Problem& problem, const Options& options, double smoothing,
             const Given& given, const std::vector<double>& x,
             const std::vector<double>& y, const std::vector<double>& s,
             const Spectral* known, Linearised* nearby = nullptr)
      : lam(problem.m), frames(problem.cone.frame),
        A(given.data.A, given.data.A + problem.A.count()),
        b(given.data.b, given.data.b + problem.m), x(x), y(problem.m), s(problem.m),
        dual(given.data.q, given.data.q + problem.n), primal(problem.m),
        problem_(problem), options_(options), P_(given.data.P) {
    std::vector<double> v(problem.m);
    for (Index k = 0; k < problem.m; ++k) v[k] = y[k] - s[k];
    drop_rows_without_bound(problem, v);
    iterates_ = nearby == nullptr ? Iterative::pays(problem, options, P_, A.data())
                                  : nearby->iterates_;
    if (known == nullptr) {
      problem.cone.jacobian(v.data(), smoothing, lam.data(), frames.data());
    } else {
      std::copy(known->lam.begin(), known->lam.end(), lam.begin());
      std::copy(known->frames.begin(), known->frames.end(), frames.begin());
    }
    this->y = projection(problem, {lam.data(), frames.data()}, v.data());
    for (Index k = 0; k < problem.m; ++k) {
      this->s[k] = this->y[k] - v[k];
      primal[k] = this->s[k] - b[k];
    }
    products = multiply(x, this->y);
    for (Index j = 0; j < problem.n; ++j) dual[j] += products.Px[j] + products.pulled[j];
    for (Index k = 0; k < problem.m; ++k) primal[k] += products.Ax[k];
    // A NaN, as comparisons hide it, is to make all of the derivative NaN.
    double poison = 0;
    for (double entry : dual) poison += 0 * entry;
    for (double entry : primal) poison += 0 * entry;
    for (double entry : x) poison += 0 * entry;
    for (double& eigenvalue : lam) eigenvalue += poison;
    if (nearby != nullptr && nearby->system_ != nullptr && !nearby->system_->singular())
      factor = std::move(nearby->factor);
  }

  // P x, A'y and A x.
  struct Products {
    std::vector<double> Px, pulled, Ax;
  };

  Products multiply(const std::vector<double>& x, const std::vector<double>& y) const {
    Products result{std::vector<double>(problem_.n), std::vector<double>(problem_.n),
                    std::vector<double>(problem_.m)};
    problem_.multiply_P(P_, x, result.Px);
    problem_.A.multiply_transposed(A.data(), y, result.pulled);
    problem_.A.multiply(A.data(), x, result.Ax);
    return result;
  }

  // What a semismooth Newton step on P x + A'Pi(v) + q = 0, A x + Pi(v) - v = b solves for.
  std::pair<std::vector<double>, std::vector<double>> newton() const {
    std::vector<double> upper = dual, lower = primal;
    for (double& entry : upper) entry = -entry;
    for (double& entry : lower) entry = -entry;
    return {std::move(upper), std::move(lower)};
  }

  // K [w; t] = [upper; L U'dual]: see System.
  Answer solve(const double* upper, const double* dual, double enough = 0) {
    if (iterates_) {
      const Iterative iterative(problem_, options_, P_, A.data(), D());
      if (std::optional<Answer> answer = iterative.solve(upper, dual, enough))
        return std::move(*answer);
      iterates_ = false;
    }
    return system().solve(upper, dual, enough);
  }

  // Whether two right-hand sides at once are cheaper than one after the other.
  bool takes_two() { return !iterates_ && system().takes_two(); }

  // K, with factors that may be those of a point nearby.
  System& system() {
    if (system_ != nullptr) return *system_;
    borrowed_ = !factor.empty();
    const Pattern K = problem_.pattern();
    factor.resize(Factor::size(K, factor_room(problem_, options_.eliminates)));
    shift.resize(problem_.n + problem_.m);
    system_ = std::make_unique<System>(
        problem_, options_,
        Parts{lam.data(), frames.data(), nullptr, factor.data(), false, P_, A.data()});
    if (!borrowed_ || !system_->suits(values)) factorise();
    return *system_;
  }

  // K, with factors of its own.
  System& own_system() {
    system();
    if (borrowed_) factorise();
    return *system_;
  }

  std::vector<double> lam, frames;            // D
  std::vector<double> A, b;                   // with a bound everywhere
  std::vector<double> x, y, s;                // with y the projection of y - s
  std::vector<double> dual, primal;           // the residuals
  Products products;                          // at x and y
  // Of K, once there is a system; no values where x is eliminated.
  std::vector<double> values, shift;
  Room factor;

 private:
  Jacobian D() const { return {lam.data(), frames.data()}; }

  void factorise() {
    system_->factorise(values, shift.data());
    borrowed_ = false;
  }

  void drop_rows_without_bound(const Problem& problem, std::vector<double>& v) {
    const Index first = problem.zero, end = first + problem.rays;
    const auto none = [&](Index k) {
      return k >= first && k < end && b[k] == std::numeric_limits<double>::infinity();
    };
    bool any = false;
    for (Index k = first; k < end && !any; ++k) any = none(k);
    if (!any) return;
    for (size_t k = 0; k < problem.A.count(); ++k)
      if (none(problem.A.rows[k])) A[k] = 0;
    for (Index k = first; k < end; ++k)
      if (none(k)) {
        b[k] = 1;
        v[k] = -1;
      }
  }

  const Problem& problem_;
  Options options_;
  const double* P_;
  bool iterates_ = false, borrowed_ = false;
  std::unique_ptr<System> system_;
};

}  // namespace diffqcp
