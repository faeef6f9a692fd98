// Solutions of K z = r with the factors of K + E: what the Python class
// AbstractQuasidefiniteSolver describes, with the same steps and the same tests, in one
// call. Vectors are in the order of the pivots.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "null_space.hpp"

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

  // Whether more has to be tried: also if the factors overflow, so that it is NaN.
  bool missed(double error) const { return !(error <= std::max(kEnough, tolerance)); }

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
    double error;  // of one solve
    // At which (2) removes what is not in the null space; one, if it hardly does.
    double rate;
    // E, relative to the entries of an equilibrated K; zero if that is not known.
    double relative = 0;
    // Whether E is one number for all null vectors of a block, or follows the rows.
    bool even = true;

    // Whether the factors are accurate: not if they overflow, and the error is NaN.
    bool fair() const { return error <= kFair; }
    bool accurate() const { return error <= (singular ? kUseful : kFair); }
    // Whether (2) takes many steps.
    bool slow() const { return !accurate() || (singular && rate > kSlow); }
    // Accurate factors come first: where (2) is slow, (5) is not.
    double badness() const {
      if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
      if (!accurate()) return 1 + error;
      return singular ? std::max(10 * error, std::min(rate, 1.0)) : error;
    }
  };

  static constexpr double kFair = 1e-5, kUseful = 1e-2;
  static constexpr double kSlow = 0.1;
  // Of a random vector, whose part in a null space of one dimension is of size one.
  static constexpr double kUnclear = 0.01;
  // Of K times a null vector, with a margin for long sums; and how far it may be from that,
  // if its entries are rounded.
  static constexpr double kRounding = 1e-12, kClear = 3, kDeparted = 100;

  // Whether one step of (2) leaves more of a random vector than rounding errors, and the next
  // one a part of that: many eigenvalues that are small beside K leave a small part, too, but
  // less and less of it. If so, what the next step changes: little, if the other eigenvalues
  // of K are all much larger than E.
  //
  // If u is in the null space, |u| = 1, and its last entry is u_j, then the j-th pivot is
  // about e / u_j^2. So if all pivots are large there is no null vector, but for one with
  // a very small last entry, and for that the solution will not converge.
  //
  // The factors may be inaccurate if pivots are large beside the shift, 1e-5 / epsilon, and
  // then the error of one solve is measured. `again` says that factors that are not good
  // will be made again, and that the rate is of no interest.
  Rank rank(bool again) const {
    constexpr double precise = 2e-11;
    bool small = false, large = false;
    for (Index k = 0; k < n_; ++k) {
      const double part = inverse_[k] * shift_[k];
      small = small || !(part < 1e-6);
      large = large || !(part > precise);
    }
    if (!small) return {false, 0, 0};
    const std::vector<double> probe = random_residual();
    std::vector<double> left = probe, next(n_);
    contract(kResidual, left);
    constexpr double fades = 1e-2;
    const double size = norm(kResidual, left);
    std::vector<double> second;
    bool singular = !(size <= kUnclear);
    if (singular) {
      second = left;
      contract(kResidual, second);
      singular = !(norm(kResidual, second) <= fades * size);
    }
    Rank rank{singular, 0, 0};
    if (singular || large) {
      std::vector<double> solved(n_);
      for (Index k = 0; k < n_; ++k) solved[k] = left[k] / shift_[k];
      factorisation_.multiply<1>(values_, solved.data(), next.data());
      for (Index k = 0; k < n_; ++k) next[k] += left[k] - probe[k];
      rank.error = norm(kResidual, next) / norm(kResidual, singular ? left : probe);
    }
    if (!singular) return rank;
    rank.rate = 1;
    if (again && !rank.accurate()) return rank;
    for (Index k = 0; k < n_; ++k) next[k] = second[k] - left[k];
    rank.rate = norm(kResidual, next);
    // A small change is that of an eigenvalue much larger than E, or much smaller: then it
    // repeats itself.
    const double noise = 1e-6 + 10 * rank.error * norm(kResidual, left);
    if (rank.rate > noise) {
      contract(kResidual, next);
      if (!(norm(kResidual, next) < noise + 10 * rank.rate * rank.rate)) rank.rate = 1;
    }
    return rank;
  }

  // Whether one step of (1) leaves next to nothing of a random vector. The factors may be
  // those of a matrix near K. If K were singular, its null vectors would be left.
  bool suits() const {
    std::vector<double> left = random_residual(), solved = left, image(n_);
    factorisation_.solve<1>(panels_, inverse_, solved.data());
    factorisation_.multiply<1>(values_, solved.data(), image.data());
    for (Index k = 0; k < n_; ++k) left[k] -= image[k];
    return norm(kResidual, left) <= kUnclear;
  }

  // What (2) finds in a random vector: if K is singular, a null vector, unless eigenvalues
  // that are small beside E, but no rounding errors, pass for zero.
  std::vector<double> random_null_vector(const Rank& rank) const {
    const Tolerances tolerances{0, 0, 50, false};
    std::vector<double> random = random_residual(), part;
    for (Index k = 0; k < n_; ++k) random[k] /= shift_[k];
    null_part(steps_of_removal(rank.rate, tolerances), tolerances, 0, random, part);
    return part;
  }

  // How far that, `part`, is from the null space, in units in which K is equilibrated,
  // C K C with C = diag(scale): small rows pass for zero in others.
  double distance(const std::vector<double>& part, const std::vector<double>& scale) const {
    std::vector<double> product(n_);
    factorisation_.multiply<1>(values_, part.data(), product.data());
    double image = 0, size = 0;
    for (Index k = 0; k < n_; ++k) {
      image += std::pow(scale[k] * product[k], 2);
      size += std::pow(part[k] / scale[k], 2);
    }
    return std::sqrt(image / size);
  }

  // K times a vector, relative to the rounding errors of these sums.
  double departure(const std::vector<double>& vector, std::vector<double>& product) const {
    std::vector<double> sizes(values_, values_ + factorisation_.entries()), sum(n_);
    std::vector<double> lengths = vector;
    for (double& value : sizes) value = std::abs(value);
    for (double& length : lengths) length = std::abs(length);
    factorisation_.multiply<1>(sizes.data(), lengths.data(), sum.data());
    factorisation_.multiply<1>(values_, vector.data(), product.data());
    constexpr double epsilon = std::numeric_limits<double>::epsilon();
    return norm(kResidual, product) / (epsilon * norm(kResidual, sum));
  }

  // Whether that is no more than these.
  bool is_null(const std::vector<double>& vector) const {
    std::vector<double> product(n_);
    return !(departure(vector, product) > kClear);
  }

  // The same rank, with the rate of what is not null, but takes long to be told from it: K
  // times what passes for a null vector is more than rounding errors then. The rate is
  // infinite if (2) will not tell them apart.
  Rank sure(const Rank& rank) const {
    return rank.singular ? sure(rank, random_null_vector(rank)) : rank;
  }

  // The same, with a random null vector.
  Rank sure(Rank rank, std::vector<double> part) const {
    constexpr double slowest = 0.95;
    std::vector<double> product(n_);
    const double first = departure(part, product);
    if (!(first > kClear)) return rank;
    factorisation_.solve<1>(panels_, inverse_, product.data());
    for (Index k = 0; k < n_; ++k) part[k] -= product[k];
    const double fall = departure(part, product) / first;
    if (fall < slowest)
      rank.rate = std::max(rank.rate, fall);
    else if (first > kDeparted)
      rank.rate = std::numeric_limits<double>::infinity();
    return rank;
  }

  // Whether (1) converges for a random vector without (2), and fast: then K is regular.
  bool regular() const {
    std::vector<double> r = random_residual(), z;
    Outcome outcome;
    refine<1>({Tolerances::kEnough, 0, 50, true}, r, z, &outcome);
    return outcome.error <= Tolerances::kEnough;
  }

  // Overwrites C interleaved right-hand sides by the solutions. Only a single one may be
  // of a singular K; `rank` is what has been found about it, and `null_space` is there if
  // the shift is uneven. If a null vector has escaped notice, all of (2) is needed.
  template <int C>
  void solve(const Rank& rank, const NullSpace* null_space, const Tolerances& tolerances,
             std::vector<double>& r, Outcome* outcome) const {
    std::vector<double> z;
    if (rank.singular) {
      z = solve_singular(steps_of_removal(rank.rate, tolerances), rank, null_space,
                         tolerances, r, outcome);
      r.swap(z);
      return;
    }
    refine<C>(tolerances, r, z, outcome);
    for (int c = 0; c < C; ++c) {
      if (tolerances.well_posed || !tolerances.missed(outcome[c].error)) continue;
      std::vector<double> single(n_);
      for (Index k = 0; k < n_; ++k) single[k] = r[static_cast<size_t>(k) * C + c];
      if (!finite(single)) continue;
      const int steps = steps_of_removal(kUnknown, tolerances);
      single = solve_singular(steps, rank, null_space, tolerances, std::move(single),
                              &outcome[c]);
      for (Index k = 0; k < n_; ++k) z[static_cast<size_t>(k) * C + c] = single[k];
    }
    r.swap(z);
  }

  // The null space, if E follows the rows of K: then (2) does not project orthogonally in
  // the units of the data.
  NullSpace null_space(const Rank& rank, const Tolerances& tolerances) const {
    constexpr double trace = 1e-6;  // a random vector has more of each null vector
    const int steps = steps_of_removal(rank.rate, tolerances);
    std::vector<double> units(n_), vector(n_), product(n_), part;
    for (Index k = 0; k < n_; ++k) units[k] = 1 / std::sqrt(std::abs(shift_[k]));
    std::vector<std::vector<double>> basis;
    Random random;
    while (steps > 0 && basis.size() <= NullSpace::kMost) {
      for (Index k = 0; k < n_; ++k) vector[k] = random() * units[k];
      const double size = norm(kSolution, vector);
      null_part(steps, tolerances, size, vector, part);
      for (Index k = 0; k < n_; ++k) vector[k] = part[k] / units[k];
      for (int repeat = 0; repeat < 2; ++repeat)
        for (const auto& unit : basis) NullSpace::subtract(unit, vector);
      if (!(std::sqrt(dot(vector, vector)) > trace * size))
        return NullSpace(std::move(basis), units);
      if (departure(part, product) > kDeparted) break;
      NullSpace::normalise(vector);
      basis.push_back(vector);
    }
    return NullSpace();
  }

  // Where it has not been measured.
  static constexpr double kUnknown = 1e-2;

  static bool finite(const std::vector<double>& vector) {
    return std::all_of(vector.begin(), vector.end(),
                       [](double value) { return std::isfinite(value); });
  }

 private:
  // Numbers of mean zero and variance one; always the same.
  class Random {
   public:
    double operator()() {
      state_ ^= state_ << 13;  // Marsaglia's xorshift
      state_ ^= state_ >> 7;
      state_ ^= state_ << 17;
      const double uniform = static_cast<double>(state_ >> 11) * 0x1p-53;
      return std::sqrt(12.0) * (uniform - 0.5);
    }

   private:
    uint64_t state_ = 0x9E3779B97F4A7C15;
  };

  // In the units of residuals.
  std::vector<double> random_residual() const {
    std::vector<double> numbers(n_);
    Random random;
    for (Index k = 0; k < n_; ++k) numbers[k] = std::sqrt(std::abs(shift_[k])) * random();
    return numbers;
  }

  // Iteration (1), for a regular K.
  template <int C>
  void refine(const Tolerances& tolerances, const std::vector<double>& r,
              std::vector<double>& z, Outcome* outcome) const {
    const auto [tolerance, floor, max_steps, well_posed] = tolerances;
    const double slowest = well_posed ? 0.5 : 1;
    double smallest[C], last[C], length[C], size[C];
    norms<C>(kResidual, r, smallest);
    for (double& value : smallest) value *= floor;
    z = r;
    std::vector<double> correction(z.size());
    factorisation_.solve<C>(panels_, inverse_, z.data());
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

  // For a singular K. If r is in the range, which is usual, only rounding errors and the
  // errors of the factors have a part in the null space, and it is enough to remove that of
  // the solution. A basis makes it cheap to remove that of r, and without that (1) would not
  // have the least-squares solution in the units of the data for its limit.
  std::vector<double> solve_singular(int steps, const Rank& rank,
                                     const NullSpace* null_space,
                                     const Tolerances& tolerances, std::vector<double> r,
                                     Outcome* outcome) const {
    std::vector<double> z(n_, 0.0);
    *outcome = {std::numeric_limits<double>::infinity(), 0};
    if (steps == 0) return z;
    const auto remove_from = [&](Units units, std::vector<double>& vector) {
      if (null_space == nullptr) return remove(steps, tolerances, units, vector);
      null_space->remove(vector);
      return 0.0;
    };
    for (const bool consistent : {false, true}) {
      if (null_space != nullptr && !consistent) continue;
      if (consistent) {
        std::vector<double> part = r;
        const double whole = norm(kResidual, r);
        remove_from(kResidual, r);
        for (Index k = 0; k < n_; ++k) part[k] -= r[k];
        if (!is_null(tolerances, part, whole, rank)) break;
      }
      refine_consistent(steps, tolerances, consistent, r, z, outcome);
      if (outcome->error <= tolerances.tolerance) break;
    }
    outcome->error = std::max(outcome->error, remove_from(kSolution, z));
    return z;
  }

  // Iteration (1) for a singular K. A drift along the null space does not count as long as it
  // is small, and is taken off a correction. If r need not be in the range it has to be that
  // of rounding errors: a larger one is that of r, and the errors of the factors carry it
  // elsewhere. Where (1) is slow, corrections are those of (5).
  void refine_consistent(int steps, const Tolerances& tolerances, bool consistent,
                         const std::vector<double>& r, std::vector<double>& z,
                         Outcome* outcome) const {
    constexpr double slow = 0.1, poor = 0.3, slowest = 0.7;
    const double drift = consistent ? 0.1 : 1e-5;
    const double smallest = tolerances.floor * norm(kResidual, r);
    z = r;
    factorisation_.solve<1>(panels_, inverse_, z.data());
    std::vector<double> residual(n_), correction(n_);
    double last = norm(kSolution, z), ratio = 0;
    *outcome = {last == 0 ? 0 : std::numeric_limits<double>::infinity(), 1};
    bool drifts = false, least = false;
    while (!(outcome->error <= tolerances.tolerance) && ratio < slowest &&
           outcome->steps < tolerances.max_steps) {
      factorisation_.multiply<1>(values_, z.data(), residual.data());
      for (Index k = 0; k < n_; ++k) residual[k] = r[k] - residual[k];
      const double whole = std::max(norm(kSolution, z), smallest);
      double length = 0;
      if (least) {
        solve_least(residual, correction);
        length = norm(kSolution, correction);
      } else {
        correction = residual;
        factorisation_.solve<1>(panels_, inverse_, correction.data());
        length = norm(kSolution, correction);
        drifts = drifts || (!(length < slow * last) && length <= drift * whole);
        for (int repeat = 0; repeat < 3 && drifts; ++repeat) {
          if (length <= tolerances.tolerance * whole) break;
          std::vector<double> part = correction;
          if (!is_slow(steps, tolerances)) {
            contract(kSolution, part);
          } else {
            project_out(part);
            if (!is_nearly_null(part)) break;
          }
          for (Index k = 0; k < n_; ++k) correction[k] -= part[k];
          length = norm(kSolution, correction);
        }
      }
      for (Index k = 0; k < n_; ++k) z[k] += correction[k];
      ratio = length / last;
      const double tail = ratio < slowest ? ratio / (1 - ratio) : 1;
      // The first step of a kind says nothing of the next.
      if (!std::isinf(last)) outcome->error = length / (whole > 0 ? whole : 1) * tail;
      last = length;
      ++outcome->steps;
      if (!least && ratio > poor && (consistent || ratio < slowest)) {
        least = true;
        ratio = 0;
        last = outcome->error = std::numeric_limits<double>::infinity();
      }
    }
  }

  // Whether what has been removed from a residual of size `whole` is E times a null vector:
  // eigenvalues that are small beside E, but no rounding errors, pass for zero in (2).
  bool is_null(const Tolerances& tolerances, std::vector<double> part, double whole,
               const Rank& rank) const {
    if (rank.relative == 0) return true;
    if (rank.even)
      for (Index k = 0; k < n_; ++k) part[k] /= shift_[k];
    std::vector<double> product(n_);
    factorisation_.multiply<1>(values_, part.data(), product.data());
    const double size = std::max(norm(kSolution, part), 1e-3 * whole);
    const double enough = std::max(kRounding, tolerances.tolerance);
    return rank.relative * norm(kResidual, product) <= enough * size;
  }

  // How often (2) is applied at most until what is left is the part in the null space; 0
  // if it would be another one.
  static int steps_of_removal(double rate, const Tolerances& tolerances) {
    constexpr double margin = 3, accuracy = 1e-14;
    if (!std::isfinite(rate)) return 0;
    if (margin * rate >= 1) return tolerances.max_steps;
    const double steps = std::ceil(std::log(accuracy) / std::log(margin * rate));
    return std::max(2, static_cast<int>(std::min<double>(steps, tolerances.max_steps)));
  }

  // Whether (2) would leave nearly all of E times this vector, which is to be a null part:
  // else an eigenvalue that is not zero would pass for that.
  bool is_nearly_null(const std::vector<double>& part) const {
    constexpr double small = 1e-3;
    std::vector<double> product(n_);
    factorisation_.multiply<1>(values_, part.data(), product.data());
    return norm(kResidual, product) <= small * norm(kSolution, part);
  }

  // Whether (5) takes the place of (2).
  static bool is_slow(int steps, const Tolerances& tolerances) {
    return steps >= tolerances.max_steps;
  }

  // The part of a solution z in the null space: M^-1 times the limit of (2) from E z, by the
  // form r - K M^-1 r, whose limit is M times an exact null vector whatever the factors are.
  // The error is relative to `whole`; or if that is zero to the part, for E z = r: K^-1 makes
  // what is lost of a residual large. Where (2) is slow, (5) in docs/derivation.md takes its
  // place. Where it stops as the errors of the factors are reached, `purify` goes on.
  void null_part(int steps, const Tolerances& tolerances, double whole,
                 const std::vector<double>& vector, std::vector<double>& part) const {
    constexpr double slow = 0.5, worth = 0.01;
    if (is_slow(steps, tolerances)) {
      part = vector;
      project_out(part);
      return;
    }
    std::vector<double> residual(n_), image(n_), old_residual(n_), old_image(n_);
    for (Index k = 0; k < n_; ++k) residual[k] = shift_[k] * vector[k];
    double last = 0;
    bool tried = false;
    part.assign(n_, 0.0);
    for (int step = 0; step < steps; ++step) {
      part = residual;
      factorisation_.solve<1>(panels_, inverse_, part.data());
      factorisation_.multiply<1>(values_, part.data(), image.data());
      const double change = norm(kResidual, image), ratio = change / last;
      last = change;
      const double size = whole > 0 ? whole : norm(kSolution, part);
      if (ratio < slow && change * ratio <= tolerances.tolerance / 2 * size) return;
      if (step > 0 && !(ratio < slow) && !tried) {
        tried = true;
        std::vector<double> pure = part;
        purify(pure);
        if (is_null(pure)) {
          part.swap(pure);
          return;
        }
      }
      if (step > 0 && ratio > worth) extrapolate(old_residual, old_image, residual, image);
      old_residual = residual;
      old_image = image;
      for (Index k = 0; k < n_; ++k) residual[k] -= image[k];
    }
    purify(part);
  }

  // Of the residuals on the line through two of (2), that with the least image, and this: one
  // eigenvalue is usually much closer to zero than the others. The part in the null space is
  // that of both.
  void extrapolate(const std::vector<double>& old_residual,
                   const std::vector<double>& old_image, std::vector<double>& residual,
                   std::vector<double>& image) const {
    double product = 0, square = 0;
    for (Index k = 0; k < n_; ++k) {
      const double change = image[k] - old_image[k], weighted = change / std::abs(shift_[k]);
      product += weighted * image[k];
      square += weighted * change;
    }
    const double factor = square > 0 ? product / square : 0;
    for (Index k = 0; k < n_; ++k) {
      residual[k] -= factor * (residual[k] - old_residual[k]);
      image[k] -= factor * (image[k] - old_image[k]);
    }
  }

  // Subtracts the part in the null space: of a residual r, that of E^-1 r. What is left
  // after that is smaller by the error of the factors, and is subtracted again until it does
  // not count: as what is found is linear in the vector, that of the rest is what has been
  // found, less what is found of that. Returns what is left in the end, relative to the
  // vector.
  double remove(int steps, const Tolerances& tolerances, Units units,
                std::vector<double>& vector) const {
    constexpr int most = 12;
    constexpr double counts = 1e-10;
    std::vector<double> part, again;
    if (units == kResidual)
      for (Index k = 0; k < n_; ++k) vector[k] /= shift_[k];
    double last = std::numeric_limits<double>::infinity(), left = last;
    const double scale = units == kSolution ? norm(kSolution, vector) : 0;
    for (int repeat = 0; repeat < most && left > tolerances.tolerance; ++repeat) {
      if (repeat == 0 || is_slow(steps, tolerances)) {
        null_part(steps, tolerances, scale, vector, part);
      } else {
        null_part(steps, tolerances, scale, part, again);
        for (Index k = 0; k < n_; ++k) part[k] -= again[k];
      }
      const double size = norm(kSolution, part), whole = norm(kSolution, vector);
      if (size > 0.5 * last) break;
      if (is_slow(steps, tolerances) && size > counts * whole && !is_nearly_null(part)) {
        left = size / whole;
        break;
      }
      for (Index k = 0; k < n_; ++k) vector[k] -= part[k];
      const double ratio = std::min(1.0, size / std::min(last, whole));
      left = whole > 0 ? size / whole * ratio : 0;
      last = size;
    }
    if (units == kResidual)
      for (Index k = 0; k < n_; ++k) vector[k] *= shift_[k];
    return left;
  }

  // The part of a solution in the null space: what is left of z without the solution of (5)
  // for K z on the right, and of that again, as what is lost of a small one counts.
  void project_out(std::vector<double>& z) const {
    constexpr int most = 4;
    std::vector<double> image(n_), rest(n_);
    double last = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < most; ++repeat) {
      factorisation_.multiply<1>(values_, z.data(), image.data());
      solve_least(image, rest);
      const double size = norm(kSolution, rest);
      if (!(size < 0.5 * last)) break;  // rounding errors
      for (Index k = 0; k < n_; ++k) z[k] -= rest[k];
      if (size <= 1e-14 * norm(kSolution, z)) break;
      last = size;
    }
  }

  // The least-squares solution of least norm of (5), G z = M^-1 r with G = M^-1 K, by the
  // method of conjugate gradients. G times a null vector is zero whatever the errors of the
  // factors, and the range of its transpose is orthogonal to the null space.
  void solve_least(const std::vector<double>& r, std::vector<double>& z) const {
    constexpr int most = 60;
    constexpr double enough = 1e-9;
    std::vector<double> rest = r, product(n_), gradient(n_), direction;
    z.assign(n_, 0.0);
    const auto image = [&](const std::vector<double>& from, std::vector<double>& to) {
      factorisation_.multiply<1>(values_, from.data(), to.data());
      factorisation_.solve<1>(panels_, inverse_, to.data());
    };
    const auto transposed = [&] {
      for (Index k = 0; k < n_; ++k) product[k] = std::abs(shift_[k]) * rest[k];
      factorisation_.solve<1>(panels_, inverse_, product.data());
      factorisation_.multiply<1>(values_, product.data(), gradient.data());
      for (Index k = 0; k < n_; ++k) gradient[k] /= std::abs(shift_[k]);
    };
    factorisation_.solve<1>(panels_, inverse_, rest.data());
    transposed();
    direction = gradient;
    const double first = norm(kSolution, gradient);
    double last = first, smallest = first;
    for (int step = 0; step < most && last > enough * first; ++step) {
      image(direction, product);
      const double length = norm(kSolution, product), rate = last * last / (length * length);
      for (Index k = 0; k < n_; ++k) {
        z[k] += rate * direction[k];
        rest[k] -= rate * product[k];
      }
      transposed();
      const double size = norm(kSolution, gradient), ratio = size * size / (last * last);
      const bool close = smallest <= 1e-4 * first;
      if (!std::isfinite(size) || size > (close ? 0.3 : 1e3) * smallest) break;
      for (Index k = 0; k < n_; ++k) direction[k] = gradient[k] + ratio * direction[k];
      last = size;
      smallest = std::min(smallest, size);
    }
  }

  // One step of (2): of E M^-1 for a residual, and of its transpose for a solution.
  void contract(Units units, std::vector<double>& vector) const {
    const auto multiply = [&] {
      for (Index k = 0; k < n_; ++k) vector[k] *= shift_[k];
    };
    if (units == kSolution) multiply();
    factorisation_.solve<1>(panels_, inverse_, vector.data());
    if (units == kResidual) multiply();
  }

  // Makes a null vector of one that is nearly that: (1) for zero on the right, as long as it
  // helps. Errors of the factors do not matter for that.
  void purify(std::vector<double>& vector) const {
    std::vector<double> correction(n_);
    double last = std::numeric_limits<double>::infinity();
    for (int step = 0; step < 6; ++step) {
      factorisation_.multiply<1>(values_, vector.data(), correction.data());
      const double image = norm(kResidual, correction);
      if (!(image < 0.5 * last)) break;
      last = image;
      factorisation_.solve<1>(panels_, inverse_, correction.data());
      for (Index k = 0; k < n_; ++k) vector[k] -= correction[k];
    }
  }

  // Norms in which both blocks have the same units.
  template <int C>
  void norms(Units units, const std::vector<double>& vector, double* result) const {
    constexpr Index lanes = 4;  // sums that do not wait for each other
    double sums[lanes][C] = {};
    const auto add = [&](Index k, double (&sum)[C]) {
      const double size = std::abs(shift_[k]);
      const double weight = units == kSolution ? size : 1 / size;
      const double* entries = vector.data() + static_cast<size_t>(k) * C;
      for (int c = 0; c < C; ++c) sum[c] += weight * entries[c] * entries[c];
    };
    Index k = 0;
    for (; k + lanes <= n_; k += lanes)
      for (Index i = 0; i < lanes; ++i) add(k + i, sums[i]);
    for (; k < n_; ++k) add(k, sums[0]);
    for (int c = 0; c < C; ++c)
      result[c] = std::sqrt((sums[0][c] + sums[1][c]) + (sums[2][c] + sums[3][c]));
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

// What there is without factors.
template <int C>
void unsolved(std::vector<double>& r, Outcome* outcome) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::fill(r.begin(), r.end(), nan);
  std::fill(outcome, outcome + C, Outcome{nan, 0});
}

}  // namespace diffqcp
