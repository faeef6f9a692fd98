// One matrix K, factorised, and what solves with it: refinement, a basis of the null space,
// the eigenvectors of K, in this order, as far as each of them is needed.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "bipartite.hpp"
#include "lapack.hpp"
#include "shift.hpp"

namespace diffqcp {

// What a factorisation leaves, in one array: panels, inverse pivots, the shift, and of what
// is known of the rank the rate, the relative shift, and whether it is even; whether the
// factors are those of K' of a bipartite K; whether x has been eliminated, and the panels
// are those of Eliminated; and whether it is clear that as many eigenvalues of K are positive
// as the shift has positive entries, and as many negative ones.
struct Factor {
  double *panels, *inverse, *shift, *known;

  // `room` numbers for the panels.
  Factor(const Pattern& K, double* start, int64_t room)
      : panels(start), inverse(start + room), shift(inverse + K.n), known(shift + K.n) {}
  Factor(const Pattern& K, double* start) : Factor(K, start, K.size()) {}

  void keep(const Refinement::Rank& rank, bool parts) const {
    known[0] = rank.rate;
    known[1] = rank.relative;
    known[2] = rank.even;
    known[3] = parts;
    known[4] = false;
    known[5] = !parts && !rank.singular && rank.fair() && has_right_signs();
  }

  Refinement::Rank rank(bool singular) const {
    return {singular, 0, known[0], known[1], known[2] != 0};
  }

  bool parts() const { return known[3] != 0; }

  void keep_eliminated() const { known[4] = true; }
  bool eliminated() const { return known[4] != 0; }

  // Whether no pivot has the wrong sign, but for rounding errors.
  bool has_right_signs() const {
    const int64_t n = shift - inverse;
    for (int64_t k = 0; k < n; ++k)
      if (is_marked(inverse[k], shift[k])) return false;
    return true;
  }

