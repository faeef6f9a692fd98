// Smoothed projections: p with p + mu F'(p) = v for a barrier F of the cone. See the Python
// module diffqcp.cones._central.
#pragma once

#include <cfloat>
#include <cmath>

namespace diffqcp {

// (f(left) - f(right)) / (left - right) for f(v) = (v + sqrt(v^2 + 4 mu)) / 2; where equal,
// f'.
inline double divided_difference(double left, double right, double mu) {
  const double roots = std::sqrt(left * left + 4 * mu) + std::sqrt(right * right + 4 * mu);
  return (1 + (left + right) / roots) / 2;
}

// The eigenvalues of a symmetric 3 x 3 matrix, and its eigenvectors as the columns of
// `basis`, which is by rows: Jacobi's method.
inline void eigenvectors3(double (&H)[3][3], double* values, double* basis) {
  for (int i = 0; i < 9; ++i) basis[i] = i % 4 == 0;
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        const double off = H[p][q];
        // (Products of entries of all sizes may underflow: roots of them do not.)
        if (!(std::abs(off) > DBL_EPSILON / 8 * std::sqrt(std::abs(H[p][p])) *
                                  std::sqrt(std::abs(H[q][q])) &&
              std::abs(off) > DBL_MIN))
          continue;
        rotated = true;
        const double theta = (H[q][q] - H[p][p]) / (2 * off);
        const double t =
            std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        H[p][p] -= t * off;
        H[q][q] += t * off;
        H[p][q] = H[q][p] = 0;
        const int r = 3 - p - q;
        const double left = H[r][p], right = H[r][q];
        H[r][p] = H[p][r] = c * left - s * right;
        H[r][q] = H[q][r] = s * left + c * right;
        for (int k = 0; k < 3; ++k) {
          const double a = basis[3 * k + p], b = basis[3 * k + q];
          basis[3 * k + p] = c * a - s * b;
          basis[3 * k + q] = s * a + c * b;
        }
      }
    if (!rotated) break;
  }
  for (int k = 0; k < 3; ++k) values[k] = H[k][k];
}

// x <- M^-1 x for a positive definite M, by Cholesky's method.
inline void solve3(double (&M)[3][3], double* x) {
  for (int j = 0; j < 3; ++j) {
    for (int k = 0; k < j; ++k) M[j][j] -= M[j][k] * M[j][k];
    M[j][j] = std::sqrt(M[j][j]);
    for (int i = j + 1; i < 3; ++i) {
      for (int k = 0; k < j; ++k) M[i][j] -= M[i][k] * M[j][k];
      M[i][j] /= M[j][j];
    }
  }
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < i; ++k) x[i] -= M[i][k] * x[k];
    x[i] /= M[i][i];
  }
  for (int i = 2; i >= 0; --i) {
    for (int k = i + 1; k < 3; ++k) x[i] -= M[k][i] * x[k];
    x[i] /= M[i][i];
  }
}

// D of a cone in three dimensions, by following the central path from `start`, a point
// inside: damped Newton steps on 1/2 |p - v|^2 + t F(p), with t reduced to mu tenfold
// whenever they are close. (Nesterov, "Lectures on convex optimization", sections 5.2 and
// 5.3.) `barrier(p, slope, curvature)` gives F' and F''.
template <typename Barrier>
void barrier_jacobian(const Barrier& barrier, const double* start, const double* v,
                      double mu, double* lam, double* basis) {
  const double square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
  // Less than this cannot be told from zero next to v.
  mu = std::max(mu, std::pow(DBL_EPSILON, 0.7) * square);
  const double size = std::max(std::sqrt(square), std::sqrt(mu));
  double p[3], t = size * size, slope[3], curvature[3][3];
  for (int k = 0; k < 3; ++k) p[k] = size * start[k];
  for (int count = 0; count < 300; ++count) {
    barrier(p, slope, curvature);
    double gradient[3], step[3], M[3][3], product = 0;
    for (int i = 0; i < 3; ++i) {
      gradient[i] = p[i] - v[i] + t * slope[i];
      step[i] = -gradient[i];
      for (int j = 0; j < 3; ++j) M[i][j] = (i == j) + t * curvature[i][j];
    }
    solve3(M, step);
    for (int i = 0; i < 3; ++i) product -= gradient[i] * step[i];
    const double decrement = std::sqrt(std::max(product, 0.0) / t);
    const bool near = decrement < 0.25;
    const double length = near ? 1 : 1 / (1 + decrement);
    const bool done = t == mu && decrement < std::sqrt(DBL_EPSILON);
    if (near) t = std::max(t / 10, mu);
    for (int i = 0; i < 3; ++i) p[i] += length * step[i];
    if (done) break;
  }
  barrier(p, slope, curvature);
  for (auto& row : curvature)
    for (double& entry : row) entry *= mu;
  double values[3];
  eigenvectors3(curvature, values, basis);
  for (int k = 0; k < 3; ++k) lam[k] = 1 / (1 + std::max(values[k], 0.0));
}

}  // namespace diffqcp
