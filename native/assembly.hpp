// The values of K on the pattern that the Python module diffqcp.assembly describes, and the
// expansion of second-order cones there.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "problem.hpp"

namespace diffqcp {

// D at a point: its eigenvalues, and the frames of the cones.
struct Jacobian {
  const double *lam, *frames;
};

// A Jacobian with memory of its own.
struct Spectral {
  std::vector<double> lam, frames;

  Spectral() = default;
  explicit Spectral(const Problem& problem) : lam(problem.m), frames(problem.cone.frame) {}

  Jacobian view() const { return {lam.data(), frames.data()}; }
};

class Assembly {
 public:
  explicit Assembly(const Problem& problem)
      : problem_(problem), roots_(problem.m), entries_(problem.entries()) {}

  // In the order of the factorisation.
  void values(const double* P, const double* A, const Jacobian& D, double* K) {
    for (Index k = 0; k < problem_.m; ++k) roots_[k] = std::sqrt(D.lam[k]);
    double* next = entries_.data();
    for (Index stored : problem_.upper) *next++ = P[stored];
    double* corner = next;
    for (Index k = 0; k < problem_.m; ++k) *next++ = D.lam[k] - 1;
    for (size_t k = 0; k < problem_.blocks.size(); ++k) {
      const Block& block = problem_.blocks[k];
      const double* roots = roots_.data() + block.start;
      if (block.size == 1) {
        for (size_t e = 0; e < block.entry.size(); ++e)
          *next++ = roots[block.place[e]] * A[block.entry[e]];
      } else if (block.tau < 0 && block.size <= kSmall) {
        next = small(problem_.cone.factors[k], block, A, D, roots, next);
      } else if (block.tau < 0) {
        next = dense(problem_.cone.factors[k], block, A, D, roots, next);
      } else {
        next = expanded(problem_.cone.factors[k], block, A, D, roots, next);
        for (Index i = 0; i < block.dim(); ++i)
          if (i % block.size >= 2) corner[block.start + i] = -1;
      }
    }
    for (size_t k = 0; k < problem_.source.size(); ++k) K[k] = entries_[problem_.source[k]];
  }

  // From a right-hand side of K to one of the expanded matrix; both are of its order.
  void expand(const Jacobian& D, double* vector) const {
    std::fill(vector + problem_.n + problem_.m, vector + problem_.order, 0.0);
    for_expanded([&](const Repeated& factor, const Block& block) {
      double *own = vector + problem_.n + block.start, *tau = vector + block.tau;
      for (Index i = 0; i < block.dim(); ++i)
        if (i % block.size >= 2) std::swap(own[i], tau[i]);
      for_each(factor, block, [&](const Cone& cone, Index start, int64_t frame) {
        cone.rotate(D.frames + frame, tau + start);
      });
    });
  }

  // From a solution of the expanded system to one of K's, in place.
  void contract(const Jacobian& D, double* vector) const {
    for_expanded([&](const Repeated& factor, const Block& block) {
      double *own = vector + problem_.n + block.start, *tau = vector + block.tau;
      for_each(factor, block, [&](const Cone& cone, Index start, int64_t frame) {
        cone.rotate_back(D.frames + frame, tau + start);
      });
      for (Index i = 0; i < block.dim(); ++i)
        if (i % block.size >= 2) own[i] += tau[i];
    });
  }

  // The shift of the diagonal: `tau` as its cone, multipliers as is said.
  void expand_shift(double* shift, double multipliers) const {
    for_expanded([&](const Repeated&, const Block& block) {
      const double* own = shift + problem_.n + block.start;
      std::copy(own, own + block.dim(), shift + block.tau);
      std::fill_n(shift + block.tau + block.dim(), 2 * block.cones, multipliers);
    });
  }

 private:
  template <typename Body>
  void for_expanded(const Body& body) const {
    for (size_t k = 0; k < problem_.blocks.size(); ++k)
      if (problem_.blocks[k].tau >= 0) body(problem_.cone.factors[k], problem_.blocks[k]);
  }

