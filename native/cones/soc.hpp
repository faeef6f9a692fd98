// The second-order cone.
#pragma once

#include "central.hpp"
#include "cone.hpp"

namespace diffqcp {

// The eigenvectors are (1, zh) / sqrt(2), (1, -zh) / sqrt(2) and (0, w) for the w orthogonal
// to zh = z / |z|, which are columns of a Householder reflection. The frame is zh.
class SecondOrderCone final : public Cone {
 public:
  explicit SecondOrderCone(Index size) : size_(size) {}

  Index dim() const override { return size_; }
  int64_t frame() const override { return size_ - 1; }

  void project(const double* v, double* p) const override {
    const double t = v[0], r = euclidean(size_ - 1, v + 1);
    if (t >= r) {
      std::copy(v, v + size_, p);
    } else if (t <= -r) {
      std::fill(p, p + size_, 0.0);
    } else {
      p[0] = (t + r) / 2;
      const double factor = p[0] / (r > 0 ? r : 1);
      for (Index k = 1; k < size_; ++k) p[k] = factor * v[k];
    }
  }

  // Outside the cone and its polar the eigenvalues are 1, 0 and (1 + t / r) / 2. (Ali, Wong
  // and Kolter, "A semismooth Newton method for fast, generic convex programming", ICML
  // 2017, section 3.)
  void jacobian(const double* v, double mu, double* lam, double* frame) const override {
    const double t = v[0], r = euclidean(size_ - 1, v + 1);
    for (Index k = 0; k < size_ - 1; ++k)
      frame[k] = r > 0 ? v[k + 1] / r : static_cast<double>(k == 0);
    if (mu > 0) {  // the barrier is -log(t^2 - r^2)
      const double high = (t + r) / std::sqrt(2.0), low = (t - r) / std::sqrt(2.0);
      lam[0] = divided_difference(high, high, mu);
      lam[1] = divided_difference(low, low, mu);
      std::fill(lam + 2, lam + size_, divided_difference(high, low, mu));
      return;
    }
    const bool inside = t >= r, polar = t <= -r;
    std::fill(lam, lam + size_, inside ? 1.0 : polar ? 0.0 : (1 + t / r) / 2);
    if (inside || polar) return;
    lam[0] = 1;
    lam[1] = 0;
  }

  void rotate(const double* frame, double* vector) const override {
    const double plus = vector[0], minus = vector[1], half = std::sqrt(0.5);
    vector[0] = half * (plus + minus);
    vector[1] = sign(frame) * half * (plus - minus);
    reflect(frame, vector + 1);
  }

  void rotate_back(const double* frame, double* vector) const override {
    reflect(frame, vector + 1);
    const double t = vector[0], axial = sign(frame) * vector[1], half = std::sqrt(0.5);
    vector[0] = half * (t + axial);
    vector[1] = half * (t - axial);
  }

 private:
  static double sign(const double* frame) { return frame[0] < 0 ? 1 : -1; }

  // By h = e1 + sign(zh_1) zh, so that |h|^2 = 2 h_1.
  void reflect(const double* frame, double* w) const {
    const double turn = -sign(frame), first = turn * frame[0] + 1;
    double product = first * w[0];
    for (Index k = 1; k < size_ - 1; ++k) product += turn * frame[k] * w[k];
    product /= first;
    w[0] -= product * first;
    for (Index k = 1; k < size_ - 1; ++k) w[k] -= product * turn * frame[k];
  }

  Index size_;
};

}  // namespace diffqcp
