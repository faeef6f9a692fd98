// A basis of the null space of K, for a shift that follows rows of very different sizes.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

class NullSpace {
 public:
  // Basis vectors are looked for until there are no more, or there would be more than this.
  static constexpr size_t kMost = 400;

  NullSpace() = default;

  // From vectors that span it, orthonormal in units in which K is equilibrated, and these
  // units, which may differ by many orders of magnitude.
  //
  // The vectors are made graded first, by an elimination with complete pivoting in the
  // units of the data. Each row keeps its relative accuracy in that, for the multipliers
  // are at most one; afterwards each vector has its largest entry where those after it have
  // zeros, so that they may be made orthonormal.
  NullSpace(std::vector<std::vector<double>> vectors, const std::vector<double>& units)
      : basis_(std::move(vectors)), known_(true) {
    for (auto& vector : basis_)
      for (size_t k = 0; k < units.size(); ++k) vector[k] *= units[k];
    for (size_t j = 0; j < basis_.size(); ++j) eliminate(j);
    // From the last one on: it is the smallest where the others are large.
    std::reverse(basis_.begin(), basis_.end());
    for (size_t j = 0; j < basis_.size(); ++j) {
      normalise(basis_[j]);
      for (int repeat = 0; repeat < 2; ++repeat)
        for (size_t i = 0; i < j; ++i) subtract(basis_[i], basis_[j]);
      normalise(basis_[j]);
    }
  }

  bool known() const { return known_; }

  // Subtracts the orthogonal projection onto it.
  void remove(std::vector<double>& vector) const {
    for (int repeat = 0; repeat < 2; ++repeat)
      for (const auto& unit : basis_) subtract(unit, vector);
  }

  static void subtract(const std::vector<double>& unit, std::vector<double>& vector) {
    const double part = dot(unit, vector);
    for (size_t k = 0; k < vector.size(); ++k) vector[k] -= part * unit[k];
  }

  static void normalise(std::vector<double>& vector) {
    const double size = std::sqrt(dot(vector, vector));
    if (size > 0)
      for (double& value : vector) value /= size;
  }

 private:
  void eliminate(size_t first) {
    size_t col = first, row = 0;
    double largest = 0;
    for (size_t j = first; j < basis_.size(); ++j)
      for (size_t k = 0; k < basis_[j].size(); ++k)
        if (std::abs(basis_[j][k]) > largest) {
          largest = std::abs(basis_[j][k]);
          col = j;
          row = k;
        }
    if (largest == 0) return;
    std::swap(basis_[first], basis_[col]);
    const std::vector<double>& pivot = basis_[first];
    for (size_t j = first + 1; j < basis_.size(); ++j) {
      const double factor = basis_[j][row] / pivot[row];
      for (size_t k = 0; k < pivot.size(); ++k) basis_[j][k] -= factor * pivot[k];
      basis_[j][row] = 0;
    }
  }

  std::vector<std::vector<double>> basis_;
  bool known_ = false;
};

}  // namespace diffqcp
