// Loops over columns of dense panels, compiled for vector instructions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "plan.hpp"

namespace diffqcp {

// Below this many multiplications a call of a vectorised function costs more than it saves.
constexpr int64_t kTiny = 32;

// c -= A b, with A by columns.
DIFFQCP_VECTORISED
inline void subtract_many(Index rows, Index cols, const double* a, int64_t stride,
                             const double* b, double* c) {
  Index k = 0;
  for (; k + 4 <= cols; k += 4) {
    const double *a0 = a + k * stride, *a1 = a0 + stride, *a2 = a1 + stride,
                 *a3 = a2 + stride;
    const double b0 = b[k], b1 = b[k + 1], b2 = b[k + 2], b3 = b[k + 3];
    for (Index i = 0; i < rows; ++i)
      c[i] -= a0[i] * b0 + a1[i] * b1 + a2[i] * b2 + a3[i] * b3;
  }
  for (; k < cols; ++k) {
    const double* a0 = a + k * stride;
    const double b0 = b[k];
    for (Index i = 0; i < rows; ++i) c[i] -= a0[i] * b0;
  }
}

inline void subtract_columns(Index rows, Index cols, const double* a, int64_t stride,
                             const double* b, double* c) {
  if (static_cast<int64_t>(rows) * cols >= kTiny)
    return subtract_many(rows, cols, a, stride, b, c);
  for (Index k = 0; k < cols; ++k, a += stride)
    for (Index i = 0; i < rows; ++i) c[i] -= a[i] * b[k];
}

DIFFQCP_VECTORISED
inline void add_many(Index size, double factor, const double* a, double* c) {
  for (Index i = 0; i < size; ++i) c[i] += factor * a[i];
}

// c += factor a
inline void add_multiple(Index size, double factor, const double* a, double* c) {
  if (size >= kTiny) return add_many(size, factor, a, c);
  for (Index i = 0; i < size; ++i) c[i] += factor * a[i];
}

// Entries of a row of a matrix, or of a column, that follow each other.
struct Stretch {
  Index line, first, count;
};

// y += A x for a matrix with these entries in its rows.
DIFFQCP_VECTORISED
inline void add_dots(const std::vector<Stretch>& stretches, const double* A, const double* x,
                     double* y) {
  for (const Stretch& stretch : stretches) {
    const double* other = x + stretch.first;
    double sums[4] = {};
    Index k = 0;
    for (; k + 4 <= stretch.count; k += 4)
      for (Index i = 0; i < 4; ++i) sums[i] += A[k + i] * other[k + i];
    for (; k < stretch.count; ++k) sums[0] += A[k] * other[k];
    y[stretch.line] += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    A += stretch.count;
  }
}

// y += A'x for a matrix with these entries in its rows.
DIFFQCP_VECTORISED
inline void add_multiples(const std::vector<Stretch>& stretches, const double* A,
                          const double* x, double* y) {
  for (const Stretch& stretch : stretches) {
    const double factor = x[stretch.line];
    double* other = y + stretch.first;
    for (Index k = 0; k < stretch.count; ++k) other[k] += factor * A[k];
    A += stretch.count;
  }
}

DIFFQCP_VECTORISED
inline double dot_many(Index size, const double* a, const double* b) {
  double sum[4] = {0, 0, 0, 0};
  Index i = 0;
  for (; i + 4 <= size; i += 4)
    for (Index k = 0; k < 4; ++k) sum[k] += a[i + k] * b[i + k];
  for (; i < size; ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline double dot(Index size, const double* a, const double* b) {
  if (size >= kTiny) return dot_many(size, a, b);
  double sum = 0;
  for (Index i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return dot(static_cast<Index>(a.size()), a.data(), b.data());
}

// The largest absolute value. NaN is ignored.
inline double largest(const double* values, size_t count) {
  double sizes[4] = {0, 0, 0, 0};
  size_t k = 0;
  for (; k + 4 <= count; k += 4)
    for (size_t i = 0; i < 4; ++i) sizes[i] = std::max(sizes[i], std::abs(values[k + i]));
  for (; k < count; ++k) sizes[0] = std::max(sizes[0], std::abs(values[k]));
  return std::max(std::max(sizes[0], sizes[1]), std::max(sizes[2], sizes[3]));
}

inline double largest(const std::vector<double>& values) {
  return largest(values.data(), values.size());
}

// c += factor a; returns a'b.
DIFFQCP_VECTORISED
inline double add_and_dot(Index size, double factor, const double* a, const double* b,
                          double* c) {
  constexpr Index lanes = 8;
  double sums[lanes] = {};
  Index i = 0;
  for (; i + lanes <= size; i += lanes)
    for (Index k = 0; k < lanes; ++k) {
      c[i + k] += factor * a[i + k];
      sums[k] += a[i + k] * b[i + k];
    }
  for (; i < size; ++i) {
    c[i] += factor * a[i];
    sums[0] += a[i] * b[i];
  }
  double sum = 0;
  for (double part : sums) sum += part;
  return sum;
}

// c = factor a + other b
DIFFQCP_VECTORISED
inline void combine(Index size, double factor, const double* a, double other,
                    const double* b, double* c) {
  for (Index i = 0; i < size; ++i) c[i] = factor * a[i] + other * b[i];
}

// `sizes` become at least those of factor * values * scales, the largest of which is
// returned. NaN is ignored.
DIFFQCP_VECTORISED
inline double grow_row(Index count, double factor, const double* values,
                       const double* scales, double* sizes) {
  constexpr Index lanes = 8;
  double most[lanes] = {};
  const auto grow = [](double& old, double size) { old = size > old ? size : old; };
  Index j = 0;
  for (; j + lanes <= count; j += lanes)
    for (Index i = 0; i < lanes; ++i) {
      const double size = factor * std::abs(values[j + i]) * scales[j + i];
      grow(most[i], size);
      grow(sizes[j + i], size);
    }
  for (; j < count; ++j) {
    const double size = factor * std::abs(values[j]) * scales[j];
    grow(most[0], size);
    grow(sizes[j], size);
  }
  return *std::max_element(most, most + lanes);
}

// A pivot, or where it is too small the least one. Where it is so small that this is no
// rounding error, or has the wrong sign, a hair less than that marks it. A NaN is kept.
constexpr double kMark = 1 - 0x1p-40;

inline double pivot(double value, double least) {
  if (least > 0 ? value >= least : value <= least) return value;
  const double part = value / least;
  return part < 0.5 ? kMark * least : part < 1 ? least : value;
}

// Whether a pivot is none of these, given its inverse.
inline bool is_marked(double inverse, double least) { return inverse * least > 1 + 0x1p-41; }

// As many columns of a panel, and as many vectors, are taken at once in what follows.
constexpr Index kColumns = 4;
constexpr int kVectors = 2;

DIFFQCP_VECTORISED
inline void subtract_four_twice(Index rows, const double* a, int64_t stride, double* c,
                                double* e) {
  const double *a0 = a, *a1 = a0 + stride, *a2 = a1 + stride, *a3 = a2 + stride;
  const double b0 = c[0], b1 = c[1], b2 = c[2], b3 = c[3];
  const double d0 = e[0], d1 = e[1], d2 = e[2], d3 = e[3];
  c += kColumns, e += kColumns;
  for (Index i = 0; i < rows; ++i) {
    c[i] -= a0[i] * b0 + a1[i] * b1 + a2[i] * b2 + a3[i] * b3;
    e[i] -= a0[i] * d0 + a1[i] * d1 + a2[i] * d2 + a3[i] * d3;
  }
}

// x(cols + i) -= sum of a(i, k) x(k), k < cols <= kColumns, for at most kVectors vectors x.
inline void subtract_columns(Index rows, Index cols, const double* a, int64_t stride,
                             int vectors, double* x, int64_t apart) {
  if (cols == kColumns && vectors == kVectors)
    return subtract_four_twice(rows, a, stride, x, x + apart);
  for (int c = 0; c < vectors; ++c, x += apart)
    subtract_columns(rows, cols, a, stride, x, x + cols);
}

DIFFQCP_VECTORISED
inline void subtract_four_products(Index rows, const double* a, int64_t stride, double* x) {
  const double *a0 = a, *a1 = a0 + stride, *a2 = a1 + stride, *a3 = a2 + stride;
  const double* y = x + kColumns;
  double s0[4] = {0}, s1[4] = {0}, s2[4] = {0}, s3[4] = {0};
  Index i = 0;
  for (; i + 4 <= rows; i += 4)
    for (Index k = 0; k < 4; ++k) {
      s0[k] += a0[i + k] * y[i + k];
      s1[k] += a1[i + k] * y[i + k];
      s2[k] += a2[i + k] * y[i + k];
      s3[k] += a3[i + k] * y[i + k];
    }
  for (; i < rows; ++i) {
    s0[0] += a0[i] * y[i];
    s1[0] += a1[i] * y[i];
    s2[0] += a2[i] * y[i];
    s3[0] += a3[i] * y[i];
  }
  x[0] -= (s0[0] + s0[1]) + (s0[2] + s0[3]);
  x[1] -= (s1[0] + s1[1]) + (s1[2] + s1[3]);
  x[2] -= (s2[0] + s2[1]) + (s2[2] + s2[3]);
  x[3] -= (s3[0] + s3[1]) + (s3[2] + s3[3]);
}

// x(k) -= sum of a(i, k) x(cols + i) likewise.
inline void subtract_products(Index rows, Index cols, const double* a, int64_t stride,
                              int vectors, double* x, int64_t apart) {
  for (int c = 0; c < vectors; ++c, x += apart) {
    if (cols == kColumns) {
      subtract_four_products(rows, a, stride, x);
      continue;
    }
    for (Index k = 0; k < cols; ++k) x[k] -= dot(rows, a + k * stride, x + cols);
  }
}

}  // namespace diffqcp
