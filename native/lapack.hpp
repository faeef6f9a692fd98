// What is used of SciPy's linear algebra.
#pragma once

#include <algorithm>
#include <vector>

#include "numeric.hpp"
#include "spectrum.hpp"

namespace diffqcp {

struct Lapack {
  Gemm* gemm;
  Eigen* eigen;

  // Overwrites a symmetric matrix, of which the lower triangle counts, by its eigenvectors,
  // in columns. Whether that has succeeded.
  bool eigenvectors(int n, double* matrix, double* values) const {
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

  // C = A B' for square matrices.
  void multiply_transposed(int n, const double* a, const double* b, double* c) const {
    char none = 'N', transpose = 'T';
    double one = 1, zero = 0;
    gemm(&none, &transpose, &n, &n, &n, &one, const_cast<double*>(a), &n,
         const_cast<double*>(b), &n, &zero, c, &n);
  }
};

}  // namespace diffqcp
