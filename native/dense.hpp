// Dense linear algebra as XLA FFI calls, by SciPy's LAPACK, for batches of matrices. JAX's
// own calls of LAPACK may wait for a thread that waits for them; see src/diffqcp/_lapack.py.
//
// Matrices are stored by rows. LAPACK, which reads them by columns, sees their transposes.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "batch.hpp"
#include "lapack.hpp"
#include "parallel.hpp"

namespace diffqcp::dense {

using Lu = void(int*, int*, double*, int*, int*, int*);
using LuSolve = void(char*, int*, int*, double*, int*, int*, double*, int*, int*);

struct Routines {
  Lapack lapack;
  Lu* getrf;
  LuSolve* getrs;
};

inline Routines routines{};

using Result = ffi::Result<ffi::AnyBuffer>;
using Pivots = ffi::Buffer<ffi::S32>;
using Dims = ffi::Span<const int64_t>;

// One item of a result, as doubles. If the result is float32, the destructor rounds them
// into it.
class Item {
 public:
  Item(Result& result, int64_t item, Index count)
      : buffer_(*result), offset_(item * count), count_(count) {
    if (buffer_.element_type() == ffi::F64)
      data_ = buffer_.typed_data<double>() + offset_;
    else
      copy_.resize(count), data_ = copy_.data();
  }
  Item(const Item&) = delete;
  ~Item() {
    if (buffer_.element_type() == ffi::F32)
      std::copy(data_, data_ + count_, buffer_.typed_data<float>() + offset_);
  }

  double* data() { return data_; }
  void fill(double value) { std::fill(data_, data_ + count_, value); }

