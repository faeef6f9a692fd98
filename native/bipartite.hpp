// A matrix K = [0 B'; B 0], but for rows that are not coupled to others: that of a linear
// program. With
//
//     K' = [0 B'; B -delta I],   delta > 0,
//
// the least-squares solution of least norm of B't = a is the lower part of that of
// K' z = (a, 0), since it says that delta t = B w, and that of B w = c is the upper part of
// that of K' z = (0, c). Null vectors of B are null vectors of K', but those of B', of which
// a degenerate vertex has many, are none. See docs/derivation.md.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

class Bipartite {
 public:
  // Rows are those of B where the shift is negative; delta is the largest entry of B.
  Bipartite(const Pattern& K, const double* values, const double* shift)
      : part_(K.n, kAlone) {
    std::vector<double> own(K.n, 0);
    std::vector<Index> corner(K.n, -1);
    double largest = 0;
    for (Index e = 0; e < K.entries; ++e) {
      const Index i = K.entry_row[e], j = K.entry_col[e];
      if (i == j) {
        own[i] += values[e];
        corner[i] = e;
      } else if (values[e] != 0) {
        if ((shift[i] < 0) == (shift[j] < 0)) return;
        for (const Index k : {i, j}) part_[k] = shift[k] < 0 ? kLower : kUpper;
        largest = std::max(largest, std::abs(values[e]));
      }
    }
    if (!(largest > 0 && std::isfinite(largest))) return;
    for (Index k = 0; k < K.n; ++k) {
      if (part_[k] == kAlone) continue;
      if (own[k] != 0 || (part_[k] == kLower && corner[k] < 0)) return;
      excess_ += part_[k] == kLower ? 1 : -1;
    }
    delta_ = largest;
    values_.assign(values, values + K.entries);
    for (Index k = 0; k < K.n; ++k)
      if (part_[k] == kLower) values_[corner[k]] -= delta_;
  }

  // Whether K is of this form.
  bool is() const { return delta_ > 0; }
  // Whether B is square, so that K may be regular.
  bool square() const { return excess_ == 0; }
  // The entries of K'.
  const double* values() const { return values_.data(); }

  // The right-hand sides of both systems, interleaved.
  std::vector<double> split(const std::vector<double>& r) const {
    std::vector<double> both(2 * r.size(), 0.0);
    for (size_t k = 0; k < r.size(); ++k) both[2 * k + (part_[k] == kLower)] = r[k];
    return both;
  }

  // What their solutions say of K z = r.
  std::vector<double> join(const std::vector<double>& both) const {
    std::vector<double> z(both.size() / 2);
    for (size_t k = 0; k < z.size(); ++k) z[k] = both[2 * k + (part_[k] == kUpper)];
    return z;
  }

  // How much larger than the part that counts each of these solutions is, in a norm in which
  // both parts have the same units.
  std::array<double, 2> excess(const std::vector<double>& both, const double* shift) const {
    double all[2] = {0, 0}, own[2] = {0, 0};
    for (size_t k = 0; k < both.size(); ++k) {
      const double square = std::abs(shift[k / 2]) * both[k] * both[k];
      all[k % 2] += square;
      if ((k % 2 == 1) == (part_[k / 2] == kUpper)) own[k % 2] += square;
    }
    const auto ratio = [](double all, double own) {
      return own > 0 ? std::sqrt(all / own) : 1.0;
    };
    return {ratio(all[0], own[0]), ratio(all[1], own[1])};
  }

  // A vector without its lower part.
  std::vector<double> upper(std::vector<double> vector) const {
    for (size_t k = 0; k < vector.size(); ++k)
      if (part_[k] == kLower) vector[k] = 0;
    return vector;
  }

 private:
  enum Part : char { kAlone, kUpper, kLower };

  std::vector<Part> part_;
  std::vector<double> values_;
  double delta_ = 0;
  Index excess_ = 0;
};

}  // namespace diffqcp