  static int64_t size(const Pattern& K, int64_t room) {
    return room + 2 * static_cast<int64_t>(K.n) + 6;
  }
  static int64_t size(const Pattern& K) { return size(K, K.size()); }
};

// Factorises K' + E, and returns what is known of K' then. The error is infinite if small
// eigenvalues of K, which are far smaller ones of K', may pass for zero.
inline Refinement::Rank factorise_parts(const Factorisation& factorisation,
                                        const Bipartite& pair, const double* values,
                                        const Factor& factor) {
  factorisation.factorise(pair.values(), factor.shift, factor.panels, factor.inverse);
  const auto refinement = [&](const double* values) {
    return Refinement(factorisation, values, factor.panels, factor.inverse, factor.shift);
  };
  const Refinement parts = refinement(pair.values());
  Refinement::Rank rank = parts.rank(false);
  if (!rank.singular || !rank.accurate()) return rank;
  const std::vector<double> part = parts.random_null_vector(rank);
  rank = parts.sure(rank, part);
  if (rank.slow() || !refinement(values).is_null(pair.upper(part)))
    rank.error = std::numeric_limits<double>::infinity();
  return rank;
}

// Factorises K + E, or K' + E if K is bipartite and singular, and returns whether what has
// been factorised is singular. The shift to start from is where the factor has its own.
inline bool factorise(const Pattern& K, const Factorisation& factorisation,
                      const double* values, const Index* groups, bool adapt,
                      bool well_posed, const Factor& factor) {
  const std::vector<double> start(factor.shift, factor.shift + K.n);
  const auto attempt = [&](const double* values, bool adapt) {
    std::copy(start.begin(), start.end(), factor.shift);
    return factorise_with_shift(K, factorisation, values, groups, adapt, well_posed,
                                factor.panels, factor.inverse, factor.shift);
  };
  if (adapt && !well_posed) {
    const Bipartite pair(K, values, factor.shift);
    if (pair.is() && pair.square()) {
      const Refinement::Rank rank = attempt(values, false);
      if (!rank.singular && rank.fair()) {
        factor.keep(rank, false);
        return false;
      }
    }
    if (pair.is()) {
      std::copy(start.begin(), start.end(), factor.shift);
      const Refinement::Rank rank = factorise_parts(factorisation, pair, values, factor);
      if (rank.accurate()) {
        factor.keep(rank, true);
        return rank.singular;
      }
    }
  }
  const Refinement::Rank rank = attempt(values, adapt);
  factor.keep(rank, false);
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
  Solver(const Pattern& K, const Factorisation& factorisation, Eigen* eigen,
         const Tolerances& tolerances)
      : K_(K), factorisation_(factorisation), eigen_(eigen), tolerances_(tolerances) {}

  // Whether factors of a regular matrix near that of these entries solve with it.
  bool suits(const double* values, const Factor& factor) const {
    if (factor.parts() || std::isnan(factor.rank(false).rate)) return false;
    return Refinement(factorisation_, values, factor.panels, factor.inverse, factor.shift)
        .suits();
  }

  // Overwrites C interleaved right-hand sides, in the order of the pivots, by the
  // solutions: NaN if K is not finite. An error of `enough` will do, if that is more than
  // the tolerance.
  template <int C>
  void solve(const double* values, const Factor& factor, bool singular,
             std::vector<double>& r, Outcome* outcome, double enough = 0) {
    Tolerances tolerances = tolerances_;
    tolerances.tolerance = std::max(tolerances.tolerance, enough);
    const Refinement::Rank rank = factor.rank(singular);
    if (K_.n > 0 && std::isnan(rank.rate)) return unsolved<C>(r, outcome);
    const std::vector<double> right = r;
    if (factor.parts()) {
      const Bipartite pair(K_, values, factor.shift);
      for (int c = 0; c < C; ++c)
        put<C>(solve_parts(pair, factor, rank, tolerances, column<C>(right, c),
                           &outcome[c]),
               r, c);
    } else {
      refine<C>(values, factor, rank, tolerances, r, outcome);
    }
    for (int c = 0; c < C; ++c) {
      if ((rank.singular || factor.parts()) &&
          !is_least(values, column<C>(right, c), column<C>(r, c)))
        outcome[c].error = std::numeric_limits<double>::infinity();
      if (tolerances.well_posed || !tolerances.missed(outcome[c].error)) continue;
      std::vector<double> single = column<C>(right, c);
      if (!Refinement::finite(single)) continue;
      const auto spectrum = spectra_.get(factor.shift, [&] {
        return Spectrum(K_, values, factor.shift, eigen_);
      });
      if (spectrum == nullptr || !spectrum->known()) continue;
      spectrum->solve(single);
      // The eigenvectors have rounding errors, which small eigenvalues make large.
      std::vector<double> rest = residual(values, column<C>(right, c), single);
      spectrum->solve(rest);
      for (Index k = 0; k < K_.n; ++k) single[k] += rest[k];
      if (!is_least(values, column<C>(right, c), single)) continue;
      put<C>(single, r, c);
      outcome[c].error = tolerances.tolerance;
    }
  }

 private:
  // With the factors of the matrix of these entries.
  template <int C>
  void refine(const double* values, const Factor& factor, const Refinement::Rank& rank,
              const Tolerances& tolerances, std::vector<double>& r, Outcome* outcome) {
    const Refinement refinement(factorisation_, values, factor.panels, factor.inverse,
                                factor.shift);
    std::shared_ptr<const NullSpace> null_space;
    if (rank.singular && !rank.even)
      null_space = null_spaces_.get(
          factor.shift, [&] { return refinement.null_space(rank, tolerances_); });
    if (null_space == nullptr || null_space->known())
      refinement.solve<C>(rank, null_space.get(), tolerances, r, outcome);
    else
      std::fill(outcome, outcome + C, Outcome{std::numeric_limits<double>::infinity(), 0});
  }

  // For a bipartite K. The error of a system is relative to all of its solution, of which
  // one part counts: if that is small beside the other one, the error has to be smaller.
  std::vector<double> solve_parts(const Bipartite& pair, const Factor& factor,
                                  const Refinement::Rank& rank, Tolerances tolerances,
                                  const std::vector<double>& r, Outcome* outcome) {
    constexpr double margin = 1e-2;
    const double tolerance = tolerances.tolerance;
    tolerances.tolerance *= margin;
    std::vector<double> both;
    for (int repeat = 0; repeat < 2; ++repeat) {
      both = pair.split(r);
      Outcome parts[2];
      const bool empty[2] = {is_zero<2>(both, 0), is_zero<2>(both, 1)};
      if (rank.singular || empty[0] || empty[1]) {
        for (int c = 0; c < 2; ++c) {
          parts[c] = {0, 0};
          if (empty[c]) continue;
          std::vector<double> single = column<2>(both, c);
          refine<1>(pair.values(), factor, rank, tolerances, single, &parts[c]);
          put<2>(single, both, c);
        }
      } else {
        refine<2>(pair.values(), factor, rank, tolerances, both, parts);
      }
      const std::array<double, 2> excess = pair.excess(both, factor.shift);
      *outcome = {std::max(parts[0].error * excess[0], parts[1].error * excess[1]),
                  std::max(parts[0].steps, parts[1].steps)};
      if (!(outcome->error > tolerance)) break;
      tolerances.tolerance = tolerance / std::max(excess[0], excess[1]);
    }
    return pair.join(both);
  }

  // Whether z is a least-squares solution of K z = r: K (r - K z) is small. That is known if
  // there is no null space, but what passes for one need not be one.
  bool is_least(const double* values, const std::vector<double>& r,
                const std::vector<double>& z) const {
    constexpr double small = 1e-6;
    const std::vector<double> rest = residual(values, r, z);
    std::vector<double> normal(K_.n);
    factorisation_.multiply<1>(values, rest.data(), normal.data());
    const double whole = largest(values, K_.entries) * std::sqrt(dot(r, r));
    return std::sqrt(dot(normal, normal)) <= small * whole;
  }

  // r - K z.
  std::vector<double> residual(const double* values, const std::vector<double>& r,
                               const std::vector<double>& z) const {
    std::vector<double> rest(K_.n);
    factorisation_.multiply<1>(values, z.data(), rest.data());
    for (Index k = 0; k < K_.n; ++k) rest[k] = r[k] - rest[k];
    return rest;
  }

  // One of interleaved vectors.
  template <int C>
  static std::vector<double> column(const std::vector<double>& vectors, int c) {
    std::vector<double> single(vectors.size() / C);
    for (size_t k = 0; k < single.size(); ++k) single[k] = vectors[k * C + c];
    return single;
  }

  template <int C>
  static void put(const std::vector<double>& single, std::vector<double>& vectors, int c) {
    for (size_t k = 0; k < single.size(); ++k) vectors[k * C + c] = single[k];
  }

  template <int C>
  static bool is_zero(const std::vector<double>& vectors, int c) {
    for (size_t k = c; k < vectors.size(); k += C)
      if (vectors[k] != 0) return false;
    return true;
  }

  const Pattern& K_;
  const Factorisation& factorisation_;
  Eigen* eigen_;
  Tolerances tolerances_;
  Last<Spectrum> spectra_;
  Last<NullSpace> null_spaces_;
};

}  // namespace diffqcp
