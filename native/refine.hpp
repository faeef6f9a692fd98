// Solutions of K z = r with the factors of K + E: what the Python class
// AbstractQuasidefiniteSolver describes, with the same steps and the same tests, in one
// call. Vectors are in the order of the pivots.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

// What a vector is: a solution z is measured by |E|^(1/2) z, a residual by its inverse.
enum Units { kSolution, kResidual };

struct Outcome {
  double error;  // estimated, relative
  int32_t steps;
};

// When to stop: see the Python class of this name.
struct Tolerances {
  double tolerance, floor;
  int32_t max_steps;
  bool well_posed;

  // Whether more has to be tried: not for NaN.
  bool missed(double error) const { return error > std::max(kEnough, tolerance); }

  static constexpr double kEnough = 1e-8;
};

class Refinement {
 public:
  Refinement(const Factorisation& factorisation, const double* values,
             const double* panels, const double* inverse, const double* shift)
      : factorisation_(factorisation), n_(factorisation.order()), values_(values),
        panels_(panels), inverse_(inverse), shift_(shift) {}

  struct Rank {
    bool singular;
    double doubt, error;  // if it is
  };

  // Whether one step of (2) leaves more of a random vector than rounding errors. If so,
  // what the next step changes of it: little, if the other eigenvalues of K are all much
  // larger than E; and the error of the first solve.
  //
  // If u is in the null space, |u| = 1, and its last entry is u_j, then the j-th pivot is
  // about e / u_j^2. So if all pivots are large there is no null vector, but for one with
  // a very small last entry, and for that the solution will not converge.
  Rank rank() const {
    bool small = false;
    for (Index k = 0; k < n_; ++k) small = small || !(inverse_[k] * shift_[k] < 1e-6);
    if (!small) return {false, 0, 0};
    const std::vector<double> probe = random_residual();
    std::vector<double> left = probe, next(n_);
    contract(left);
    const double size = norm(kResidual, left);
    if (!(size > 0.01)) return {false, 0, 0};  // NaN shows in the solution
    std::vector<double> solved(n_);
    for (Index k = 0; k < n_; ++k) solved[k] = left[k] / shift_[k];
    factorisation_.multiply<1>(values_, solved.data(), next.data());
    for (Index k = 0; k < n_; ++k) next[k] += left[k] - probe[k];
    const double error = norm(kResidual, next) / norm(kResidual, probe);
    next = left;
    contract(next);
    for (Index k = 0; k < n_; ++k) next[k] -= left[k];
    return {true, norm(kResidual, next) / size, error};
  }

  // Whether (1) converges for a random vector without (2), and fast: then K is regular.
  bool regular() const {
    std::vector<double> r = random_residual(), z;
    Outcome outcome;
    refine<1>(false, {Tolerances::kEnough, 0, 50, true}, r, z, &outcome);
    return outcome.error <= Tolerances::kEnough;
  }

  // Overwrites C interleaved right-hand sides by the solutions. Only a single one may be
  // of a singular K. If a null vector has escaped notice, all of (2) is needed.
  template <int C>
  void solve(bool singular, const Tolerances& tolerances, std::vector<double>& r,
             Outcome* outcome) const {
    if (n_ > 0 && std::isnan(inverse_[0])) {
      const double nan = inverse_[0];
      std::fill(r.begin(), r.end(), nan);
      std::fill(outcome, outcome + C, Outcome{nan, 0});
      return;
    }
    std::vector<double> z;
    refine<C>(singular, tolerances, r, z, outcome);
    for (int c = 0; c < C; ++c) {
      if (singular || tolerances.well_posed || !tolerances.missed(outcome[c].error))
        continue;
      std::vector<double> single(n_), again;
      for (Index k = 0; k < n_; ++k) single[k] = r[static_cast<size_t>(k) * C + c];
      refine<1>(true, tolerances, single, again, &outcome[c]);
      for (Index k = 0; k < n_; ++k) z[static_cast<size_t>(k) * C + c] = again[k];
    }
    r.swap(z);
  }

 private:
  // Numbers of mean zero and variance one, in the units of residuals; always the same.
  std::vector<double> random_residual() const {
    std::vector<double> numbers(n_);
    uint64_t state = 0x9E3779B97F4A7C15;
    for (Index k = 0; k < n_; ++k) {
      state ^= state << 13;  // Marsaglia's xorshift
      state ^= state >> 7;
      state ^= state << 17;
      const double uniform = static_cast<double>(state >> 11) * 0x1p-53;
      numbers[k] = std::sqrt(12 * std::abs(shift_[k])) * (uniform - 0.5);
    }
    return numbers;
  }

