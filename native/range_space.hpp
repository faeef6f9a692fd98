// Dense systems with a positive definite P, from which x is eliminated: what the Python
// modules diffqcp._range_space and diffqcp.linear_solve.dense_range do with JAX.
//
// With D = U diag(lam) U', B = diag(lam)^(1/2) U'A, P = L L' and V = B L^-T, a system
// K [w; t] = [a; c] of the Python module diffqcp.kkt leaves
//
//     (V V' + I - diag(lam)) t = V L^-1 a - c,      w = L^-T (L^-1 a - V't),
//
// in which rows with lam = 0 drop out. (Nocedal and Wright, "Numerical optimization", section
// 16.2, the Schur-complement method.)
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "coupling.hpp"
#include "room.hpp"

namespace diffqcp {

inline size_t place(Index row, Index col, Index width) {
  return static_cast<size_t>(row) * width + col;
}

// `out` becomes P + shift I, of which the lower triangle counts.
inline void fill_P(const Problem& problem, const double* P, double shift, double* out) {
  const Index n = problem.n;
  if (problem.P.whole()) {
    std::copy(P, P + place(n, 0, n), out);
  } else if (problem.P.order == Places::Order::kUpperCols) {
    problem.P.for_each_stretch([&](const Stretch& stretch, size_t entry) {
      std::copy(P + entry, P + entry + stretch.count, out + place(stretch.line, 0, n));
    });
  } else {
    std::fill(out, out + place(n, 0, n), 0.0);
    for (size_t k = 0; k < problem.P.count(); ++k) {
      const auto [low, high] = std::minmax(problem.P.rows[k], problem.P.cols[k]);
      out[place(high, low, n)] += (low == high ? 1 : problem.weights[k] / 2) * P[k];
    }
  }
  for (Index j = 0; j < n; ++j) out[place(j, j, n)] += shift;
}

// `out` becomes A.
inline void fill_A(const Problem& problem, const double* A, double* out) {
  const Index n = problem.n, m = problem.m;
  if (problem.A.order == Places::Order::kRows) {
    std::copy(A, A + place(m, 0, n), out);
    return;
  }
  std::fill(out, out + place(m, 0, n), 0.0);
  for (size_t k = 0; k < problem.A.count(); ++k)
    out[place(problem.A.rows[k], problem.A.cols[k], n)] += A[k];
}

// out = K z for z = (w, t).
inline void multiply_K(const Problem& problem, const double* P, const double* A,
                       const Jacobian& D, const std::vector<double>& z,
                       std::vector<double>& out) {
  const Index n = problem.n, m = problem.m;
  const std::vector<double> w(z.begin(), z.begin() + n);
  const double* t = z.data() + n;
  std::vector<double> upper(n), Aw(m);
  problem.multiply_P(P, w, upper);
  problem.A.add_transposed(A, to_dual(problem, D, t).data(), upper.data());
  problem.A.multiply(A, w, Aw);
  std::copy(upper.begin(), upper.end(), out.begin());
  from_dual(problem, D, Aw.data(), out.data() + n);
  for (Index k = 0; k < m; ++k) out[n + k] -= (1 - D.lam[k]) * t[k];
}

// Overwrites the lower triangle of a matrix by its Cholesky factor. Returns whether the matrix
// is positive definite, and what the elimination leaves of each diagonal entry is at least
// this part of it and at least `least`.
inline bool cholesky(const Lapack& lapack, Index n, double* matrix, double part,
                     double least) {
  std::vector<double> floor(n);
  for (Index j = 0; j < n; ++j) floor[j] = std::max(part * matrix[place(j, j, n)], least);
  if (!lapack.cholesky(n, matrix)) return false;
  for (Index j = 0; j < n; ++j) {
    const double root = matrix[place(j, j, n)];
    if (!(root * root >= floor[j])) return false;
  }
  return true;
}

// For one P + sigma I and many D: V = A L^-T and V V' are made once.
class RangeSpace {
 public:
  RangeSpace(const Problem& problem, const double* P, const double* A)
      : problem_(problem), P_(P), A_(A) {}

