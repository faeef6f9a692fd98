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
    multiply(problem.P, cols, data.P, cols, out.P);
    multiply(problem.A, rows, data.A, cols, out.A);
    for (Index j = 0; j < problem.n; ++j) out.q[j] = cols[j] * data.q[j] / unit;
    for (Index k = 0; k < problem.m; ++k) out.b[k] = rows[k] * data.b[k] / unit;
  }

  // From a solution of the problem to that of the scaled one.
  void scale(std::vector<double>& x, std::vector<double>& y, std::vector<double>& s) const {
    for (size_t j = 0; j < x.size(); ++j) x[j] = x[j] / unit / cols[j];
    for (size_t k = 0; k < y.size(); ++k) {
      y[k] = y[k] / unit / rows[k];
      s[k] = s[k] / unit * rows[k];
    }
  }

  // The inverse of that.
  void restore(std::vector<double>& x, std::vector<double>& y,
               std::vector<double>& s) const {
    for (size_t j = 0; j < x.size(); ++j) x[j] = x[j] * unit * cols[j];
    for (size_t k = 0; k < y.size(); ++k) {
      y[k] = y[k] * unit * rows[k];
      s[k] = s[k] * unit / rows[k];
    }
  }

 private:
  // The entries of a matrix with its rows and columns multiplied.
  static void multiply(const Places& places, const std::vector<double>& left,
                       const double* values, const std::vector<double>& right,
                       double* out) {
    if (places.stretched()) {
      const std::vector<double> &line = places.by_rows ? left : right,
                                &other = places.by_rows ? right : left;
      places.for_each_stretch([&](const Stretch& stretch, size_t entry) {
        for (Index k = 0; k < stretch.count; ++k)
          out[entry + k] =
              line[stretch.line] * values[entry + k] * other[stretch.first + k];
      });
      return;
    }
    for (size_t k = 0; k < places.count(); ++k)
      out[k] = left[places.rows[k]] * values[k] * right[places.cols[k]];
  }
};

// The power of two next to a positive number.
inline double power_of_two(double value) {
  int exponent;
  const double fraction = std::frexp(value, &exponent);  // from 1/2 to 1
  return std::ldexp(1.0, fraction > 0.75 ? exponent : exponent - 1);
}

inline void grow(double& largest, double value) { largest = std::max(largest, value); }

// `of_rows` and `of_cols` become at least the largest entries of the rows and columns of a
// matrix with these factors of rows and columns.
inline void grow_by(const Places& places, const double* values,
                    const std::vector<double>& rows, const std::vector<double>& cols,
                    std::vector<double>& of_rows, std::vector<double>& of_cols) {
  if (places.stretched()) {
    const std::vector<double> &line = places.by_rows ? rows : cols,
                              &other = places.by_rows ? cols : rows;
    std::vector<double> &of_line = places.by_rows ? of_rows : of_cols,
                        &of_other = places.by_rows ? of_cols : of_rows;
    places.for_each_stretch([&](const Stretch& stretch, size_t entry) {
      const auto [i, first, count] = stretch;
      grow(of_line[i], grow_row(count, line[i], values + entry, other.data() + first,
                                of_other.data() + first));
    });
    return;
  }
  for (size_t k = 0; k < places.count();) {
    const Index i = places.rows[k];
    double largest = 0;
    for (; k < places.count() && places.rows[k] == i; ++k) {
      const Index j = places.cols[k];
      const double size = rows[i] * std::abs(values[k]) * cols[j];
      grow(of_cols[j], size);
      grow(largest, size);
    }
    grow(of_rows[i], largest);
  }
}

// The Python function equilibrate.
inline Scaling equilibrate(const Problem& problem, const Data<const double>& data) {
  constexpr int kSteps = 5;
  const Index n = problem.n, m = problem.m;
  Scaling scaling{std::vector<double>(n, 1.0), std::vector<double>(m, 1.0)};
  std::vector<double> cols(n), rows(m);
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
    grow_by(problem.P, data.P, scaling.cols, scaling.cols, cols, cols);
    grow_by(problem.A, data.A, scaling.rows, scaling.cols, rows, cols);
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