  // Iteration (1). Of a singular K, `r` becomes its part in the range.
  template <int C>
  void refine(bool singular, const Tolerances& tolerances, std::vector<double>& r,
              std::vector<double>& z, Outcome* outcome) const {
    const auto [tolerance, floor, max_steps, well_posed] = tolerances;
    const double slowest = well_posed ? 0.5 : 1;
    const auto range_part = [&](std::vector<double>& vector, Units units) {
      if (singular) subtract_null_part(vector, units, tolerances);
    };
    double smallest[C], last[C], length[C], size[C];
    norms<C>(kResidual, r, smallest);
    for (double& value : smallest) value *= floor;
    range_part(r, kResidual);
    z = r;
    std::vector<double> correction(z.size());
    factorisation_.solve<C>(panels_, inverse_, z.data());
    range_part(z, kSolution);
    norms<C>(kSolution, z, last);
    bool active[C], any = false;
    for (int c = 0; c < C; ++c) {
      const double infinity = std::numeric_limits<double>::infinity();
      // NaN is its own error, and ends the iteration.
      outcome[c] = {last[c] == 0 ? 0 : last[c] > 0 ? infinity : last[c], 1};
      active[c] = outcome[c].error > tolerance && max_steps > 1;
      any = any || active[c];
    }
    while (any) {
      factorisation_.multiply<C>(values_, z.data(), correction.data());
      for (size_t k = 0; k < z.size(); ++k) correction[k] = r[k] - correction[k];
      factorisation_.solve<C>(panels_, inverse_, correction.data());
      range_part(correction, kSolution);
      norms<C>(kSolution, correction, length);
      for (Index k = 0; k < n_; ++k)
        for (int c = 0; c < C; ++c)
          if (active[c]) z[k * size_t{C} + c] += correction[k * size_t{C} + c];
      norms<C>(kSolution, z, size);
      any = false;
      for (int c = 0; c < C; ++c) {
        if (!active[c]) continue;
        const double ratio = length[c] / last[c];
        const double tail = ratio < 1 ? ratio / (1 - ratio) : 1;
        const double whole = std::max(size[c], smallest[c]);
        outcome[c].error = length[c] / (whole > 0 ? whole : 1) * tail;
        ++outcome[c].steps;
        last[c] = length[c];
        active[c] = outcome[c].error > tolerance && ratio < slowest &&
                    outcome[c].steps < max_steps;
        any = any || active[c];
      }
    }
  }

  // Iteration (2), three times.
  void subtract_null_part(std::vector<double>& vector, Units units,
                          const Tolerances& tolerances) const {
    std::vector<double> part, next;
    for (int repeat = 0; repeat < 3; ++repeat) {
      part = vector;
      const double size = norm(units, vector);
      double change = std::numeric_limits<double>::infinity();
      for (int32_t step = 0;
           change > tolerances.tolerance * size && step < tolerances.max_steps; ++step) {
        next = part;
        contract(next);
        for (Index k = 0; k < n_; ++k) part[k] -= next[k];
        change = norm(units, part);
        part.swap(next);
      }
      for (Index k = 0; k < n_; ++k) vector[k] -= part[k];
    }
  }

  // One step of (2).
  void contract(std::vector<double>& vector) const {
    factorisation_.solve<1>(panels_, inverse_, vector.data());
    for (Index k = 0; k < n_; ++k) vector[k] *= shift_[k];
  }

  // Norms in which both blocks have the same units.
  template <int C>
  void norms(Units units, const std::vector<double>& vector, double* result) const {
    double sum[C] = {};
    for (Index k = 0; k < n_; ++k) {
      const double size = std::abs(shift_[k]);
      const double weight = units == kSolution ? size : 1 / size;
      for (int c = 0; c < C; ++c) {
        const double entry = vector[static_cast<size_t>(k) * C + c];
        sum[c] += weight * entry * entry;
      }
    }
    for (int c = 0; c < C; ++c) result[c] = std::sqrt(sum[c]);
  }

  double norm(Units units, const std::vector<double>& vector) const {
    double result;
    norms<1>(units, vector, &result);
    return result;
  }

  const Factorisation& factorisation_;
  Index n_;
  const double *values_, *panels_, *inverse_, *shift_;
};

// Factorises K + E. `shift` is the one to start from, and becomes the one taken: if K
// seems singular, a larger one if the factors are not accurate; a smaller one if they are,
// but (2) is not close to a projection, as then some eigenvalues of K are not much larger
// than E. If that does not help, they may be of all sizes, and K regular all the same,
// which a shift of the size of rounding errors shows. Returns whether K is singular. If it
// is known not to be, nothing of this. If K is not finite, nothing is computed: `inverse`
// is NaN, and solutions will be.
inline bool factorise_with_shift(const Factorisation& factorisation,
                                 const double* values, bool adapt, bool well_posed,
                                 double* panels, double* inverse, double* shift) {
  const double* end = values + factorisation.entries();
  if (!std::all_of(values, end, [](double value) { return std::isfinite(value); })) {
    std::fill_n(inverse, factorisation.order(), std::numeric_limits<double>::quiet_NaN());
    return false;
  }
  if (well_posed) {
    factorisation.factorise(values, shift, panels, inverse);
    return false;
  }
  constexpr double step = 16, clear = 1e-6, accurate = 1e-5, tolerable = 1e-4;
  constexpr double smallest = 0x1p-24;
  constexpr int attempts = 4;
  const auto attempt = [&](double factor) {
    for (Index k = 0; k < factorisation.order(); ++k) shift[k] *= factor;
    factorisation.factorise(values, shift, panels, inverse);
    return Refinement(factorisation, values, panels, inverse, shift).rank();
  };
  Refinement::Rank rank = attempt(1);
  if (!adapt || !rank.singular) return rank.singular;
  if (!(rank.error < accurate)) {
    for (int k = 1; k < attempts && !(rank.error < accurate); ++k) rank = attempt(step);
    return true;
  }
  double reached = 1;
  for (int k = 1; k < attempts && rank.singular && rank.doubt > clear; ++k) {
    rank = attempt(1 / step);
    reached /= step;
    if (rank.singular && !(rank.error < tolerable)) {
      rank = attempt(step);
      reached *= step;
      break;
    }
  }
  if (!rank.singular || !(rank.doubt > clear)) return rank.singular;
  attempt(smallest / reached);
  if (Refinement(factorisation, values, panels, inverse, shift).regular()) return false;
  return attempt(reached / smallest).singular;
}

}  // namespace diffqcp
