// What is used of SciPy's linear algebra.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "numeric.hpp"
#include "spectrum.hpp"

namespace diffqcp {

struct Lapack {
  Gemm* gemm;
  Eigen* eigen;

  // Overwrites a symmetric matrix, of which the lower triangle counts, by its eigenvectors,
  // in columns. They and the eigenvalues are NaN if the matrix is not finite.
  void eigenvectors(int n, double* matrix, double* values) const {
    const int64_t entries = int64_t{n} * n;
    const bool finite = std::all_of(matrix, matrix + entries,
                                    [](double entry) { return std::isfinite(entry); });
    if (finite && decompose(n, matrix, values)) return;
    std::fill(matrix, matrix + entries, std::nan(""));
    std::fill(values, values + n, std::nan(""));
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
