// The nonnegative orthant.
#pragma once

#include "central.hpp"
#include "cone.hpp"

namespace diffqcp {

class NonnegativeCone final : public Straight {
 public:
  using Straight::Straight;

  void project(const double* v, double* p) const override {
    for (Index k = 0; k < size_; ++k) p[k] = std::max(v[k], 0.0);
  }

  void jacobian(const double* v, double mu, double* lam, double*) const override {
    for (Index k = 0; k < size_; ++k)
      lam[k] = mu > 0 ? divided_difference(v[k], v[k], mu) : v[k] > 0;
  }
};

}  // namespace diffqcp
