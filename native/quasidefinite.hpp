// Systems with a proximal term, which are never singular: what a step of the methods of
// multipliers solves.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accuracy.hpp"
#include "range_space.hpp"

namespace diffqcp {

// K of the Python module diffqcp.kkt, with P + sigma I for P and eigenvalues lam < 1. It is
// factorised again only if something of it has changed.
class Quasidefinite {
 public:
  Quasidefinite(const Problem& problem, const double* P, const double* A)
      : problem_(problem), P_(P), A_(A), K_(problem.pattern()),
        factorisation_(K_, problem.lapack.gemm, problem.simplicial()), assembly_(problem),
        range_space_(problem, P, A) {}
  Quasidefinite(const Quasidefinite&) = delete;  // what it has refers to its pattern

  // Where P is dense, and so far from singular that this sigma is enough, x is eliminated,
  // for all systems that follow: they are to have this sigma. Returns whether it is so.
  bool eliminate(double sigma) {
    return definite_ = problem_.dense && range_space_.eliminate(sigma, std::sqrt(sigma));
  }
  bool definite() const { return definite_; }

  // w and u = U L t with K [w; t] = [upper; L U'dual], but for a residual far smaller.
  void solve(const Spectral& D, double sigma, const std::vector<double>& upper,
             const std::vector<double>& dual, std::vector<double>& w,
             std::vector<double>& u) {
    if (sigma != sigma_ || D.lam != D_.lam || D.frames != D_.frames) {
      D_ = D;
      sigma_ = sigma;
      factorise();
    }
    const Index n = problem_.n, order = definite_ ? n + problem_.m : problem_.order;
    vector_.resize(order);
    std::copy(upper.begin(), upper.end(), vector_.begin());
    from_dual(problem_, D_.view(), dual.data(), vector_.data() + n);
    if (definite_) {
      r_ = vector_;
    } else {
      assembly_.expand(D_.view(), vector_.data());
      r_.resize(order);
      for (Index k = 0; k < order; ++k) r_[k] = vector_[K_.pivots[k]];
    }
    refine();
    if (definite_) {
      vector_ = z_;
    } else {
      for (Index k = 0; k < order; ++k) vector_[K_.pivots[k]] = z_[k];
      assembly_.contract(D_.view(), vector_.data());
    }
    w.assign(vector_.begin(), vector_.begin() + n);
    u = to_dual(problem_, D_.view(), vector_.data() + n);
  }

  // That of the last solution before its last refinement, relative to the right-hand side.
  double residual() const { return residual_; }

 private:
  // A shift that the refinement takes back keeps the pivots of expanded cones, which have no
  // proximal term, from zero, and says what the least pivot of any other row is.
  void factorise() {
    constexpr double relative = 0x1p-44, expanded = 0x1p-34;
    if (definite_) {
      range_space_.factorise(D_.view());
      return;
    }
    values_.resize(K_.entries);
    panels_.resize(K_.size());
    for (auto* vector : {&inverse_, &proximal_, &shift_, &vector_}) vector->resize(K_.n);
    assembly_.values(P_, A_, D_.view(), values_.data());
    std::vector<double>& tiny = vector_;
    const Index n = problem_.n;
    std::fill(tiny.begin(), tiny.begin() + n, relative * sigma_);
    for (Index k = 0; k < problem_.m; ++k) tiny[n + k] = -relative * (1 - D_.lam[k]);
    assembly_.expand_shift(tiny.data(), expanded);
    for (Index k = 0; k < K_.n; ++k) {
      const Index row = K_.pivots[k];
      proximal_[k] = row < n ? sigma_ : 0;
      shift_[k] = proximal_[k] + tiny[row];
    }
    factorisation_.factorise(values_.data(), shift_.data(), panels_.data(),
                             inverse_.data());
  }

  // z <- K^-1 z, nearly.
  void apply_inverse(std::vector<double>& z) const {
    if (definite_)
      range_space_.solve(D_.view(), z.data());
    else
      factorisation_.solve<1>(panels_.data(), inverse_.data(), z.data());
  }

  // rest_ = r_ - K z_
  void subtract_product() {
    rest_.resize(r_.size());
    if (definite_) {
      range_space_.multiply(D_.view(), z_, rest_);
    } else {
      factorisation_.multiply<1>(values_.data(), z_.data(), rest_.data());
      for (Index k = 0; k < K_.n; ++k) rest_[k] += proximal_[k] * z_[k];
    }
    for (size_t k = 0; k < r_.size(); ++k) rest_[k] = r_[k] - rest_[k];
  }

  // z_ from r_, with a residual that is small enough for a direction: from 1e-10 on, problems
  // without a bound take more steps until that is seen, or it is not seen at all.
  void refine() {
    constexpr int most = 4;
    constexpr double small = 0x1p-40;
    z_ = r_;
    apply_inverse(z_);
    const double size = largest(r_);
    double last = std::numeric_limits<double>::infinity();
    for (int step = 0; step < most; ++step) {
      subtract_product();
      const double left = largest(rest_);
      residual_ = size > 0 ? left / size : left;
      if (!(left > small * size) || !(left < 0.5 * last)) break;
      last = left;
      apply_inverse(rest_);
      for (size_t k = 0; k < z_.size(); ++k) z_[k] += rest_[k];
    }
  }

  const Problem& problem_;
  const double *P_, *A_;
  Pattern K_;
  Factorisation factorisation_;
  Assembly assembly_;
  RangeSpace range_space_;
  bool definite_ = false;
  Spectral D_;
  double sigma_ = -1, residual_ = 0;
  std::vector<double> values_, panels_, inverse_, proximal_, shift_;  // in pivots' order
  std::vector<double> vector_, r_, z_, rest_;  // for a solution
};

}  // namespace diffqcp