  // Calls body(cone, start, frame), with `start` counted from the block's first row.
  template <typename Body>
  static void for_each(const Repeated& factor, const Block& block, const Body& body) {
    for (Index j = 0; j < block.cones; ++j)
      body(*factor.cones[j], j * block.size, factor.frame + j * factor.first().frame());
  }

  // Up to this size of a cone, L U' is formed.
  static constexpr Index kSmall = 4;

  // L U'A on all of a cone's rows, for each of the columns that occur in them. Returns the
  // end of the entries that begin at `next`.
  static double* small(const Repeated& factor, const Block& block, const double* A,
                       const Jacobian& D, const double* roots, double* next) {
    const Index size = block.size;
    std::vector<double> columns(static_cast<size_t>(block.dim()) * size, 0.0);
    for_each(factor, block, [&](const Cone& cone, Index start, int64_t frame) {
      for (Index j = 0; j < size; ++j) {
        double* column = columns.data() + static_cast<size_t>(start + j) * size;
        column[j] = 1;
        cone.rotate_back(D.frames + frame, column);
        for (Index i = 0; i < size; ++i) column[i] *= roots[start + i];
      }
    });
    for (size_t pair = 0; pair < block.pair_col.size(); ++pair, next += size) {
      double sum[kSmall] = {};
      for (Index k = block.pair_start[pair]; k < block.pair_start[pair + 1]; ++k) {
        const Index e = block.by_pair[k];
        const double* column = columns.data() + static_cast<size_t>(block.place[e]) * size;
        const double entry = A[block.entry[e]];
        for (Index i = 0; i < size; ++i) sum[i] += entry * column[i];
      }
      std::copy(sum, sum + size, next);
    }
    return next;
  }

  // The same, for cones of any size.
  static double* dense(const Repeated& factor, const Block& block, const double* A,
                       const Jacobian& D, const double* roots, double* next) {
    std::vector<double> column(block.size);
    for (size_t pair = 0; pair < block.pair_col.size(); ++pair) {
      const Index own = block.pair_cone[pair];
      std::fill(column.begin(), column.end(), 0.0);
      for (Index k = block.pair_start[pair]; k < block.pair_start[pair + 1]; ++k) {
        const Index e = block.by_pair[k];
        column[block.place[e] % block.size] = A[block.entry[e]];
      }
      factor.cones[own]->rotate_back(D.frames + factor.frame + own * factor.first().frame(),
                                     column.data());
      const double* root = roots + own * block.size;
      for (Index i = 0; i < block.size; ++i) *next++ = root[i] * column[i];
    }
    return next;
  }

  static double* expanded(const Repeated& factor, const Block& block, const double* A,
                          const Jacobian& D, const double* roots, double* next) {
    std::vector<double> vector(block.dim());
    for (Index k = 0; k < 2; ++k) {
      for_each(factor, block, [&](const Cone& cone, Index start, int64_t frame) {
        std::fill_n(vector.begin() + start, block.size, 0.0);
        vector[start + k] = 1;
        cone.rotate(D.frames + frame, vector.data() + start);
      });
      for (size_t pair = 0; pair < block.pair_col.size(); ++pair) {
        double sum = 0;
        for (Index j = block.pair_start[pair]; j < block.pair_start[pair + 1]; ++j) {
          const Index e = block.by_pair[j];
          sum += vector[block.place[e]] * A[block.entry[e]];
        }
        *next++ = roots[block.pair_cone[pair] * block.size + k] * sum;
      }
      next = std::copy(vector.begin(), vector.end(), next);
    }
    const auto rest = [&](Index place) { return place / block.size * block.size + 2; };
    for (size_t e = 0; e < block.entry.size(); ++e)
      *next++ = roots[rest(block.place[e])] * A[block.entry[e]];
    for (Index i = 0; i < block.dim(); ++i) *next++ = D.lam[block.start + rest(i)] - 1;
    return next;
  }

  const Problem& problem_;
  std::vector<double> roots_;    // of the eigenvalues of D
  std::vector<double> entries_;  // in the order of the blocks
};

}  // namespace diffqcp
