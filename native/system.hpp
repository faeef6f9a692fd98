// The linear system of the Python module diffqcp.kkt,
//
//     K [w; t] = [upper; L U'dual],     u = U L t,
//
// at a point: K put together, factorised, and solved with.
#pragma once

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "range_space.hpp"
#include "solver.hpp"

namespace diffqcp {

// The options of the Python class SparseLDL, and the precision of the data; and from how many
// products in the time of a factorisation on iterations take its place.
struct Options {
  double relative;  // the shift
  bool adapt, well_posed;
  double tolerance;
  int32_t max_steps;
  double epsilon, worth;
  bool eliminates = false;  // x, where the problem is dense

  Tolerances tolerances() const { return {tolerance, epsilon, max_steps, well_posed}; }
};

// Whether there may be an elimination of x in the place of a factor.
inline bool may_eliminate(const Problem& problem) {
  return problem.dense && problem.order == problem.n + problem.m;
}

// How many numbers a factor's panels have room for.
inline int64_t factor_room(const Problem& problem, bool eliminates) {
  const int64_t panels = problem.pattern().size();
  return eliminates && may_eliminate(problem) ? std::max(panels, Eliminated::size(problem))
                                              : panels;
}

// D and K at a point, what the factorisation of K has left, and the matrices of the problem,
// if it may have to be factorised, or if x has been eliminated: arrays that somebody keeps.
struct Parts {
  const double *lam, *frames, *values;
  double* factor;
  bool singular;
  const double *P = nullptr, *A = nullptr;
};

struct Answer {
  std::vector<double> w, u;
  bool solved = false;
};

class System {
 public:
  System(const Problem& problem, const Options& options, const Parts& parts)
      : problem_(problem), options_(options), pattern_(problem.pattern()),
        factorisation_(pattern_, problem.lapack.gemm, problem.simplicial()),
        assembly_(problem), parts_(parts),
        solver_(pattern_, factorisation_, problem.lapack.eigen, options.tolerances()) {}
  System(const System&) = delete;  // its solver refers to what it has

  // K for D as the parts have it, whose values these become.
  void assemble(std::vector<double>& values) {
    values.resize(pattern_.entries);
    parts_.values = values.data();
    assembly_.values(parts_.P, parts_.A, D(), values.data());
  }

  // The factor of K, and unless x is eliminated, K itself. `shift` gets the shift of K.
  void factorise(std::vector<double>& values, double* shift) {
    if (eliminate()) {
      factor().keep_eliminated();
      parts_.singular = false;
      return;
    }
    if (values.empty()) assemble(values);
    std::vector<double> all(problem_.order);
    initial_shift(all.data());
    std::copy(all.begin(), all.begin() + problem_.n + problem_.m, shift);
    assembly_.expand_shift(all.data(), options_.relative);
    for (Index k = 0; k < pattern_.n; ++k) factor().shift[k] = all[pattern_.pivots[k]];
    parts_.singular =
        diffqcp::factorise(pattern_, factorisation_, parts_.values,
                           problem_.groups.data(), options_.adapt, options_.well_posed,
                           factor()) &&
        !options_.well_posed;
  }

  // Whether the factor, which is that of a regular matrix nearby, will do for K. It makes K.
  bool suits(std::vector<double>& values) {
    if (factor().eliminated()) return false;
    assemble(values);
    return solver_.suits(parts_.values, factor());
  }

  bool singular() const { return parts_.singular; }

  // With a relative error of `enough`, if that is more than the tolerance.
  Answer solve(const double* upper, const double* dual, double enough = 0) {
    Answer answer;
    if (factor().eliminated())
      answer = solve_eliminated(upper, dual, enough);
    else
      solve_all<1>({upper}, {dual}, &answer, enough);
    return answer;
  }

  // Whether there are solves with two right-hand sides at once.
  bool takes_two() const { return !parts_.singular && !factor().eliminated(); }

  // For two right-hand sides, at once.
  std::pair<Answer, Answer> solve_both(const double* upper, const double* dual,
                                       const double* other_upper,
                                       const double* other_dual) {
    Answer answers[2];
    solve_all<2>({upper, other_upper}, {dual, other_dual}, answers, 0);
    return {std::move(answers[0]), std::move(answers[1])};
  }

 private:
  Factor factor() const {
    return Factor(pattern_, parts_.factor, factor_room(problem_, options_.eliminates));
  }

  Jacobian D() const { return {parts_.lam, parts_.frames}; }

  Eliminated elimination() const {
    return {problem_, parts_.P, parts_.A, D(), factor().panels};
  }

