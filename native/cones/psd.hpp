// Positive semidefinite matrices as packed triangles.
#pragma once

#include "../lapack.hpp"
#include "central.hpp"
#include "cone.hpp"

namespace diffqcp {

// A matrix V = Q diag(l) Q' is stored as one triangle, column after column, with entries off
// the diagonal times sqrt(2). The frame is Q, by columns.
class PSDCone final : public Cone {
 public:
  PSDCone(Index size, bool upper, Lapack lapack)
      : size_(size), upper_(upper), lapack_(lapack) {}

  Index dim() const override { return size_ * (size_ + 1) / 2; }
  int64_t frame() const override { return int64_t{size_} * size_; }

  void project(const double* v, double* p) const override {
    std::vector<double> values(size_), basis(frame()), kept(frame()), product(frame());
    decompose(v, values.data(), basis.data());
    for (Index j = 0; j < size_; ++j)
      for (Index i = 0; i < size_; ++i)
        kept[i + int64_t{size_} * j] =
            basis[i + int64_t{size_} * j] * std::max(values[j], 0.0);
    multiply_transposed(kept.data(), basis.data(), product.data());
    pack(product.data(), p);
  }

  // For each pair of eigenvalues 1 if both are positive, 0 if neither is, and otherwise
  // l_+ / (l_+ - l_-). (Malick and Sendov, "Clarke generalized Jacobian of the projection
  // onto the cone of positive semidefinite matrices", Set-Valued Analysis 14, 2006.)
  void jacobian(const double* v, double mu, double* lam, double* frame) const override {
    std::vector<double> values(size_);
    decompose(v, values.data(), frame);
    for_each([&](Index k, Index i, Index j) {
      const double high = std::max(values[i], values[j]);
      const double low = std::min(values[i], values[j]);
      if (mu > 0)
        lam[k] = divided_difference(values[i], values[j], mu);
      else
        lam[k] = low > 0 ? 1 : high > 0 ? high / (high > low ? high - low : 1) : 0;
    });
  }

  double dense_work() const override { return 2 * std::pow(size_, 3); }

  void rotate(const double* frame, double* vector) const override {
    congruence(frame, vector);
  }

  void rotate_back(const double* frame, double* vector) const override {
    std::vector<double> transposed(this->frame());
    for (Index j = 0; j < size_; ++j)
      for (Index i = 0; i < size_; ++i)
        transposed[j + int64_t{size_} * i] = frame[i + int64_t{size_} * j];
    congruence(transposed.data(), vector);
  }

 private:
  // Calls body(k, i, j) for the k-th stored entry, at row i and column j.
  template <typename Body>
  void for_each(const Body& body) const {
    Index k = 0;
    for (Index j = 0; j < size_; ++j) {
      const Index first = upper_ ? 0 : j, end = upper_ ? j + 1 : size_;
      for (Index i = first; i < end; ++i) body(k++, i, j);
    }
  }

  void pack(const double* matrix, double* vector) const {
    for_each([&](Index k, Index i, Index j) {
      vector[k] = matrix[i + int64_t{size_} * j] * (i == j ? 1 : std::sqrt(2.0));
    });
  }

  void unpack(const double* vector, double* matrix) const {
    for_each([&](Index k, Index i, Index j) {
      const double value = vector[k] * (i == j ? 1 : std::sqrt(0.5));
      matrix[i + int64_t{size_} * j] = matrix[j + int64_t{size_} * i] = value;
    });
  }

  void decompose(const double* v, double* values, double* basis) const {
    unpack(v, basis);
    lapack_.eigenvectors(size_, basis, values);
  }

  // The packed Q V Q'.
  void congruence(const double* basis, double* vector) const {
    std::vector<double> matrix(frame()), product(frame());
    unpack(vector, matrix.data());
    multiply_transposed(basis, matrix.data(), product.data());
    multiply_transposed(product.data(), basis, matrix.data());
    pack(matrix.data(), vector);
  }

  // C = A B'.
  void multiply_transposed(const double* a, const double* b, double* c) const {
    constexpr Index small = 12;
    if (size_ > small) return lapack_.multiply_transposed(size_, a, b, c);
    std::fill(c, c + frame(), 0.0);
    for (Index j = 0; j < size_; ++j)
      for (Index k = 0; k < size_; ++k) {
        const double factor = b[j + int64_t{size_} * k];
        const double* column = a + int64_t{size_} * k;
        for (Index i = 0; i < size_; ++i) c[i + int64_t{size_} * j] += column[i] * factor;
      }
  }

  Index size_;
  bool upper_;
  Lapack lapack_;
};

}  // namespace diffqcp
