// Solutions of K z = r with the factors of K + E: what the Python class
// AbstractQuasidefiniteSolver describes, with the same steps and the same tests, in one
// call. Vectors are in the order of the pivots.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

struct Outcome {
  double error;  // estimated, relative
  int32_t steps;
};

class Refinement {
 public:
  Refinement(const Factorisation& factorisation, Index n, const double* values,
             const double* panels, const double* inverse, const double* shift)
      : factorisation_(factorisation), n_(n), values_(values), panels_(panels),
        inverse_(inverse), shift_(shift), scale_(n), inverse_scale_(n) {
    for (Index k = 0; k < n; ++k) {
      scale_[k] = std::sqrt(std::abs(shift[k]));
      inverse_scale_[k] = 1 / scale_[k];
    }
  }

  struct Rank {
    bool singular;
    double doubt;  // how far (2) is from a projection, if K is singular
  };

  // Whether one step of (2) leaves more of a random vector than rounding errors, and if
  // so, what the next step changes of it: little, if no eigenvalue of K is of the size of
  // E, and the factors are accurate.
  Rank rank() const {
    std::vector<double> probe(n_), next;
    uint64_t state = 0x9E3779B97F4A7C15;
    for (Index k = 0; k < n_; ++k) {
      state ^= state << 13;  // Marsaglia's xorshift
      state ^= state >> 7;
      state ^= state << 17;
      const double uniform = static_cast<double>(state >> 11) * 0x1p-53;
      probe[k] = scale_[k] * std::sqrt(12.0) * (uniform - 0.5);
    }
    contract(probe);
    const double left = norm(inverse_scale_, probe);
    if (!(left > 0.01)) return {false, 0};  // NaN is told by the solution
    next = probe;
    contract(next);
    for (Index k = 0; k < n_; ++k) next[k] -= probe[k];
    const double doubt = norm(inverse_scale_, next) / left;
    return {true, std::isfinite(doubt) ? doubt : 1e300};
  }

  // Overwrites C interleaved right-hand sides by the solutions. Only a single one may be
  // of a singular K.
  template <int C>
  void solve(bool singular, double tolerance, double floor, int32_t max_steps,
             std::vector<double>& r, Outcome* outcome) const {
    const auto range_part = [&](std::vector<double>& vector,
                                const std::vector<double>& weight) {
      if (singular) subtract_null_part(vector, weight, tolerance, max_steps);
    };
    double smallest[C], last[C], length[C], size[C];
    norms<C>(inverse_scale_, r, smallest);
    for (double& value : smallest) value *= floor;
    range_part(r, inverse_scale_);
    std::vector<double> z = r, correction(z.size());
    factorisation_.solve<C>(panels_, inverse_, z.data());
    range_part(z, scale_);
    norms<C>(scale_, z, last);
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
      range_part(correction, scale_);
      norms<C>(scale_, correction, length);
      for (Index k = 0; k < n_; ++k)
        for (int c = 0; c < C; ++c)
          if (active[c]) z[k * size_t{C} + c] += correction[k * size_t{C} + c];
      norms<C>(scale_, z, size);
      any = false;
      for (int c = 0; c < C; ++c) {
        if (!active[c]) continue;
        const double ratio = length[c] / last[c];
        const double tail = ratio < 1 ? ratio / (1 - ratio) : 1;
        const double whole = std::max(size[c], smallest[c]);
        outcome[c].error = length[c] / (whole > 0 ? whole : 1) * tail;
        ++outcome[c].steps;
        last[c] = length[c];
        active[c] = outcome[c].error > tolerance && ratio < 1 &&
                    outcome[c].steps < max_steps;
        any = any || active[c];
      }
    }
    r.swap(z);
  }

 private:
  // Iteration (2), three times.
  void subtract_null_part(std::vector<double>& vector, const std::vector<double>& weight,
                          double tolerance, int32_t max_steps) const {
    std::vector<double> part, next;
    for (int repeat = 0; repeat < 3; ++repeat) {
      part = vector;
      const double size = norm(weight, vector);
      double change = std::numeric_limits<double>::infinity();
      for (int32_t step = 0; change > tolerance * size && step < max_steps; ++step) {
        next = part;
        contract(next);
        for (Index k = 0; k < n_; ++k) part[k] -= next[k];
        change = norm(weight, part);
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

  template <int C>
  static void norms(const std::vector<double>& weight, const std::vector<double>& vector,
                    double* result) {
    double sum[2][C] = {};
    for (size_t k = 0; k < weight.size(); ++k)
      for (int c = 0; c < C; ++c) {
        const double entry = weight[k] * vector[k * C + c];
        sum[k % 2][c] += entry * entry;
      }
    for (int c = 0; c < C; ++c) result[c] = std::sqrt(sum[0][c] + sum[1][c]);
  }

  static double norm(const std::vector<double>& weight,
                     const std::vector<double>& vector) {
    double result;
    norms<1>(weight, vector, &result);
    return result;
  }

  const Factorisation& factorisation_;
  Index n_;
  const double *values_, *panels_, *inverse_, *shift_;
  std::vector<double> scale_, inverse_scale_;
};

// Factorises K + E. If K is singular and the second step of (2) differs from the first,
// some eigenvalue of K is of the size of E, and smaller shifts are tried: the one of which
// (2) is closest to a projection is taken. `shift` is the one to start from, and becomes
// the one taken. Returns whether K is singular.
inline bool factorise_with_best_shift(const Factorisation& factorisation, Index n,
                                      const double* values, bool adapt, double* panels,
                                      double* inverse, double* shift) {
  constexpr double factors[] = {1, 1. / 16, 1. / 16};  // of the one before
  constexpr double clear = 1e-3;
  const auto attempt = [&](double factor) {
    for (Index k = 0; k < n; ++k) shift[k] *= factor;
    factorisation.factorise(values, shift, panels, inverse);
    return Refinement(factorisation, n, values, panels, inverse, shift).rank();
  };
  double total = 1, best = 1;
  Refinement::Rank best_rank{true, std::numeric_limits<double>::infinity()};
  for (const double factor : factors) {
    const Refinement::Rank rank = attempt(factor);
    total *= factor;
    if (!rank.singular || rank.doubt < clear || !adapt) return rank.singular;
    if (rank.doubt < best_rank.doubt) {
      best_rank = rank;
      best = total;
    }
  }
  return best == total ? true : attempt(best / total).singular;
}

}  // namespace diffqcp
