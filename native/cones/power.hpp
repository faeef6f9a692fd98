// The power cone; the Python module diffqcp.cones.power derives the formulas.
#pragma once

#include "boundary.hpp"
#include "central.hpp"

namespace diffqcp {

class PowerCone final : public Boundary<PowerCone> {
 public:
  explicit PowerCone(double alpha)
      : weights_{alpha, 1 - alpha}, log_weights_{std::log(alpha), std::log(1 - alpha)} {}

  // Everything by its logarithm, since x, y and r underflow in turn as alpha nears 0 or 1.
  BoundaryProjection resolve(const double* given) const {
    double v[3] = {given[0], given[1], given[2]};
    make_unit(v);
    const double sign = v[2] < 0 ? -1 : 1, log_z = safe_log(std::abs(v[2]));
    const auto mean = [&](const double (&parts)[2]) {
      return weights_[0] * parts[0] + weights_[1] * parts[1];
    };
    BoundaryProjection found;
    const double inner[2] = {safe_log(v[0]), safe_log(v[1])};
    const double outer[2] = {safe_log(-v[0]) - log_weights_[0],
                             safe_log(-v[1]) - log_weights_[1]};
    found.inside = v[0] >= 0 && v[1] >= 0 && (mean(inner) >= log_z || v[2] == 0);
    found.polar = v[0] <= 0 && v[1] <= 0 && (mean(outer) >= log_z || v[2] == 0);

    if (!found.bounded()) return found;

    // log((x, y) / r) for w = log(r / (|z0| - r)), whose mean is to be zero.
    double logs[2];
    const auto equation = [&](double w, double* slope) {
      const double decay = std::exp(-std::abs(w)), log_less = -std::log1p(decay);
      const double log_r = log_z + std::min(w, 0.0) + log_less;
      const double log_rest = log_z + std::min(-w, 0.0) + log_less;
      const double of_r = (w > 0 ? 1 : decay) / (1 + decay);
      const double of_rest = (w > 0 ? decay : 1) / (1 + decay);
      double shares[2];
      for (int k = 0; k < 2; ++k) {
        const double m = weights_[k] * (v[2] * of_r) * (v[2] * of_rest);
        const double log_m = log_weights_[k] + log_r + log_rest;
        const double half = (std::abs(v[k]) + std::sqrt(v[k] * v[k] + 4 * m)) / 2;
        // Where m underflows, half is |x0|, which may be zero.
        const double log_half = std::max(safe_log(half), log_m / 2);
        const double share = m > DBL_MIN ? m / (half * half + m)
                                         : 1 / (1 + std::exp(2 * log_half - log_m));
        // The larger root of x^2 - x0 x - m, or else the smaller one without cancellation.
        const bool larger = v[k] >= 0;
        logs[k] = larger ? log_half - log_r : log_weights_[k] + log_rest - log_half;
        shares[k] = larger ? share : 1 - share;
      }
      *slope = of_rest - (of_rest - of_r) * mean(shares);
      return -mean(logs);
    };
    // r from |z0| exp(-1e6) to |z0| (1 - exp(-1e6)): beyond, p is on a face or v in K.
    double slope;
    equation(increasing_root(equation, -1e6, 1e6), &slope);
    const double product = logs[0] + logs[1];
    const double log_ray[3] = {logs[0], logs[1], 0};
    const double log_normal[3] = {log_weights_[0] + logs[1], log_weights_[1] + logs[0],
                                  product};
    const double ray = exp_scaled(log_ray, found.primal);
    const double normal = exp_scaled(log_normal, found.normal);
    found.log_curvature = log_weights_[0] + log_weights_[1] + product + 3 * (ray - normal);
    found.primal[2] *= sign;
    for (int k = 0; k < 2; ++k) found.normal[k] = -found.normal[k];
    found.normal[2] *= sign;
    return found;
  }

  // The barrier is that of Chares: with G = x^2a y^2(1-a) - z^2,
  // -log(G) - (1 - a) log(x) - a log(y).
  void smoothed(const double* v, double mu, double* lam, double* frame) const {
    const double start[3] = {1, 1, 0};
    const auto barrier = [&](const double* p, double* slope, double (&curvature)[3][3]) {
      const double x = p[0], y = p[1], z = p[2];
      const double a = 2 * weights_[0], b = 2 * weights_[1];
      const double power = std::exp(a * std::log(x) + b * std::log(y));
      const double G = power - z * z;
      const double gradient[3] = {a * power / x, b * power / y, -2 * z};
      const double second[3][3] = {
          {a * (a - 1) * power / (x * x), a * b * power / (x * y), 0},
          {a * b * power / (x * y), b * (b - 1) * power / (y * y), 0},
          {0, 0, -2}};
      for (int i = 0; i < 3; ++i) {
        slope[i] = -gradient[i] / G;
        for (int j = 0; j < 3; ++j)
          curvature[i][j] = gradient[i] / G * (gradient[j] / G) - second[i][j] / G;
      }
      slope[0] -= weights_[1] / x;
      slope[1] -= weights_[0] / y;
      curvature[0][0] += weights_[1] / (x * x);
      curvature[1][1] += weights_[0] / (y * y);
    };
    barrier_jacobian(barrier, start, v, mu, lam, frame);
  }

 private:
  // exp(logs) scaled to norm one, and the logarithm of its norm.
  static double exp_scaled(const double* logs, double* scaled) {
    const double largest = std::max(std::max(logs[0], logs[1]), logs[2]);
    for (int k = 0; k < 3; ++k) scaled[k] = std::exp(logs[k] - largest);
    const double norm = std::sqrt(dot3(scaled, scaled));
    for (int k = 0; k < 3; ++k) scaled[k] /= norm;
    return largest + std::log(norm);
  }

  double weights_[2], log_weights_[2];
};

}  // namespace diffqcp