  // Eliminates x, and returns whether that has a factor that solves with K.
  bool eliminate() {
    if (!options_.eliminates || !may_eliminate(problem_)) return false;
    Eliminated eliminated = elimination();
    if (!eliminated.factorise()) return false;
    // Any vector.
    std::vector<double> r(problem_.order);
    for (Index k = 0; k < problem_.order; ++k) r[k] = std::sin(1.0 + k);
    return refine(eliminated, r, 0) <= options_.tolerance;
  }

  Answer solve_eliminated(const double* upper, const double* dual, double enough) const {
    std::vector<double> z(problem_.order);
    std::copy(upper, upper + problem_.n, z.begin());
    from_dual(problem_, D(), dual, z.data() + problem_.n);
    const double error = refine(elimination(), z, enough);
    return conclude(z, error, enough);
  }

  // z becomes K^-1 z. Returns a bound of its relative error.
  double refine(const Eliminated& eliminated, std::vector<double>& z, double enough) const {
    constexpr int most = 5;
    const std::vector<double> r = z;
    std::vector<double> rest(r.size());
    eliminated.solve(z.data());
    double last = 1, error = largest(r) == 0 ? 0 : 1;
    for (int step = 0; step < most && error > std::max(options_.tolerance, enough);
         ++step) {
      eliminated.multiply(z, rest);
      for (size_t k = 0; k < r.size(); ++k) rest[k] = r[k] - rest[k];
      eliminated.solve(rest.data());
      for (size_t k = 0; k < r.size(); ++k) z[k] += rest[k];
      const double change = largest(rest) / largest(z);
      if (!(change < 0.5 * last)) return change;
      error = change * (change / last);
      last = change;
    }
    return error;
  }

  // The answer from a solution (w, t) of K.
  Answer conclude(const std::vector<double>& z, double error, double enough) const {
    const Index n = problem_.n, m = problem_.m;
    const double most = std::max({options_.tolerance, enough, std::sqrt(options_.epsilon)});
    Answer answer;
    answer.solved = !(error > most);
    for (Index k = 0; k < n + m; ++k) answer.solved = answer.solved && std::isfinite(z[k]);
    answer.w.assign(z.begin(), z.begin() + n);
    answer.u = to_dual(problem_, D(), z.data() + n);
    if (!answer.solved)
      for (auto* part : {&answer.w, &answer.u})
        std::fill(part->begin(), part->end(), std::nan(""));
    return answer;
  }

  // Of the size of P and of A, as the Python method AbstractQuasidefiniteSolver._shift has
  // it.
  void initial_shift(double* shift) const {
    double size_P = largest(parts_.P, problem_.P.count());
    double size_A = largest(parts_.A, problem_.A.count());
    if (size_P == 0) size_P = size_A;
    if (size_A == 0) size_A = size_P;
    if (size_P == 0) size_P = size_A = 1;
    const double ratio = std::min(std::max(size_P / size_A, 1e-10), 1e10);
    const double upper = size_A * (ratio > 1 ? ratio : std::sqrt(ratio));
    const double lower = size_A * (ratio > 1 ? 1 / std::sqrt(ratio) : 1);
    std::fill(shift, shift + problem_.n, options_.relative * upper);
    for (Index k = 0; k < problem_.m; ++k) {
      const double lam = parts_.lam[k];
      shift[problem_.n + k] = -options_.relative * (lam * lower + (1 - lam));
    }
  }

  template <int C>
  void solve_all(const double* const (&upper)[C], const double* const (&dual)[C],
                 Answer* answers, double enough) {
    const Index n = problem_.n, order = problem_.order;
    std::vector<double> vector(order), r(static_cast<size_t>(order) * C);
    for (int c = 0; c < C; ++c) {
      std::copy(upper[c], upper[c] + n, vector.begin());
      from_dual(problem_, D(), dual[c], vector.data() + n);
      assembly_.expand(D(), vector.data());
      for (Index k = 0; k < order; ++k)
        r[static_cast<size_t>(k) * C + c] = vector[pattern_.pivots[k]];
    }
    Outcome outcome[C];
    solver_.solve<C>(parts_.values, factor(), parts_.singular, r, outcome, enough);
    for (int c = 0; c < C; ++c) {
      for (Index k = 0; k < order; ++k)
        vector[pattern_.pivots[k]] = r[static_cast<size_t>(k) * C + c];
      assembly_.contract(D(), vector.data());
      answers[c] = conclude(vector, outcome[c].error, enough);
    }
  }

  const Problem& problem_;
  Options options_;
  Pattern pattern_;
  Factorisation factorisation_;
  Assembly assembly_;
  Parts parts_;
  Solver solver_;
};

}  // namespace diffqcp
