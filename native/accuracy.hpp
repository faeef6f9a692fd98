// How far a point is from the solution: what the Python module diffqcp._accuracy has.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "derivative.hpp"

namespace diffqcp {

// The largest error of a solution that counts as one, as in the Python module
// diffqcp._accuracy.
inline double accurate_error(double epsilon) { return std::pow(epsilon, 0.7); }

inline double sum_of_sizes(const std::vector<double>& vector) {
  double sum = 0;
  for (double entry : vector) sum += std::abs(entry);
  return sum;
}

inline bool all_finite(const std::vector<double>& vector) {
  double poison = 0;
  for (double entry : vector) poison += 0 * entry;
  return poison == 0;
}

// The Python function scaled_error, for the point (x, y, y - v) and its residuals
// P x + A'y + q and A x + y - v - b. The problem is to be in units of its own.
inline double scaled_error(const Problem& problem, double epsilon,
                           const Data<const double>& data, const std::vector<double>& x,
                           const std::vector<double>& y, const std::vector<double>& v,
                           const std::vector<double>& dual,
                           const std::vector<double>& primal) {
  const double of_x = largest(x), of_y = largest(y);
  double unit = std::max(largest(data.q, problem.n), largest(data.b, problem.m));
  if (unit == 0) unit = 1;
  const double cap = unit / (100 * std::sqrt(epsilon));
  double error = 0, poison = 0;
  const auto end = [&](double residual, double size) {
    error = std::max(error, std::abs(residual) / std::min(size, cap));
    poison += 0 * residual;
  };
  for (double residual : dual) end(residual, 1 + of_x + of_y);
  const Index straight = problem.zero + problem.rays;
  for (Index k = 0; k < straight; ++k) end(primal[k], 1 + of_x + std::abs(y[k] - v[k]));
  Index start = straight;
  for (Index length : problem.lengths) {
    const double size = 1 + of_x + largest(v.data() + start, length);
    for (Index k = start; k < start + length; ++k) end(primal[k], size);
    start += length;
  }
  return error + poison;
}

}  // namespace diffqcp
