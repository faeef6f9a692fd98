// Systems with a proximal term, which are never singular: what a step of the methods of
// multipliers solves.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "accuracy.hpp"

namespace diffqcp {

// K of the Python module diffqcp.kkt, with P + sigma I for P and eigenvalues lam < 1. It is
// factorised again only if something of it has changed.
class Quasidefinite {
 public:
  Quasidefinite(const Problem& problem, const double* P, const double* A)
      : problem_(problem), P_(P), A_(A), K_(problem.pattern()), assembly_(problem),
        values_(K_.entries), panels_(K_.size()), inverse_(K_.n), proximal_(K_.n),
        shift_(K_.n) {}

  // w and u = U L t with K [w; t] = [upper; L U'dual], to rounding errors.
  std::pair<std::vector<double>, std::vector<double>> solve(
      std::vector<double> lam, const std::vector<double>& frames, double sigma,
      const std::vector<double>& upper, const std::vector<double>& dual) {
    if (sigma != sigma_ || lam != lam_ || frames != frames_) {
      lam_ = std::move(lam);
      frames_ = frames;
      sigma_ = sigma;
      factorise();
    }
    const Jacobian D{lam_.data(), frames_.data()};
    const Index n = problem_.n, order = problem_.order;
    std::vector<double> vector(order), r(order);
    const std::vector<double> lower = from_dual(problem_, D, dual.data());
    std::copy(upper.begin(), upper.end(), vector.begin());
    std::copy(lower.begin(), lower.end(), vector.begin() + n);
    assembly_.expand(D, vector.data());
    for (Index k = 0; k < order; ++k) r[k] = vector[K_.pivots[k]];
    const std::vector<double> z = refined(r);
    for (Index k = 0; k < order; ++k) vector[K_.pivots[k]] = z[k];
    assembly_.contract(D, vector.data());
    std::vector<double> u = to_dual(problem_, D, vector.data() + n);
    vector.resize(n);
    return {std::move(vector), std::move(u)};
  }

 private:
  // In rows where the proximal term and lam < 1 are no pivots large enough, as in those of
  // expanded cones, a shift is added that the refinement takes back.
  void factorise() {
    constexpr double relative = 0x1p-34;
    assembly_.values(P_, A_, {lam_.data(), frames_.data()}, values_.data());
    std::vector<double> tiny(problem_.order, 0.0);
    const Index n = problem_.n;
    std::fill(tiny.begin(), tiny.begin() + n, relative * sigma_);
    for (Index k = 0; k < problem_.m; ++k) tiny[n + k] = -relative * (1 - lam_[k]);
    assembly_.expand_shift(tiny.data(), relative);
    for (Index k = 0; k < K_.n; ++k) {
      const Index row = K_.pivots[k];
      proximal_[k] = row < n ? sigma_ : 0;
      shift_[k] = proximal_[k] + tiny[row];
    }
    Factorisation(K_, problem_.lapack.gemm)
        .factorise(values_.data(), shift_.data(), panels_.data(), inverse_.data());
  }

  std::vector<double> refined(const std::vector<double>& r) const {
    constexpr int most = 4;
    constexpr double small = 0x1p-50;
    const Factorisation factorisation(K_, problem_.lapack.gemm);
    std::vector<double> z = r, rest(K_.n);
    factorisation.solve<1>(panels_.data(), inverse_.data(), z.data());
    const double size = largest(r);
    double last = std::numeric_limits<double>::infinity();
    for (int step = 0; step < most; ++step) {
      factorisation.multiply<1>(values_.data(), z.data(), rest.data());
      for (Index k = 0; k < K_.n; ++k) rest[k] = r[k] - rest[k] - proximal_[k] * z[k];
      const double left = largest(rest);
      if (!(left > small * size) || !(left < 0.5 * last)) break;
      last = left;
      factorisation.solve<1>(panels_.data(), inverse_.data(), rest.data());
      for (Index k = 0; k < K_.n; ++k) z[k] += rest[k];
    }
    return z;
  }

  const Problem& problem_;
  const double *P_, *A_;
  Pattern K_;
  Assembly assembly_;
  std::vector<double> values_, panels_, inverse_, proximal_, shift_;  // in pivots' order
  std::vector<double> lam_, frames_;
  double sigma_ = -1;
};

}  // namespace diffqcp
