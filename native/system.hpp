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

#include "assembly.hpp"
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

  Tolerances tolerances() const { return {tolerance, epsilon, max_steps, well_posed}; }
};

// D and K at a point, and what the factorisation of K has left: arrays that somebody keeps.
struct Parts {
  const double *lam, *frames, *values;
  double* factor;
  bool singular;
};

struct Answer {
  std::vector<double> w, u;
  bool solved = false;
};

// L U'dual and U L t, as the methods of the Python class KKTOperator.
inline void from_dual(const Problem& problem, const Jacobian& D, const double* dual,
                      double* t) {
  problem.cone.rotate_back(D.frames, dual, t);
  for (Index k = 0; k < problem.m; ++k) t[k] *= std::sqrt(D.lam[k]);
}

inline std::vector<double> to_dual(const Problem& problem, const Jacobian& D,
                                   const double* t) {
  std::vector<double> scaled(t, t + problem.m), dual(problem.m);
  for (Index k = 0; k < problem.m; ++k) scaled[k] *= std::sqrt(D.lam[k]);
  problem.cone.rotate(D.frames, scaled, dual.data());
  return dual;
}

class System {
 public:
  System(const Problem& problem, const Options& options, const Parts& parts)
      : problem_(problem), options_(options), pattern_(problem.pattern()),
        factorisation_(pattern_, problem.lapack.gemm, problem.simplicial()),
        assembly_(problem), parts_(parts),
        solver_(pattern_, factorisation_, problem.lapack.eigen, options.tolerances()) {}
  System(const System&) = delete;  // its solver refers to what it has

  // K for D as the parts have it. `values` are those of the parts.
  void assemble(const double* P, const double* A, double* values) {
    assembly_.values(P, A, {parts_.lam, parts_.frames}, values);
  }

  // The factor of K. `shift` gets that of K itself.
  void factorise(const double* P, const double* A, double* shift) {
    std::vector<double> all(problem_.order);
    initial_shift(P, A, all.data());
    std::copy(all.begin(), all.begin() + problem_.n + problem_.m, shift);
    assembly_.expand_shift(all.data(), options_.relative);
    const Factor factor(pattern_, parts_.factor);
    for (Index k = 0; k < pattern_.n; ++k) factor.shift[k] = all[pattern_.pivots[k]];
    parts_.singular =
        diffqcp::factorise(pattern_, factorisation_, parts_.values,
                           problem_.groups.data(), options_.adapt, options_.well_posed,
                           factor) &&
        !options_.well_posed;
  }

  // Whether the factor, which is that of a regular matrix nearby, will do for K.
  bool suits() const {
    return solver_.suits(parts_.values, Factor(pattern_, parts_.factor));
  }

  bool singular() const { return parts_.singular; }

  // With a relative error of `enough`, if that is more than the tolerance.
  Answer solve(const double* upper, const double* dual, double enough = 0) {
    Answer answer;
    solve_all<1>({upper}, {dual}, &answer, enough);
    return answer;
  }

  // For two right-hand sides, at once if K is regular. `enough` is for the other one.
  std::pair<Answer, Answer> solve_both(const double* upper, const double* dual,
                                       const double* other_upper,
                                       const double* other_dual, double enough) {
    Answer answers[2];
    if (parts_.singular) {
      answers[0] = solve(upper, dual);
      answers[1] = solve(other_upper, other_dual, enough);
    } else {
      solve_all<2>({upper, other_upper}, {dual, other_dual}, answers, 0);
    }
    return {std::move(answers[0]), std::move(answers[1])};
  }

 private:
  // Of the size of P and of A, as the Python method AbstractQuasidefiniteSolver._shift has
  // it.
  void initial_shift(const double* P, const double* A, double* shift) const {
    double size_P = largest(P, problem_.P.count());
    double size_A = largest(A, problem_.A.count());
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
    const Index n = problem_.n, m = problem_.m, order = problem_.order;
    const Jacobian D{parts_.lam, parts_.frames};
    std::vector<double> vector(order), r(static_cast<size_t>(order) * C);
    for (int c = 0; c < C; ++c) {
      std::copy(upper[c], upper[c] + n, vector.begin());
      from_dual(problem_, D, dual[c], vector.data() + n);
      assembly_.expand(D, vector.data());
      for (Index k = 0; k < order; ++k)
        r[static_cast<size_t>(k) * C + c] = vector[pattern_.pivots[k]];
    }
    Outcome outcome[C];
    solver_.solve<C>(parts_.values, Factor(pattern_, parts_.factor), parts_.singular, r,
                     outcome, enough);
    const double most = std::max({options_.tolerance, enough, std::sqrt(options_.epsilon)});
    for (int c = 0; c < C; ++c) {
      for (Index k = 0; k < order; ++k)
        vector[pattern_.pivots[k]] = r[static_cast<size_t>(k) * C + c];
      assembly_.contract(D, vector.data());
      Answer& answer = answers[c];
      answer.solved = !(outcome[c].error > most);
      for (Index k = 0; k < n + m; ++k)
        answer.solved = answer.solved && std::isfinite(vector[k]);
      if (!answer.solved) std::fill(vector.begin(), vector.end(), std::nan(""));
      answer.w.assign(vector.begin(), vector.begin() + n);
      answer.u = to_dual(problem_, D, vector.data() + n);
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
