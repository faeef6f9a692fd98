// What the exponential and the power cone share: the Python module diffqcp.cones._boundary
// derives it.
#pragma once

#include <cfloat>
#include <limits>

#include "cone.hpp"

namespace diffqcp {

// The projection of a point, resolved: the unit directions of p and of v - p, and the
// logarithm of the curvature of the boundary at p. Any two will do in the cone and in its
// polar.
struct BoundaryProjection {
  bool inside = false, polar = false;
  double primal[3] = {1, 0, 0}, normal[3] = {0, 1, 0}, log_curvature = 0;

  bool bounded() const { return !inside && !polar; }
};

inline double dot3(const double* a, const double* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// v / |v|; zero stays zero.
inline void make_unit(double* v) {
  double largest = 0;
  for (int k = 0; k < 3; ++k) largest = std::max(largest, std::abs(v[k]));
  const double first = largest > 0 ? largest : 1;
  for (int k = 0; k < 3; ++k) v[k] /= first;
  const double norm = std::sqrt(dot3(v, v));
  for (int k = 0; k < 3; ++k) v[k] /= norm > 0 ? norm : 1;
}

inline double safe_log(double value) { return std::log(std::max(value, DBL_MIN)); }

// The zero in [low, high] of a function that changes sign from - to + there: Newton's
// method, with a bisection wherever its step leaves the bracket, by more than rounding
// errors, or does not halve the step before it. The bisection of a wide bracket is one of
// asinh(x), since its ends may differ by orders of magnitude. `function(x, slope)` returns
// the value.
template <typename Function>
double increasing_root(const Function& function, double low, double high) {
  const auto middle = [&] {
    constexpr double wide = 16;
    return high - low < wide ? (low + high) / 2
                             : std::sinh((std::asinh(low) + std::asinh(high)) / 2);
  };
  double x = middle(), step = high - low, newton = 0;
  for (int count = 0; count < 300; ++count) {
    double slope;
    const double value = function(x, &slope);
    if (value < 0) low = x;
    if (value > 0) high = x;
    const double rounding = 2 * DBL_EPSILON * std::max(std::abs(x), 1.0);
    const double before = newton;  // zero after a bisection
    newton = value == 0 ? 0 : -value / slope;
    const bool inside = x + newton >= low - rounding && x + newton <= high + rounding;
    const bool taken = inside && 2 * std::abs(newton) <= std::abs(step);
    if (!taken) newton = 0;
    step = (taken ? std::min(std::max(x + newton, low), high) : middle()) - x;
    x += step;
    if (!(std::abs(step) > rounding)) break;
    // Where the method converges quadratically, the next step is about step^3 / before^2.
    // Before that, steps may be as long as the bracket, and say nothing.
    const double ratio = std::abs(newton / before);
    const bool settled = taken && std::abs(before) < 1 && ratio < 1e-2;
    if (settled && std::abs(newton) * ratio * ratio <= rounding / 2) break;
  }
  return x;
}

// A cone in three dimensions by a function resolve(v) of the class `Self`. The frame is U,
// by rows.
template <typename Self>
class Boundary : public Cone {
 public:
  Index dim() const override { return 3; }
  int64_t frame() const override { return 9; }

  void project(const double* v, double* p) const override {
    const BoundaryProjection found = self().resolve(v);
    const double length = std::max(dot3(found.primal, v), 0.0);
    for (int k = 0; k < 3; ++k)
      p[k] = found.inside ? v[k] : found.polar ? 0 : length * found.primal[k];
  }

  void jacobian(const double* v, double mu, double* lam, double* frame) const override {
    if (mu > 0) return self().smoothed(v, mu, lam, frame);
    const BoundaryProjection found = self().resolve(v);
    const double *a = found.primal, *b = found.normal;
    const double log_p = safe_log(dot3(a, v)), log_d = safe_log(dot3(b, v));
    lam[0] = 1;
    lam[1] = 0;
    lam[2] = 1 / (1 + std::exp(log_d - log_p + found.log_curvature));
    if (found.inside || found.polar) std::fill(lam, lam + 3, found.inside ? 1.0 : 0.0);
    for (int k = 0; k < 3; ++k) {
      const int i = (k + 1) % 3, j = (k + 2) % 3;
      frame[3 * k] = a[k];
      frame[3 * k + 1] = b[k];
      frame[3 * k + 2] = a[i] * b[j] - a[j] * b[i];
    }
  }

  void rotate(const double* frame, double* vector) const override {
    const double x = vector[0], y = vector[1], z = vector[2];
    for (int k = 0; k < 3; ++k)
      vector[k] = frame[3 * k] * x + frame[3 * k + 1] * y + frame[3 * k + 2] * z;
  }

  void rotate_back(const double* frame, double* vector) const override {
    const double x = vector[0], y = vector[1], z = vector[2];
    for (int k = 0; k < 3; ++k)
      vector[k] = frame[k] * x + frame[3 + k] * y + frame[6 + k] * z;
  }

 private:
  const Self& self() const { return static_cast<const Self&>(*this); }
};

}  // namespace diffqcp