 private:
  ffi::AnyBuffer& buffer_;
  int64_t offset_;
  Index count_;
  std::vector<double> copy_;
  double* data_ = nullptr;
};

constexpr int64_t kLargest = 46340;  // whose square is below 2^31

inline int64_t last(Dims dims) { return dims.size() == 0 ? 0 : dims[dims.size() - 1]; }

inline bool square(const Numbers& matrices) {
  const Dims dims = matrices.dimensions();
  return real(matrices) && dims.size() >= 2 && last(dims) <= kLargest &&
         dims[dims.size() - 2] == last(dims);
}

inline bool same(Dims left, Dims right) {
  return left.size() == right.size() && std::equal(left.begin(), left.end(), right.begin());
}

// Whether the leading axes of an array are as those of another one or, in an argument, of
// length one. The last `inner` axes, and the other one's last two, belong to an item.
inline bool leads(Dims dims, Dims all, size_t inner, bool result = false) {
  if (dims.size() < inner || all.size() < 2) return false;
  if (dims.size() - inner != all.size() - 2) return false;
  for (size_t axis = 0; axis + inner < dims.size(); ++axis)
    if (dims[axis] != all[axis] && (result || dims[axis] != 1)) return false;
  return true;
}

// Whether factors take rows, and give these solutions.
inline bool fit(const Numbers& factors, const Numbers& rows, Numbers& solutions) {
  const Dims own = factors.dimensions(), dims = solutions.dimensions(),
             given = rows.dimensions();
  return square(factors) && real(rows) && real(solutions) && leads(own, dims, 2) &&
         leads(given, dims, 2) && last(own) == last(dims) && last(given) == last(dims) &&
         given[given.size() - 2] == dims[dims.size() - 2] &&
         last(dims) * given[given.size() - 2] < (int64_t{1} << 31);
}

inline ffi::Error fault(const char* name, const char* expected) {
  return ffi::Error::InvalidArgument(std::string(name) + ": expected " + expected +
                                     ", with fewer than 2^31 entries");
}

// The eigenvalues of symmetric matrices, and the eigenvectors as rows. Both are NaN where a
// matrix is not finite.
inline ffi::Error eigh(ffi::ThreadPool pool, Numbers matrices, Result values,
                       Result vectors) {
  const Dims dims = matrices.dimensions(), short_dims = values->dimensions();
  if (!square(matrices) || !real(*values) || !real(*vectors) ||
      !same(dims, vectors->dimensions()) || !leads(short_dims, dims, 1, true) ||
      last(short_dims) != last(dims))
    return fault("eigh", "symmetric matrices");
  const Index n = static_cast<Index>(last(dims));
  parallel(pool, items(dims, 2), [&](int64_t item) {
    Item basis(vectors, item, n * n), eigenvalues(values, item, n);
    read(matrices, item * n * n, n * n, nullptr, basis.data());
    routines.lapack.eigenvectors(n, basis.data(), eigenvalues.data());
  });
  return ffi::Error::Success();
}

// L with A = L L', of which the lower triangle counts. NaN if A is not positive definite.
inline ffi::Error cholesky(ffi::ThreadPool pool, Numbers matrices, Result factors) {
  const Dims dims = matrices.dimensions();
  if (!square(matrices) || !real(*factors) || !same(dims, factors->dimensions()))
    return fault("cholesky", "symmetric matrices");
  int n = static_cast<int>(last(dims));
  parallel(pool, items(dims, 2), [&](int64_t item) {
    Item factor(factors, item, n * n);
    double* out = factor.data();
    read(matrices, int64_t{item} * n * n, n * n, nullptr, out);
    if (!routines.lapack.cholesky(n, out)) return factor.fill(std::nan(""));
    for (int row = 0; row < n; ++row)
      std::fill(out + int64_t{row} * n + row + 1, out + int64_t{row + 1} * n, 0.0);
  });
  return ffi::Error::Success();
}

// Rows r become L^-1 r, or L^-T r, for the lower triangle L of a matrix.
inline ffi::Error triangular(ffi::ThreadPool pool, Numbers factors, Numbers rows,
                             bool transposed, Result solutions) {
  const Dims dims = solutions->dimensions(), own = factors.dimensions();
  if (!fit(factors, rows, *solutions))
    return fault("solve_triangular", "matrices and rows of one length");
  const Batch factor_of(own, dims, 2), rows_of(rows.dimensions(), dims, 2);
  int n = static_cast<int>(last(dims)), k = static_cast<int>(dims[dims.size() - 2]);
  parallel(pool, items(dims, 2), [&](int64_t item) {
    Item solution(solutions, item, n * k);
    read(rows, rows_of(item), n * k, nullptr, solution.data());
    const Values factor(factors, factor_of(item), n * n);
    routines.lapack.solve_lower(n, factor.data(), k, solution.data(), transposed);
  });
  return ffi::Error::Success();
}

// The LU factors of the transposed matrices, and pivots, for lu_solve.
inline ffi::Error lu(ffi::ThreadPool pool, Numbers matrices, Result factors,
                     ffi::Result<Pivots> pivots) {
  const Dims dims = matrices.dimensions(), short_dims = pivots->dimensions();
  if (!square(matrices) || !real(*factors) || !same(dims, factors->dimensions()) ||
      !leads(short_dims, dims, 1, true) || last(short_dims) != last(dims))
    return fault("lu", "square matrices");
  int n = static_cast<int>(last(dims));
  parallel(pool, items(dims, 2), [&](int64_t item) {
    Item factor(factors, item, n * n);
    read(matrices, int64_t{item} * n * n, n * n, nullptr, factor.data());
    int order = n, leading = std::max(n, 1), info = 0;
    int* places = pivots->typed_data() + item * n;
    routines.getrf(&order, &order, factor.data(), &leading, places, &info);
  });
  return ffi::Error::Success();
}

// Rows r become A^-1 r. They are not finite where A is singular.
inline ffi::Error lu_solve(ffi::ThreadPool pool, Numbers factors, Pivots pivots,
                           Numbers rows, Result solutions) {
  const Dims dims = solutions->dimensions(), own = factors.dimensions();
  if (!fit(factors, rows, *solutions) || !leads(pivots.dimensions(), dims, 1) ||
      last(pivots.dimensions()) != last(own))
    return fault("lu_solve", "matrices, pivots and rows of one length");
  const Batch factor_of(own, dims, 2), rows_of(rows.dimensions(), dims, 2),
      pivots_of(pivots.dimensions(), dims, 1);
  int n = static_cast<int>(last(dims)), k = static_cast<int>(dims[dims.size() - 2]);
  parallel(pool, items(dims, 2), [&](int64_t item) {
    Item solution(solutions, item, n * k);
    read(rows, rows_of(item), n * k, nullptr, solution.data());
    const Values factor(factors, factor_of(item), n * n);
    char transpose = 'T';
    int order = n, count = k, leading = std::max(n, 1), info = 0;
    routines.getrs(&transpose, &order, &count, const_cast<double*>(factor.data()), &leading,
                   pivots.typed_data() + pivots_of(item), solution.data(), &leading, &info);
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kEigh, Guarded<eigh>::call,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Numbers>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(
    kCholesky, Guarded<cholesky>::call,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Numbers>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(kTriangular, Guarded<triangular>::call,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Numbers>()
                           .Arg<Numbers>()
                           .Attr<bool>("transposed")
                           .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER(kLu, Guarded<lu>::call,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Numbers>()
                           .Ret<ffi::AnyBuffer>()
                           .Ret<Pivots>());
XLA_FFI_DEFINE_HANDLER(kLuSolve, Guarded<lu_solve>::call,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Numbers>()
                           .Arg<Pivots>()
                           .Arg<Numbers>()
                           .Ret<ffi::AnyBuffer>());

}  // namespace diffqcp::dense
