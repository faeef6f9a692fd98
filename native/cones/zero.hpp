// The zero cone, and its dual: all of the space.
#pragma once

#include "cone.hpp"

namespace diffqcp {

class ZeroCone final : public Straight {
 public:
  using Straight::Straight;

  void project(const double*, double* p) const override { std::fill(p, p + size_, 0.0); }
  void jacobian(const double*, double, double* lam, double*) const override {
    std::fill(lam, lam + size_, 0.0);
  }
};

class FreeCone final : public Straight {
 public:
  using Straight::Straight;

  void project(const double* v, double* p) const override { std::copy(v, v + size_, p); }
  void jacobian(const double*, double, double* lam, double*) const override {
    std::fill(lam, lam + size_, 1.0);
  }
};

}  // namespace diffqcp
