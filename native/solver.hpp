// One matrix K, factorised, and what solves with it: refinement, a basis of the null space,
// the eigenvectors of K, in this order, as far as each of them is needed.
#pragma once

#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "lapack.hpp"
#include "refine.hpp"

namespace diffqcp {

// What a factorisation leaves, in one array: panels, inverse pivots, the shift, and of what
// is known of the rank the rate, the relative shift, and whether it is even.
struct Factor {
  double *panels, *inverse, *shift, *known;

  Factor(const Pattern& K, double* start)
      : panels(start), inverse(start + K.size()), shift(inverse + K.n),
        known(shift + K.n) {}

  void keep(const Refinement::Rank& rank) const {
    known[0] = rank.rate;
    known[1] = rank.relative;
    known[2] = rank.even;
  }

  Refinement::Rank rank(bool singular) const {
    return {singular, 0, known[0], known[1], known[2] != 0};
  }

  static int64_t size(const Pattern& K) {
    return K.size() + 2 * static_cast<int64_t>(K.n) + 3;
  }
};

// Factorises K + E, and returns whether K is singular. The shift to start from is where the
// factor has its own.
inline bool factorise(const Pattern& K, const Lapack& lapack, const double* values,
                      const Index* groups, bool adapt, bool well_posed,
                      const Factor& factor) {
  const Refinement::Rank rank =
      factorise_with_shift(K, Factorisation(K, lapack.gemm), values, groups, adapt,
                           well_posed, factor.panels, factor.inverse, factor.shift);
  factor.keep(rank);
  return rank.singular;
}

// Keeps what has been made for the last matrix, for its other right-hand sides. A matrix is
// known by where its shift is.
template <typename Made>
class Last {
 public:
  // Null if there is not enough memory.
  template <typename Make>
  std::shared_ptr<const Made> get(const double* shift, const Make& make) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (shift_ != shift) {
      shift_ = shift;
      made_.reset();
      try {
        made_ = std::make_shared<const Made>(make());
      } catch (const std::bad_alloc&) {
      }
    }
    return made_;
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<const Made> made_;
  const double* shift_ = nullptr;
};

class Solver {
 public:
  Solver(const Pattern& K, const Lapack& lapack, const Tolerances& tolerances)
      : K_(K), lapack_(lapack), tolerances_(tolerances) {}

  // Overwrites C interleaved right-hand sides, in the order of the pivots, by the
  // solutions: NaN if K is not finite. An error of `enough` will do, if that is more than
  // the tolerance.
  template <int C>
  void solve(const double* values, const Factor& factor, bool singular,
             std::vector<double>& r, Outcome* outcome, double enough = 0) {
    Tolerances tolerances = tolerances_;
    tolerances.tolerance = std::max(tolerances.tolerance, enough);
    const Factorisation factorisation(K_, lapack_.gemm);
    const Refinement refinement(factorisation, values, factor.panels, factor.inverse,
                                factor.shift);
    const Refinement::Rank rank = factor.rank(singular);
    if (K_.n > 0 && std::isnan(rank.rate)) return unsolved<C>(r, outcome);
    const std::vector<double> right = r;
    std::shared_ptr<const NullSpace> null_space;
    if (rank.singular && !rank.even)
      null_space = null_spaces_.get(
          factor.shift, [&] { return refinement.null_space(rank, tolerances_); });
    if (null_space == nullptr || null_space->known())
      refinement.solve<C>(rank, null_space.get(), tolerances, r, outcome);
    else
      std::fill(outcome, outcome + C, Outcome{std::numeric_limits<double>::infinity(), 0});
    for (int c = 0; c < C; ++c) {
      if (tolerances.well_posed || !tolerances.missed(outcome[c].error)) continue;
      std::vector<double> single(K_.n);
      for (Index k = 0; k < K_.n; ++k) single[k] = right[static_cast<size_t>(k) * C + c];
      if (!Refinement::finite(single)) continue;
      const auto spectrum = spectra_.get(factor.shift, [&] {
        return Spectrum(K_, values, factor.shift, lapack_.eigen);
      });
      if (spectrum == nullptr || !spectrum->known()) continue;
      spectrum->solve(single);
      for (Index k = 0; k < K_.n; ++k) r[static_cast<size_t>(k) * C + c] = single[k];
      outcome[c].error = tolerances.tolerance;
    }
  }

 private:
  const Pattern& K_;
  Lapack lapack_;
  Tolerances tolerances_;
  Last<Spectrum> spectra_;
  Last<NullSpace> null_spaces_;
};

}  // namespace diffqcp
