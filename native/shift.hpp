// The factorisation of K + E, with a shift E that suits K, and what is known of K then.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "refine.hpp"
#include "scaling.hpp"

namespace diffqcp {

// The shift at which what a step of (2) leaves of vectors that are not null, and the error of
// the factors, are both small. The former grows with the shift, the latter, which is about
// epsilon / (e1 e2), falls. `attempt` factorises with a shift that is larger by a factor, and
// returns what is known then; `rank` is that of the present one, `reached`. A rate above
// `slow` is too much.
template <typename Attempt>
Refinement::Rank balance(Refinement::Rank rank, double slow, const double& reached,
                         const Attempt& attempt) {
  constexpr double largest = 0x1p12, least = 0x1p-12, wild = 0x1p6;
  constexpr double poor = 1e-4;
  constexpr int attempts = 6;
  double failed = 0;  // the largest shift whose factors are not accurate
  double best = reached;
  Refinement::Rank found = rank;
  for (int k = 0; k < attempts; ++k) {
    double factor;
    if (!rank.accurate()) {
      failed = std::max(failed, reached);
      factor = rank.error < 1 ? std::sqrt(rank.error / Refinement::kFair) : wild;
      factor = std::max(2.0, std::min(std::exp2(std::ceil(std::log2(factor))), wild));
    } else if (rank.singular && rank.rate > slow) {
      const double rate = std::min(rank.rate, 1.0), error = std::max(rank.error, 1e-12);
      factor = std::exp2(std::floor(std::log2(std::cbrt(error / rate))));
      if (!(factor < 1)) break;
    } else if (rank.singular && rank.error > poor && rank.error > 0.3 * rank.rate) {
      // Some null vectors may have larger errors than a random one.
      factor = std::cbrt(100 * rank.error / std::max(rank.rate, 1e-6));
      factor = std::min(std::exp2(std::ceil(std::log2(factor))), wild);
    } else {
      break;
    }
    const double next = reached * factor;
    if (next > largest || next < least || (factor < 1 && next <= failed)) break;
    rank = attempt(factor);
    if (rank.badness() < found.badness()) {
      found = rank;
      best = reached;
    }
  }
  return best == reached ? found : attempt(best / reached);
}

// Factorises K + E. `shift` is the one to start from, and becomes the one taken, as `balance`
// finds it. If that does not help, eigenvalues of K may be of all sizes, and K regular all
// the same, which a shift of the size of rounding errors shows. If the rows of K are of very
// different sizes, and small ones may have passed for zero, the same with a shift that
// follows them, which is kept if it makes things clear. Returns what is known of K at the
// shift taken. If K is known to be regular, nothing of this. If K is not finite, nothing is
// computed, and the rate is NaN.
inline Refinement::Rank factorise_with_shift(const Pattern& K,
                                             const Factorisation& factorisation,
                                             const double* values, const Index* groups,
                                             bool adapt, bool well_posed, double* panels,
                                             double* inverse, double* shift) {
  const double* end = values + factorisation.entries();
  if (!std::all_of(values, end, [](double value) { return std::isfinite(value); })) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {false, nan, nan};
  }
  if (well_posed) {
    factorisation.factorise(values, shift, panels, inverse);
    return {false, std::numeric_limits<double>::infinity(), 0};  // nothing is measured
  }
  constexpr double smallest = 0x1p-24, relative = 0x1p-26, rounding = 1e-15;
  // The rate at which the null space is told from the rest if all of it is to be found.
  constexpr double clear = 1e-2;
  const Index n = factorisation.order();
  const Refinement refinement(factorisation, values, panels, inverse, shift);
  double reached = 1;  // the shift over the first of its kind
  bool even = true;
  const auto attempt = [&](double factor) {
    for (Index k = 0; k < n; ++k) shift[k] *= factor;
    reached *= factor;
    factorisation.factorise(values, shift, panels, inverse);
    Refinement::Rank rank = refinement.rank(adapt);
    rank.relative = adapt ? relative * reached : 0;
    rank.even = even;
    return rank;
  };
  const auto regular = [](const Refinement::Rank& rank) {
    return !rank.singular && rank.fair();
  };
  bool sure_of = false;  // the present shift
  // What passes for a null vector, and is none, may be an error of the factors.
  const auto sure = [&](Refinement::Rank rank) {
    constexpr double more = 0x1p4;
    constexpr int attempts = 3;
    if (!sure_of) rank = refinement.sure(rank);
    for (int k = 0; k < attempts && adapt && std::isinf(rank.rate) && !rank.fair(); ++k)
      rank = refinement.sure(attempt(more));
    return rank;
  };
  Refinement::Rank rank = attempt(1);
  if (!adapt || regular(rank)) return refinement.sure(rank);
  const std::vector<double> start(shift, shift + n);
  const bool vague = rank.accurate() && rank.slow();
  rank = balance(rank, Refinement::kSlow, reached, attempt);
  const std::vector<double> scale = equilibrate(K, values, groups);
  const bool differ = uneven(K, values, shift, scale);
  std::vector<double> part;  // a null vector, by the present factors
  if (!rank.slow()) {
    if (rank.singular) {
      part = refinement.random_null_vector(rank);
      rank = refinement.sure(rank, part);
    }
    sure_of = true;
  }
  if (vague || rank.slow()) {
    // Eigenvalues may be of all sizes, and K regular all the same.
    const double before = reached;
    attempt(smallest / reached);
    if (refinement.regular()) return {false, 0, 0, relative * reached, even};
    rank = attempt(before / reached);
    sure_of = false;
    part.clear();
  }
  if (!differ || regular(rank)) return sure(rank);
  double distance = 1;  // also if the factors are not good enough to tell
  if (rank.singular) {
    if (part.empty()) part = refinement.random_null_vector(rank);
    distance = refinement.distance(part, scale);
    if (distance <= rounding && !rank.slow())
      return sure_of ? rank : refinement.sure(rank, part);
  }
  const std::vector<double> plain(shift, shift + n);
  const double plain_reached = reached;
  even = sure_of = false;
  reached = 1;
  for (Index k = 0; k < n; ++k)
    shift[k] = std::copysign(relative / (scale[k] * scale[k]), start[k]);
  rank = balance(attempt(1), clear, reached, attempt);
  if (!rank.slow() || !(distance <= Refinement::kRounding)) return sure(rank);
  even = true;
  reached = plain_reached;
  std::copy(plain.begin(), plain.end(), shift);
  return sure(attempt(1));
}

}  // namespace diffqcp
