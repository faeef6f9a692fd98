// The maps from perturbations of the data to right-hand sides, and back: what the Python
// module diffqcp.derivative does around the linear system.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "system.hpp"

namespace diffqcp {

// A perturbation of the data, or its gradient.
template <typename Number>
struct Data {
  Number *P, *A, *q, *b;
};

// A solution, its perturbation, or its cotangent.
template <typename Number>
struct Solution {
  Number *x, *y, *s;
};

// (dx, dy, ds), and whether the system was solved. `system` solves as System does, and `A` is
// that of it.
template <typename Solves>
bool push_forward(const Problem& problem, Solves& system, const double* A,
                         const double* x, const double* y, const Data<const double>& change,
                         const Solution<double>& out) {
  std::vector<double> r1(problem.n, 0.0), r2(change.b, change.b + problem.m);
  problem.add_P(change.P, x, r1.data());
  problem.A.add_transposed(change.A, y, r1.data());
  for (Index j = 0; j < problem.n; ++j) r1[j] = -(r1[j] + change.q[j]);
  for (size_t k = 0; k < problem.A.count(); ++k)
    r2[problem.A.rows[k]] -= change.A[k] * x[problem.A.cols[k]];
  const Answer answer = system.solve(r1.data(), r2.data());
  std::copy(answer.w.begin(), answer.w.end(), out.x);
  std::copy(answer.u.begin(), answer.u.end(), out.y);
  for (size_t k = 0; k < problem.A.count(); ++k)
    r2[problem.A.rows[k]] -= A[k] * answer.w[problem.A.cols[k]];
  std::copy(r2.begin(), r2.end(), out.s);
  return answer.solved;
}

// The upper part of the right-hand side of the transposed map; the lower one is that of y.
inline std::vector<double> adjoint_system(const Problem& problem, const double* A,
                                          const Solution<const double>& cotangent) {
  std::vector<double> upper(cotangent.x, cotangent.x + problem.n);
  for (size_t k = 0; k < problem.A.count(); ++k)
    upper[problem.A.cols[k]] -= A[k] * cotangent.s[problem.A.rows[k]];
  return upper;
}

// (dP, dA, dq, db) from the solution of the adjoint system.
inline void pull_back(const Problem& problem, const double* x, const double* y,
                      const Solution<const double>& cotangent, const Answer& answer,
                      const Data<double>& out) {
  const double* w = answer.w.data();
  for (Index k = 0; k < problem.m; ++k) out.b[k] = cotangent.s[k] + answer.u[k];
  for (Index j = 0; j < problem.n; ++j) out.q[j] = -w[j];
  const Places &P = problem.P, &A = problem.A;
  if (A.stretched()) {
    const double *line[] = {A.by_rows ? y : w, A.by_rows ? out.b : x};
    const double *other[] = {A.by_rows ? w : y, A.by_rows ? x : out.b};
    A.for_each_stretch([&](const Stretch& stretch, size_t entry) {
      const auto [i, first, count] = stretch;
      combine(count, -line[0][i], other[0] + first, -line[1][i], other[1] + first,
              out.A + entry);
    });
  } else {
    for (size_t k = 0; k < A.count(); ++k) {
      const Index i = A.rows[k], j = A.cols[k];
      out.A[k] = -y[i] * w[j] - out.b[i] * x[j];
    }
  }
  if (P.ordered()) {
    const double weight = P.whole() ? 0.5 : 1;
    P.for_each_stretch([&](const Stretch& stretch, size_t entry) {
      const auto [i, first, count] = stretch;
      combine(count, -weight * w[i], x + first, -weight * x[i], w + first, out.P + entry);
      out.P[entry + i - first] = -w[i] * x[i];
    });
  } else {
    for (size_t k = 0; k < P.count(); ++k) {
      const Index i = P.rows[k], j = P.cols[k];
      out.P[k] = -problem.weights[k] * (w[i] * x[j] + x[i] * w[j]) / 2;
    }
  }
}

// The solution of the system in all unknowns: the Python function solve_by of
// diffqcp._unknowns.
inline void solve_unknowns(const Problem& problem, System& system, const double* A,
                           const double* right, double* out) {
  const Index n = problem.n, m = problem.m, count = n + 2 * m;
  std::fill(out, out + count, 0.0);
  if (std::all_of(right, right + count, [](double entry) { return entry == 0; })) return;
  const double *c = right + n, *e = c + m;
  std::vector<double> upper(right, c), dual(c, e);
  problem.A.add_transposed(A, e, upper.data());
  for (Index k = 0; k < m; ++k) dual[k] += e[k];
  const Answer answer = system.solve(upper.data(), dual.data());
  std::copy(answer.w.begin(), answer.w.end(), out);
  double *dy = out + n, *dv = dy + m;
  problem.A.add_product(A, out, dv);
  for (Index k = 0; k < m; ++k) {
    dy[k] = answer.u[k] - e[k];
    dv[k] += dy[k] - c[k];
  }
}

}  // namespace diffqcp
