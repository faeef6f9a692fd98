// K^+ by the eigenvectors of K, for what the factors of K + E do not resolve.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "scaling.hpp"

namespace diffqcp {

// Fortran's dsyevd.
using Eigen = void(char*, char*, int*, double*, int*, double*, double*, int*, int*, int*,
                   int*);

// The eigenvectors of K, of those rows that are coupled to others: if the shift follows
// rows of very different sizes, of K in the units that it says. What is in its range is
// solved for in these units, the null space is removed in those of the data.
class Spectrum {
 public:
  // Eigenvalues below that, relative to the largest, are taken for zero.
  static constexpr double kNull = 1e-11;
  // With more rows than that, it would take too long.
  static constexpr Index kLargest = 4000;

  Spectrum(const Pattern& K, const double* values, const double* shift, Eigen* eigen)
      : scale_(K.n), diagonal_(K.n), place_(K.n, -1) {
    const auto range = std::minmax_element(shift, shift + K.n);
    for (Index k = 0; k < K.n; ++k)
      scale_[k] = std::sqrt((shift[k] > 0 ? *range.second : *range.first) / shift[k]);
    for (Index e = 0; e < K.entries; ++e)
      if (K.entry_row[e] != K.entry_col[e] && values[e] != 0)
        place_[K.entry_row[e]] = place_[K.entry_col[e]] = 0;
    for (Index& place : place_)
      if (place == 0) place = order_++;
    if (order_ > kLargest) return;
    vectors_.assign(static_cast<size_t>(order_) * order_, 0.0);
    for (Index e = 0; e < K.entries; ++e) {
      const Index row = K.entry_row[e], col = K.entry_col[e];
      const double value = scale_[row] * values[e] * scale_[col];
      const Index i = place_[row], j = place_[col];
      if (row == col && i < 0) diagonal_[row] += value;
      if (i < 0 || j < 0) continue;
      vectors_[std::max(i, j) + static_cast<size_t>(order_) * std::min(i, j)] += value;
    }
    decompose(eigen);
    find_null_value();
    find_null_space();
  }

  bool known() const { return known_; }

  // r <- K^+ r.
  void solve(std::vector<double>& r) const {
    std::vector<double> coupled(order_), parts(order_);
    for (size_t k = 0; k < r.size(); ++k) {
      if (place_[k] < 0)
        r[k] = scale_[k] * divided(scale_[k] * r[k], diagonal_[k]);
      else
        coupled[place_[k]] = r[k];
    }
    const auto multiply = [&](const std::vector<double>& factors) {
      for (Index i = 0; i < order_; ++i) coupled[i] *= factors[i];
    };
    subtract_null_part(coupled.data());
    multiply(coupled_scale_);
    for (Index j = 0; j < order_; ++j)
      parts[j] = divided(dot(order_, column(j), coupled.data()), values_[j]);
    std::fill(coupled.begin(), coupled.end(), 0.0);
    for (Index j = 0; j < order_; ++j)
      for (Index i = 0; i < order_; ++i) coupled[i] += column(j)[i] * parts[j];
    multiply(coupled_scale_);
    subtract_null_part(coupled.data());
    for (size_t k = 0; k < r.size(); ++k)
      if (place_[k] >= 0) r[k] = coupled[place_[k]];
  }

 private:
  void decompose(Eigen* eigen) {
    known_ = order_ == 0;
    if (known_) return;
    values_.resize(order_);
    char vectors = 'V', lower = 'L';
    int n = order_, lwork = -1, liwork = -1, integers = 0, info = 0;
    double length = 0;
    eigen(&vectors, &lower, &n, vectors_.data(), &n, values_.data(), &length, &lwork,
          &integers, &liwork, &info);
    lwork = static_cast<int>(length);
    liwork = integers;
    std::vector<double> work(std::max(lwork, 1));
    std::vector<int> iwork(std::max(liwork, 1));
    eigen(&vectors, &lower, &n, vectors_.data(), &n, values_.data(), work.data(), &lwork,
          iwork.data(), &liwork, &info);
    known_ = info == 0;
  }

  void find_null_value() {
    for (const auto* part : {&diagonal_, &values_})
      for (double value : *part) null_ = std::max(null_, kNull * std::abs(value));
  }

  // An orthonormal basis of null(K), from that in units of the shift.
  void find_null_space() {
    coupled_scale_.resize(order_);
    for (size_t k = 0; k < place_.size(); ++k)
      if (place_[k] >= 0) coupled_scale_[place_[k]] = scale_[k];
    for (Index j = 0; j < order_; ++j) {
      if (std::abs(values_[j]) > null_) continue;
      std::vector<double> vector(column(j), column(j) + order_);
      for (Index i = 0; i < order_; ++i) vector[i] *= coupled_scale_[i];
      for (int repeat = 0; repeat < 2; ++repeat) subtract_null_part(vector.data());
      const double size = std::sqrt(dot(order_, vector.data(), vector.data()));
      for (double& value : vector) value /= size;
      basis_.push_back(std::move(vector));
    }
  }

  void subtract_null_part(double* vector) const {
    for (const std::vector<double>& unit : basis_) {
      const double part = dot(order_, unit.data(), vector);
      for (Index i = 0; i < order_; ++i) vector[i] -= part * unit[i];
    }
  }

  double divided(double part, double value) const {
    return std::abs(value) > null_ ? part / value : 0;
  }

  const double* column(Index j) const {
    return vectors_.data() + static_cast<size_t>(order_) * j;
  }

  std::vector<double> scale_, coupled_scale_;
  std::vector<double> diagonal_, vectors_, values_;
  std::vector<std::vector<double>> basis_;
  Indices place_;  // among the coupled rows; -1 for others
  Index order_ = 0;
  double null_ = 0;
  bool known_ = false;
};

}  // namespace diffqcp
