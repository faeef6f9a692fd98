// The exponential cone; the Python module diffqcp.cones.exponential derives the formulas.
#pragma once

#include "boundary.hpp"
#include "central.hpp"

namespace diffqcp {

class ExponentialCone final : public Boundary<ExponentialCone> {
 public:
  // On a ray (rho, 1, exp(rho)), unless on the face y = 0.
  BoundaryProjection resolve(const double* given) const {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    double v[3] = {given[0], given[1], given[2]};
    make_unit(v);
    const double x = v[0], y = v[1], z = v[2];
    BoundaryProjection found;
    found.inside = z > 0 && y > 0 && x <= y * (safe_log(z) - safe_log(y));
    found.polar = z < 0 && x > 0 && y <= x * (safe_log(-z) - safe_log(x) + 1);
    if (!found.bounded()) return found;
    if (x <= 0 && y <= 0) {
      const bool upper = z > 0, downward = upper || (y == 0 && z == 0);
      const double ray[3] = {upper ? x : -1, 0, upper ? z : 0};
      const double normal[3] = {0, downward ? -1 : y, downward ? 0 : z};
      std::copy(ray, ray + 3, found.primal);
      std::copy(normal, normal + 3, found.normal);
      found.log_curvature = upper ? -infinity : infinity;
    } else {
      double low, high;
      bracket(x, y, z, &low, &high);
      const auto function = [&](double at, double* slope) {
        return equation(x, y, z, at, slope);
      };
      const double rho = increasing_root(function, low, high);
      // Rays and normals divided by the larger of 1 and exp(rho).
      const double decay = std::exp(-std::abs(rho));
      const double one = rho > 0 ? decay : 1, growth = rho > 0 ? 1 : decay;
      const double ray[3] = {rho * one, one, growth};
      const double normal[3] = {growth, (1 - rho) * growth, -one};
      found.log_curvature = rho + 3 * (std::log(euclidean(3, ray)) -
                                       std::log(euclidean(3, normal)));
      std::copy(ray, ray + 3, found.primal);
      std::copy(normal, normal + 3, found.normal);
    }
    make_unit(found.primal);
    make_unit(found.normal);
    return found;
  }

  // The barrier is that of Nesterov, -log(psi) - log(y) - log(z), psi = y log(z / y) - x.
  void smoothed(const double* v, double mu, double* lam, double* frame) const {
    const double start[3] = {-1, 0.5, 1};
    const auto barrier = [](const double* p, double* slope, double (&curvature)[3][3]) {
      const double x = p[0], y = p[1], z = p[2], log_ratio = std::log(z / y);
      const double psi = y * log_ratio - x;
      const double gradient[3] = {-1, log_ratio - 1, y / z};
      for (int i = 0; i < 3; ++i) {
        slope[i] = -gradient[i] / psi;
        for (int j = 0; j < 3; ++j) curvature[i][j] = slope[i] * (-gradient[j] / psi);
      }
      slope[1] -= 1 / y;
      slope[2] -= 1 / z;
      curvature[1][1] += 1 / (y * psi) + 1 / (y * y);
      curvature[1][2] -= 1 / (z * psi);
      curvature[2][1] -= 1 / (z * psi);
      curvature[2][2] += y / (z * z * psi) + 1 / (z * z);
    };
    barrier_jacobian(barrier, start, v, mu, lam, frame);
  }

 private:
  // f(rho) exp(-|rho|), with f(rho) = exp(rho) a - exp(-rho) b - (rho^2 - rho + 1) z,
  // a = (rho - 1) x + y, b = x - rho y, and its slope.
  static double equation(double x, double y, double z, double rho, double* slope) {
    const double a = (rho - 1) * x + y, b = x - rho * y;
    const double quadratic = rho * (rho - 1) + 1, decay = std::exp(-std::abs(rho));
    const bool positive = rho > 0;
    const double up = positive ? 1 : decay * decay, down = positive ? decay * decay : 1;
    const double slope_up = positive ? 0 : 2 * up, slope_down = positive ? -2 * down : 0;
    const double slope_decay = positive ? -decay : decay;
    *slope = (slope_up * a + up * x) - (slope_down * b - down * y) -
             (slope_decay * quadratic + decay * (2 * rho - 1)) * z;
    return up * a - down * b - decay * quadratic * z;
  }

  // An interval that holds the root for v outside the cone and its polar, with x or y
  // positive.
  static void bracket(double x, double y, double z, double* low, double* high) {
    const double largest = std::sqrt(DBL_MAX) / 4;
    const double safe_x = x > 0 ? x : 1, safe_y = y > 0 ? y : 1;
    const double zero_a = 1 - y / safe_x, zero_b = x / safe_y;
    const double beyond =
        std::max(zero_a, 1.0) + (x + std::abs(y) + std::abs(z)) / safe_x;
    const double before =
        std::min(zero_b, 0.0) - (2 * std::abs(x) + std::abs(y) + 2 * std::abs(z)) / safe_y;
    *low = x > 0 ? zero_a : before;
    *high = y > 0 ? zero_b : beyond;
    if (x > 0 && y > 0) {
      *low = std::max(*low, before);
      *high = std::min(*high, beyond);
    }
    *low = std::min(std::max(*low, -largest), largest);
    *high = std::max(std::min(std::max(*high, -largest), largest), *low);
  }
};

}  // namespace diffqcp
