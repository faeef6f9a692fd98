// Whether P is positive semidefinite: what the Python module diffqcp._convexity has.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

// What the matrices P of one pattern share. It never changes.
class Curvature {
 public:
  // Off the diagonal, a stored entry stands for as many entries of P as its weight says.
  Curvature(Index n, const Indices& rows, const Indices& cols,
            const std::vector<double>& weights)
      : n_(n), cols_(cols), weights_(weights), diagonal_(rows == cols) {
    if (diagonal_) return;
    Indices i = rows, j = cols;
    for (size_t k = 0; k < weights_.size(); ++k)
      if (rows[k] != cols[k]) weights_[k] /= 2;
    for (Index k = 0; k < n; ++k) i.push_back(k), j.push_back(k);
    const Symbolic symbolic =
        analyse(n, static_cast<int64_t>(i.size()), i.data(), j.data());
    plan_ = symbolic.plan();
    source_ = symbolic.source;
  }

  // Up to the rounding errors of entries near one.
  bool is_convex(const double* P, double epsilon, Gemm* gemm) const {
    const double shift = 100 * epsilon * n_;
    std::vector<double> values(weights_.size());
    if (diagonal_) {
      std::vector<double> entries(n_, shift);
      for (size_t k = 0; k < values.size(); ++k) entries[cols_[k]] += P[k];
      return std::all_of(entries.begin(), entries.end(),
                         [](double entry) { return entry >= 0; });
    }
    for (size_t k = 0; k < values.size(); ++k) values[k] = weights_[k] * P[k];
    values.resize(values.size() + n_, shift);
    std::vector<double> ordered;
    for (Index k : source_) ordered.push_back(values[k]);
    const Pattern pattern(plan_.data());
    std::vector<double> panels(pattern.size()), inverse(n_);
    // A pivot that is not positive is replaced by a tiny one, which is too small.
    const std::vector<double> tiny(n_, std::numeric_limits<double>::min());
    Factorisation(pattern, gemm)
        .factorise(ordered.data(), tiny.data(), panels.data(), inverse.data());
    return std::all_of(inverse.begin(), inverse.end(),
                       [shift](double reciprocal) { return reciprocal <= 2 / shift; });
  }

 private:
  Index n_;
  Indices cols_;
  std::vector<double> weights_;
  bool diagonal_;
  Indices plan_, source_;
};

}  // namespace diffqcp
