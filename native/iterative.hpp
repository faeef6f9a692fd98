// The linear system of native/system.hpp without putting K together: by products with P, A
// and the eigenvectors of D. That is what large semidefinite cones are for, whose part of K
// is dense while a product with D takes two congruences; and patterns that fill.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "minres.hpp"
#include "system.hpp"

namespace diffqcp {

class Iterative {
 public:
  // Whether a factorisation takes so much longer than a product that iterations are tried,
  // and these may be trusted.
  static bool pays(const Problem& problem, const Options& options, const double* P,
                   const double* A) {
    return problem.products >= options.worth && even(problem, P, A);
  }

  // P, A and D are for others to keep.
  Iterative(const Problem& problem, const Options& options, const double* P,
            const double* A, const Jacobian& D)
      : problem_(problem), options_(options), P_(P), A_(A), D_(D) {}

  // As that of System; nothing if it would take longer than a factorisation, or if K is
  // not so well conditioned that a small residual is that of a small error.
  std::optional<Answer> solve(const double* upper, const double* dual, double enough) const {
    // A new start with the true residual takes steps, but the recursion's drifts away.
    constexpr double stage = 1e-9;
    constexpr int stages = 5;
    constexpr double worst = 2e4;
    constexpr double rounding = 4 * std::numeric_limits<double>::epsilon();
    const int64_t most =
        static_cast<int64_t>(std::min(std::max(problem_.products, 200.0), 1e6));
    const Index n = problem_.n, m = problem_.m;
    std::vector<double> r(n + m), z(n + m, 0.0), image(n + m);
    std::copy(upper, upper + n, r.begin());
    from_dual(problem_, D_, dual, r.data() + n);
    const double tolerance = std::max(0.1 * std::max(options_.tolerance, enough), rounding);
    const double size = length(r);
    const auto product = [&](const std::vector<double>& from, std::vector<double>& to) {
      multiply(from, to);
    };
    std::vector<double> rest = r;
    double norm = 0, left = size;
    for (int repeat = 0; repeat < stages && left > 0; ++repeat) {
      const double whole = size + norm * length(z);
      const double target = std::max(stage, std::min(0.5 * tolerance * whole / left, 0.5));
      const Minres found = minres(product, rest, target, most, worst);
      if (!(found.left <= target && found.condition <= worst)) return std::nullopt;
      norm = std::max(norm, found.norm);
      for (Index k = 0; k < n + m; ++k) z[k] += found.z[k];
      multiply(z, image);
      for (Index k = 0; k < n + m; ++k) rest[k] = r[k] - image[k];
      left = length(rest);
      if (left <= tolerance * (size + norm * length(z))) return answer(z);
    }
    if (size == 0) return answer(z);
    return std::nullopt;
  }

 private:
  // Whether rows and columns are of about one size, those of a cone taken together.
  static bool even(const Problem& problem, const double* P, const double* A) {
    constexpr double most = 1e3;
    const Index n = problem.n, m = problem.m;
    std::vector<double> squares(n + m, 0.0);
    for (size_t k = 0; k < problem.P.count(); ++k) {
      const double square = P[k] * P[k];
      squares[problem.P.rows[k]] += square;
      if (problem.P.rows[k] != problem.P.cols[k]) squares[problem.P.cols[k]] += square;
    }
    for (size_t k = 0; k < problem.A.count(); ++k) {
      const double square = A[k] * A[k];
      squares[problem.A.cols[k]] += square;
      squares[n + problem.A.rows[k]] += square;
    }
    Index start = n + problem.zero + problem.rays;
    for (Index length : problem.lengths) {
      double sum = 0;
      for (Index k = start; k < start + length; ++k) sum += squares[k];
      std::fill(squares.begin() + start, squares.begin() + start + length, sum / length);
      start += length;
    }
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    for (double square : squares) {
      if (square == 0) continue;
      largest = std::max(largest, square);
      smallest = std::min(smallest, square);
    }
    return !(largest > most * most * smallest);
  }

  // [w; t] becomes K [w; t].
  void multiply(const std::vector<double>& from, std::vector<double>& to) const {
    const Index n = problem_.n, m = problem_.m;
    const std::vector<double> pulled = to_dual(problem_, D_, from.data() + n);
    std::vector<double> pushed(m, 0.0);
    std::fill(to.begin(), to.begin() + n, 0.0);
    problem_.add_P(P_, from.data(), to.data());
    problem_.A.add_transposed(A_, pulled.data(), to.data());
    problem_.A.add_product(A_, from.data(), pushed.data());
    from_dual(problem_, D_, pushed.data(), to.data() + n);
    for (Index k = 0; k < m; ++k) to[n + k] -= (1 - D_.lam[k]) * from[n + k];
  }

  Answer answer(const std::vector<double>& z) const {
    const auto end = z.begin() + problem_.n;
    return {{z.begin(), end}, to_dual(problem_, D_, z.data() + problem_.n), true};
  }

  const Problem& problem_;
  Options options_;
  const double *P_, *A_;
  Jacobian D_;
};

}  // namespace diffqcp
