// What the tests of both halves share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../plan.hpp"

#define REQUIRE(condition) \
  diffqcp::tests::require(condition, #condition, __FILE__, __LINE__)

namespace diffqcp::tests {

using Numbers = std::vector<double>;

inline void require(bool condition, const char* text, const char* file, int line) {
  if (condition) return;
  std::fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
  std::exit(1);
}

// C = alpha A B' + beta C, all that is asked of a dgemm.
inline void gemm(char* first, char* second, int* rows, int* cols, int* inner,
                 double* alpha, double* a, int* lda, double* b, int* ldb, double* beta,
                 double* c, int* ldc) {
  REQUIRE(*first == 'N' && *second == 'T');
  for (int j = 0; j < *cols; ++j)
    for (int i = 0; i < *rows; ++i) {
      double sum = 0;
      for (int k = 0; k < *inner; ++k)
        sum += a[i + int64_t{k} * *lda] * b[j + int64_t{k} * *ldb];
      double& target = c[i + int64_t{j} * *ldc];
      // As in BLAS, what is multiplied by zero is not read: it may be NaN.
      target = *alpha * sum + (*beta == 0 ? 0 : *beta * target);
    }
}

// The upper triangle U of a matrix U'U by columns, all that is asked of a dpotrf.
inline void potrf(char* part, int* n, double* a, int* lda, int* info) {
  REQUIRE(*part == 'U');
  *info = 0;
  for (int j = 0; j < *n; ++j) {
    double* column = a + int64_t{j} * *lda;
    for (int i = 0; i <= j; ++i) {
      const double* other = a + int64_t{i} * *lda;
      double sum = column[i];
      for (int k = 0; k < i; ++k) sum -= other[k] * column[k];
      if (i < j)
        column[i] = sum / other[i];
      else if (sum > 0)
        column[i] = std::sqrt(sum);
      else if (*info == 0)
        *info = j + 1;
    }
    if (*info != 0) return;
  }
}

// z becomes U^-1 z or U'^-1 z, all that is asked of a dtrsv.
inline void trsv(char* part, char* way, char* unit, int* n, double* a, int* lda, double* z,
                 int* step) {
  REQUIRE(*part == 'U' && *unit == 'N' && *step == 1);
  const auto entry = [&](int i, int j) { return a[i + int64_t{j} * *lda]; };
  if (*way == 'T') {
    for (int i = 0; i < *n; ++i) {
      for (int k = 0; k < i; ++k) z[i] -= entry(k, i) * z[k];
      z[i] /= entry(i, i);
    }
  } else {
    for (int i = *n - 1; i >= 0; --i) {
      for (int k = i + 1; k < *n; ++k) z[i] -= entry(i, k) * z[k];
      z[i] /= entry(i, i);
    }
  }
}

// The same for several columns, all that is asked of a dtrsm.
inline void trsm(char* side, char* part, char* way, char* unit, int* n, int* count,
                 double* alpha, double* a, int* lda, double* z, int* ldz) {
  REQUIRE(*side == 'L' && *alpha == 1);
  int one = 1;
  for (int j = 0; j < *count; ++j)
    trsv(part, way, unit, n, a, lda, z + int64_t{j} * *ldz, &one);
}

// The upper triangle of A'A, all that is asked of a dsyrk.
inline void syrk(char* part, char* way, int* n, int* inner, double* alpha, double* a,
                 int* lda, double* beta, double* c, int* ldc) {
  REQUIRE(*part == 'U' && *way == 'T' && *alpha == 1 && *beta == 0);
  for (int j = 0; j < *n; ++j)
    for (int i = 0; i <= j; ++i) {
      double sum = 0;
      for (int k = 0; k < *inner; ++k)
        sum += a[k + int64_t{i} * *lda] * a[k + int64_t{j} * *lda];
      c[i + int64_t{j} * *ldc] = sum;
    }
}



// Jacobi's method, for what is asked of a dsyevd.
inline void eigen(char* job, char* part, int* n, double* a, int* lda, double* values,
                  double* work, int* lwork, int* iwork, int* liwork, int* info) {
  REQUIRE(*job == 'V' && *part == 'L' && *lda == *n);
  *info = 0;
  if (*lwork < 0 || *liwork < 0) {
    *work = *iwork = 1;
    return;
  }
  const int size = *n;
  Numbers matrix(static_cast<size_t>(size) * size), basis(matrix.size(), 0.0);
  for (int j = 0; j < size; ++j)
    for (int i = 0; i < size; ++i)
      matrix[i + j * size] = a[std::max(i, j) + std::min(i, j) * size];
  for (int j = 0; j < size; ++j) basis[j * size + j] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, all = 0;
    for (int j = 0; j < size; ++j)
      for (int i = 0; i < size; ++i) {
        const double square = matrix[i + j * size] * matrix[i + j * size];
        all += square;
        if (i != j) off += square;
      }
    if (!(off > 1e-32 * all)) break;
    for (int p = 0; p < size; ++p)
      for (int q = p + 1; q < size; ++q) {
        if (matrix[p + q * size] == 0) continue;
        const double theta =
            (matrix[q + q * size] - matrix[p + p * size]) / (2 * matrix[p + q * size]);
        const double t =
            std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto rotate = [&](double& left, double& right) {
          const double old = left;
          left = c * old - s * right;
          right = s * old + c * right;
        };
        for (int k = 0; k < size; ++k) rotate(matrix[k + p * size], matrix[k + q * size]);
        for (int k = 0; k < size; ++k) rotate(matrix[p + k * size], matrix[q + k * size]);
        for (int k = 0; k < size; ++k) rotate(basis[k + p * size], basis[k + q * size]);
      }
  }
  for (int j = 0; j < size; ++j) values[j] = matrix[j + j * size];
  std::copy(basis.begin(), basis.end(), a);
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  Index below(Index count) {
    return std::uniform_int_distribution<Index>(0, count - 1)(engine_);
  }
  double normal() { return std::normal_distribution<double>()(engine_); }
  double uniform() { return std::uniform_real_distribution<double>(0.5, 2)(engine_); }

  Numbers vector(Index n) {
    Numbers numbers(n);
    for (double& number : numbers) number = normal();
    return numbers;
  }

 private:
  std::mt19937 engine_;
};

inline double size(const Numbers& vector) {
  double most = 0;
  for (double entry : vector) most = std::max(most, std::abs(entry));
  return most;
}

inline double distance(Numbers left, const Numbers& right) {
  for (size_t k = 0; k < left.size(); ++k) left[k] -= right[k];
  return size(left);
}

}  // namespace diffqcp::tests