  // Makes these, and returns true, unless a pivot of P + sigma I is smaller than `least`.
  bool eliminate(double sigma, double least) {
    const Index n = problem_.n, m = problem_.m;
    const Lapack& lapack = problem_.lapack;
    sigma_ = sigma;
    root_.resize(place(n, 0, n));
    fill_P(problem_, P_, sigma, root_.data());
    if (!cholesky(lapack, n, root_.data(), 0, least)) return false;
    rows_.resize(place(m, 0, n));
    fill_A(problem_, A_, rows_.data());
    lapack.solve_lower(n, root_.data(), m, rows_.data());
    gram_.resize(place(m, 0, m));
    lapack.gram(m, n, rows_.data(), gram_.data());
    return true;
  }

  // The matrix that is left for t, with D.
  void factorise(const Jacobian& D) {
    const Index m = problem_.m;
    if (!problem_.straight()) turn(D);
    const double* gram = problem_.straight() ? gram_.data() : turned_.data();
    active_.clear();
    for (Index k = 0; k < m; ++k)
      if (D.lam[k] != 0) active_.push_back(k);
    const Index count = static_cast<Index>(active_.size());
    left_.resize(place(count, 0, count));
    for (Index i = 0; i < count; ++i) {
      const Index k = active_[i];
      const double root = std::sqrt(D.lam[k]);
      double* row = left_.data() + place(i, 0, count);
      for (Index j = 0; j <= i; ++j)
        row[j] = root * std::sqrt(D.lam[active_[j]]) * gram[place(k, active_[j], m)];
      row[i] += 1 - D.lam[k];
    }
    if (!cholesky(problem_.lapack, count, left_.data(), 0, 0))
      std::fill(left_.begin(), left_.end(), std::nan(""));
  }

  // (a, c) becomes (w, t); c is zero where lam is.
  void solve(const Jacobian& D, double* z) const {
    const Index n = problem_.n, m = problem_.m, count = static_cast<Index>(active_.size());
    const Lapack& lapack = problem_.lapack;
    double* t = z + n;
    std::vector<double> moved(m), all(m), right(count);
    lapack.solve_lower(n, root_.data(), 1, z);
    for (Index k = 0; k < m; ++k) moved[k] = dot(n, row(k), z);
    from_dual(problem_, D, moved.data(), all.data());
    for (Index i = 0; i < count; ++i) right[i] = all[active_[i]] - t[active_[i]];
    for (bool transposed : {false, true})
      lapack.solve_lower(count, left_.data(), 1, right.data(), transposed);
    std::fill(t, t + m, 0.0);
    for (Index i = 0; i < count; ++i) t[active_[i]] = right[i];
    const std::vector<double> u = to_dual(problem_, D, t);
    for (Index k = 0; k < m; ++k)
      if (u[k] != 0) add_multiple(n, -u[k], row(k), z);
    lapack.solve_lower(n, root_.data(), 1, z, true);
  }

  // out = K z.
  void multiply(const Jacobian& D, const std::vector<double>& z,
                std::vector<double>& out) const {
    multiply_K(problem_, P_, A_, D, z, out);
    for (Index j = 0; j < problem_.n; ++j) out[j] += sigma_ * z[j];
  }

 private:
  const double* row(Index k) const { return rows_.data() + place(k, 0, problem_.n); }

  // U'V V'U: the product of U' with each row, twice.
  void turn(const Jacobian& D) {
    const Index m = problem_.m;
    turned_.assign(gram_.begin(), gram_.end());
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < i; ++j) turned_[place(j, i, m)] = turned_[place(i, j, m)];
    std::vector<double> row(m);
    for (int side = 0; side < 2; ++side) {
      for (Index i = 0; i < m; ++i) {
        double* own = turned_.data() + place(i, 0, m);
        std::copy(own, own + m, row.begin());
        problem_.cone.rotate_back(D.frames, row.data(), own);
      }
      for (Index i = 0; i < m; ++i)
        for (Index j = 0; j < i; ++j)
          std::swap(turned_[place(i, j, m)], turned_[place(j, i, m)]);
    }
  }

