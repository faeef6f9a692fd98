// The method of minimal residuals for a symmetric matrix of which there are products only.
//
// Paige and Saunders, "Solution of sparse indefinite systems of linear equations", SIAM J.
// Numer. Anal. 12 (1975).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.hpp"

namespace diffqcp {

inline double length(const std::vector<double>& vector) {
  return std::sqrt(dot(static_cast<Index>(vector.size()), vector.data(), vector.data()));
}

struct Minres {
  std::vector<double> z;  // of K z = r, in the range of K
  double left = 1;        // the residual over r
  double norm = 0;        // an estimate of that of K, from below
  double condition = 1;   // and of its condition number
};

// Ends when `left` is at most `target`, or as soon as it is clear that this takes more than
// `most` steps, or that the condition number is larger than `worst`. `multiply(from, to)` is
// the product with K.
template <typename Multiply>
Minres minres(const Multiply& multiply, const std::vector<double>& r, double target,
              int64_t most, double worst) {
  // The first steps say little about how fast it goes.
  constexpr int64_t patience = 40, often = 20;
  const size_t n = r.size();
  Minres result{std::vector<double>(n, 0.0)};
  const double whole = length(r);
  if (!(whole > 0) || !std::isfinite(whole)) {
    result.left = whole == 0 ? 0 : std::nan("");
    return result;
  }
  // Lanczos vectors, and the last two directions, whose images are orthonormal.
  std::vector<double> before(n, 0.0), now = r, next(n), older(n, 0.0), old(n, 0.0);
  for (double& entry : now) entry /= whole;
  double below = 0;              // the entry of the tridiagonal matrix beside the diagonal
  double cosine = -1, sine = 0;  // of the last rotation
  double corner = 0, last = 0;   // what the rotations have left for the next columns
  double remaining = whole;      // of the residual, up to its sign
  double largest = 0, smallest = std::numeric_limits<double>::infinity();  // pivots
  for (int64_t step = 1; step <= most; ++step) {
    multiply(now, next);
    for (size_t k = 0; k < n; ++k) next[k] -= below * before[k];
    const double diagonal = dot(static_cast<Index>(n), now.data(), next.data());
    for (size_t k = 0; k < n; ++k) next[k] -= diagonal * now[k];
    const double under = length(next);
    result.norm = std::max(result.norm, std::hypot(std::hypot(below, diagonal), under));

    const double far = corner, near = cosine * last + sine * diagonal;
    const double here = sine * last - cosine * diagonal;
    const double pivot = std::hypot(here, under);
    largest = std::max(largest, pivot);
    smallest = std::min(smallest, pivot);
    result.condition = largest / smallest;
    // Infinite, if K is singular and r is not in its range.
    if (!(result.condition <= worst)) break;
    corner = sine * under;
    last = -cosine * under;
    cosine = here / pivot;
    sine = under / pivot;
    const double share = cosine * remaining;
    remaining *= sine;
    for (size_t k = 0; k < n; ++k) {
      const double direction = (now[k] - far * older[k] - near * old[k]) / pivot;
      older[k] = old[k];
      old[k] = direction;
      result.z[k] += share * direction;
    }
    result.left = std::abs(remaining) / whole;
    if (result.left <= target || !(under > 0) || !std::isfinite(under)) break;
    if (step >= patience && step % often == 0) {
      const double rate = std::log(result.left) / static_cast<double>(step);
      if (!(std::log(target) / rate <= static_cast<double>(most))) break;
    }
    for (size_t k = 0; k < n; ++k) {
      before[k] = now[k];
      now[k] = next[k] / under;
    }
    below = under;
  }
  return result;
}

}  // namespace diffqcp
