// What every cone offers; the Python module diffqcp.cones._base describes the mathematics,
// and each file here follows the one of the same name there.
//
// The derivative of a projection is D = U diag(lam) U'. Its eigenvectors U are kept as a
// few numbers, the frame of the cone: none where U is the identity.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../plan.hpp"

namespace diffqcp {

class Cone {
 public:
  virtual ~Cone() = default;

  // How many rows it takes, and how many numbers its frame has.
  virtual Index dim() const = 0;
  virtual int64_t frame() const = 0;

  // The point of the cone closest to v.
  virtual void project(const double* v, double* p) const = 0;

  // The derivative there; with mu > 0 that of the smoothed projection.
  virtual void jacobian(const double* v, double mu, double* lam, double* frame) const = 0;

  // The multiplications in products of dense matrices that a product with U takes.
  virtual double dense_work() const { return 0; }

  // `vector` becomes U vector, or U' vector.
  virtual void rotate(const double* frame, double* vector) const = 0;
  virtual void rotate_back(const double* frame, double* vector) const = 0;
};

// Those whose eigenvectors are unit vectors.
class Straight : public Cone {
 public:
  explicit Straight(Index size) : size_(size) {}

  Index dim() const override { return size_; }
  int64_t frame() const override { return 0; }
  void rotate(const double*, double*) const override {}
  void rotate_back(const double*, double*) const override {}

 protected:
  Index size_;
};

// The dual of a cone, by Moreau's decomposition.
template <typename Primal>
class Dual final : public Cone {
 public:
  explicit Dual(Primal cone) : cone_(std::move(cone)) {}

  Index dim() const override { return cone_.dim(); }
  int64_t frame() const override { return cone_.frame(); }

  void project(const double* v, double* p) const override {
    const std::vector<double> other = negative(v);
    cone_.project(other.data(), p);
    for (Index k = 0; k < dim(); ++k) p[k] += v[k];
  }

  void jacobian(const double* v, double mu, double* lam, double* frame) const override {
    const std::vector<double> other = negative(v);
    cone_.jacobian(other.data(), mu, lam, frame);
    for (Index k = 0; k < dim(); ++k) lam[k] = 1 - lam[k];
  }

  void rotate(const double* frame, double* vector) const override {
    cone_.rotate(frame, vector);
  }
  void rotate_back(const double* frame, double* vector) const override {
    cone_.rotate_back(frame, vector);
  }

 private:
  std::vector<double> negative(const double* v) const {
    std::vector<double> other(v, v + dim());
    for (double& entry : other) entry = -entry;
    return other;
  }

  Primal cone_;
};

// The Euclidean norm; nothing overflows or underflows.
inline double euclidean(Index size, const double* v) {
  double largest = 0, sum = 0;
  for (Index k = 0; k < size; ++k) {
    largest = std::max(largest, std::abs(v[k]));
    sum += v[k] * v[k];
  }
  if ((largest > 1e-140 && largest < 1e140) || largest == 0 || std::isnan(sum))
    return std::sqrt(sum);
  if (std::isinf(largest)) return largest;
  sum = 0;
  for (Index k = 0; k < size; ++k) sum += (v[k] / largest) * (v[k] / largest);
  return largest * std::sqrt(sum);
}

}  // namespace diffqcp