  const Problem& problem_;
  const double *P_, *A_;
  double sigma_ = 0;
  Room root_, rows_, gram_;                 // L, V, and the lower triangle of V V'
  std::vector<double> turned_;              // U'V V'U, if U is not the unit matrix
  Indices active_;                          // the coordinates with lam > 0
  Room left_;                               // the factor of the matrix for these
};

// For one D, in memory that somebody keeps.
class Eliminated {
 public:
  // How much memory it needs.
  static int64_t size(const Problem& problem) {
    const int64_t n = problem.n, m = problem.m;
    return n * n + m * n + m * m;
  }

  Eliminated(const Problem& problem, const double* P, const double* A, const Jacobian& D,
             double* memory)
      : problem_(problem), P_(P), A_(A), D_(D), root_(memory),
        rows_(root_ + place(problem.n, 0, problem.n)),
        left_(rows_ + place(problem.m, 0, problem.n)) {
    for (Index k = 0; k < problem.m; ++k)
      if (D.lam[k] != 0) active_.push_back(k);
  }

  // Returns whether K is far from singular.
  bool factorise() {
    const double part = std::sqrt(std::numeric_limits<double>::epsilon());
    const Index n = problem_.n, count = static_cast<Index>(active_.size());
    const Lapack& lapack = problem_.lapack;
    fill_P(problem_, P_, 0, root_);
    if (!cholesky(lapack, n, root_, part, 0)) return false;
    fill_A(problem_, A_, rows_);
    if (!problem_.straight()) turn();
    for (Index i = 0; i < count; ++i) {
      const double root = std::sqrt(D_.lam[active_[i]]);
      const double* from = rows_ + place(active_[i], 0, n);
      double* to = rows_ + place(i, 0, n);
      for (Index j = 0; j < n; ++j) to[j] = root * from[j];
    }
    lapack.solve_lower(n, root_, count, rows_);
    lapack.gram(count, n, rows_, left_);
    for (Index i = 0; i < count; ++i) left_[place(i, i, count)] += 1 - D_.lam[active_[i]];
    return cholesky(lapack, count, left_, part, 0);
  }

  // out = K z.
  void multiply(const std::vector<double>& z, std::vector<double>& out) const {
    multiply_K(problem_, P_, A_, D_, z, out);
  }

  // (a, c) becomes (w, t).
  void solve(double* z) const {
    const Index n = problem_.n, count = static_cast<Index>(active_.size());
    const Lapack& lapack = problem_.lapack;
    double* t = z + n;
    std::vector<double> right(count);
    lapack.solve_lower(n, root_, 1, z);
    for (Index i = 0; i < count; ++i)
      right[i] = dot(n, rows_ + place(i, 0, n), z) - t[active_[i]];
    for (bool transposed : {false, true})
      lapack.solve_lower(count, left_, 1, right.data(), transposed);
    for (Index k = 0; k < problem_.m; ++k)
      if (D_.lam[k] == 0) t[k] = -t[k];
    for (Index i = 0; i < count; ++i) {
      t[active_[i]] = right[i];
      add_multiple(n, -right[i], rows_ + place(i, 0, n), z);
    }
    lapack.solve_lower(n, root_, 1, z, true);
  }

 private:
  // The rows become U'A.
  void turn() {
    const Index n = problem_.n, m = problem_.m;
    std::vector<double> column(m), turned(m);
    for (Index j = 0; j < n; ++j) {
      for (Index k = 0; k < m; ++k) column[k] = rows_[place(k, j, n)];
      problem_.cone.rotate_back(D_.frames, column.data(), turned.data());
      for (Index k = 0; k < m; ++k) rows_[place(k, j, n)] = turned[k];
    }
  }

  const Problem& problem_;
  const double *P_, *A_;
  Jacobian D_;
  double *root_, *rows_, *left_;  // L, V of the active rows, and the factor for these
  Indices active_;                // the coordinates with lam > 0
};

}  // namespace diffqcp
