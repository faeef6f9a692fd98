// How a matrix K is coupled with the multipliers of its problem.
#pragma once

#include <cmath>
#include <vector>

#include "assembly.hpp"

namespace diffqcp {

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

}  // namespace diffqcp
