// A problem in units of its own: what the Python module diffqcp._scaling does with JAX.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "derivative.hpp"

namespace diffqcp {

// Units of the variables, of the rows and of the objective: the Python class Scaling.
struct Scaling {
  std::vector<double> cols, rows;
  double unit = 1;

  void scale(const Problem& problem, const Data<const double>& data,
             const Data<double>& out) const {
    const auto& [P_rows, P_cols] = problem.P;
    for (size_t k = 0; k < P_rows.size(); ++k)
      out.P[k] = cols[P_rows[k]] * data.P[k] * cols[P_cols[k]];
    const auto& [A_rows, A_cols] = problem.A;
    for (size_t k = 0; k < A_rows.size(); ++k)
      out.A[k] = rows[A_rows[k]] * data.A[k] * cols[A_cols[k]];
    for (Index j = 0; j < problem.n; ++j) out.q[j] = cols[j] * data.q[j] / unit;
    for (Index k = 0; k < problem.m; ++k) out.b[k] = rows[k] * data.b[k] / unit;
  }
};

// The power of two next to a positive number.
inline double power_of_two(double value) {
  int exponent;
  const double fraction = std::frexp(value, &exponent);  // from 1/2 to 1
  return std::ldexp(1.0, fraction > 0.75 ? exponent : exponent - 1);
}

// The Python function equilibrate.
inline Scaling equilibrate(const Problem& problem, const Data<const double>& data) {
  constexpr int kSteps = 5;
  const Index n = problem.n, m = problem.m;
  Scaling scaling{std::vector<double>(n, 1.0), std::vector<double>(m, 1.0)};
  std::vector<double> cols(n), rows(m);
  const auto grow = [](double& largest, double value) {
    largest = std::max(largest, value);
  };
  for (int step = 0; step < kSteps; ++step) {
    double largest = 0;
    for (Index j = 0; j < n; ++j) {
      cols[j] = scaling.cols[j] * std::abs(data.q[j]) / scaling.unit;
      grow(largest, cols[j]);
    }
    for (Index k = 0; k < m; ++k) {
      rows[k] = scaling.rows[k] * std::abs(data.b[k]) / scaling.unit;
      grow(largest, rows[k]);
    }
    const auto& [P_rows, P_cols] = problem.P;
    for (size_t k = 0; k < P_rows.size(); ++k) {
      const Index i = P_rows[k], j = P_cols[k];
      const double size = scaling.cols[i] * std::abs(data.P[k]) * scaling.cols[j];
      grow(cols[i], size);
      grow(cols[j], size);
    }
    const auto& [A_rows, A_cols] = problem.A;
    for (size_t k = 0; k < A_rows.size(); ++k) {
      const double size =
          scaling.rows[A_rows[k]] * std::abs(data.A[k]) * scaling.cols[A_cols[k]];
      grow(cols[A_cols[k]], size);
      grow(rows[A_rows[k]], size);
    }
    Index start = problem.zero + problem.rays;
    for (Index length : problem.lengths) {
      const auto first = rows.begin() + start;
      std::fill(first, first + length, *std::max_element(first, first + length));
      start += length;
    }
    const auto root = [step](double size) { return step == 0 ? 1.0 : std::sqrt(size); };
    for (Index j = 0; j < n; ++j)
      if (cols[j] > 0) scaling.cols[j] /= root(cols[j]);
    for (Index k = 0; k < m; ++k)
      if (rows[k] > 0) scaling.rows[k] /= step == 0 ? rows[k] : std::sqrt(rows[k]);
    if (largest > 0) scaling.unit *= root(largest);
  }
  for (auto* part : {&scaling.cols, &scaling.rows})
    for (double& value : *part) value = power_of_two(value);
  scaling.unit = power_of_two(scaling.unit);
  return scaling;
}

}  // namespace diffqcp
