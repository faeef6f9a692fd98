// What is used of SciPy's linear algebra.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "numeric.hpp"
#include "spectrum.hpp"

namespace diffqcp {

using Cholesky = void(char*, int*, double*, int*, int*);
using Triangular = void(char*, char*, char*, char*, int*, int*, double*, double*, int*,
                        double*, int*);
using TriangularVector = void(char*, char*, char*, int*, double*, int*, double*, int*);
using Gram = void(char*, char*, int*, int*, double*, double*, int*, double*, double*, int*);

// Matrices are stored by rows, and LAPACK, which reads them by columns, sees their
// transposes. Of a symmetric matrix the lower triangle counts.
struct Lapack {
  Gemm* gemm;
  Eigen* eigen;
  Cholesky* potrf;
  Triangular* trsm;
  TriangularVector* trsv;
  Gram* syrk;

  // Overwrites a symmetric matrix by its eigenvectors, in columns. They and the eigenvalues are NaN if the matrix is not finite.
  void eigenvectors(int n, double* matrix, double* values) const {
    const int64_t entries = int64_t{n} * n;
    const bool finite = std::all_of(matrix, matrix + entries,
                                    [](double entry) { return std::isfinite(entry); });
    if (finite && decompose(n, matrix, values)) return;
    std::fill(matrix, matrix + entries, std::nan(""));
    std::fill(values, values + n, std::nan(""));
  }

  // Overwrites the lower triangle of a matrix A = L L' by L, and returns whether A is
  // positive definite.
  bool cholesky(int n, double* matrix) const {
    char upper = 'U';
    int leading = std::max(n, 1), info = 0;
    potrf(&upper, &n, matrix, &leading, &info);
    return info == 0;
  }

  // Rows r become L^-1 r, or L^-T r, for the lower triangle L of a matrix.
  void solve_lower(int n, const double* factor, int count, double* rows,
                   bool transposed = false) const {
    char left = 'L', upper = 'U', plain = 'N', way = transposed ? 'N' : 'T';
    int leading = std::max(n, 1), next = 1;
    double one = 1, *matrix = const_cast<double*>(factor);
    if (count == 1)
      trsv(&upper, &way, &plain, &n, matrix, &leading, rows, &next);
    else
      trsm(&left, &upper, &way, &plain, &n, &count, &one, matrix, &leading, rows, &leading);
  }

  // The lower triangle of R R' for `count` rows of length n.
  void gram(int count, int n, const double* rows, double* out) const {
    char upper = 'U', transpose = 'T';
    int leading = std::max(n, 1), width = std::max(count, 1);
    double one = 1, zero = 0;
    syrk(&upper, &transpose, &count, &n, &one, const_cast<double*>(rows), &leading, &zero,
         out, &width);
  }

  // C = A B' for square matrices.
  void multiply_transposed(int n, const double* a, const double* b, double* c) const {
    char none = 'N', transpose = 'T';
    double one = 1, zero = 0;
    gemm(&none, &transpose, &n, &n, &n, &one, const_cast<double*>(a), &n,
         const_cast<double*>(b), &n, &zero, c, &n);
  }

 private:
  bool decompose(int n, double* matrix, double* values) const {
    char vectors = 'V', lower = 'L';
    int lwork = -1, liwork = -1, integers = 0, info = 0;
    double length = 0;
    eigen(&vectors, &lower, &n, matrix, &n, values, &length, &lwork, &integers, &liwork,
          &info);
    lwork = static_cast<int>(length);
    liwork = integers;
    std::vector<double> work(std::max(lwork, 1));
    std::vector<int> iwork(std::max(liwork, 1));
    eigen(&vectors, &lower, &n, matrix, &n, values, work.data(), &lwork, iwork.data(),
          &liwork, &info);
    return info == 0;
  }
};

}  // namespace diffqcp
