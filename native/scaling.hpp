// The sizes of the rows of K.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

// Entries below this size are rounding errors, which no scaling is to make large.
inline double negligible(const Pattern& K, const double* values) {
  return 1e-14 * largest(values, K.entries);
}

// The numbers c of an equilibrated K: the largest entry of each row of C K C, C = diag(c),
// is about one (Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in
// matrices", RAL-TR-2001-034). Rows of one group have one number, for the largest of them:
// small ones beside it may be rounding errors. The k-th row has the number
// groups[K.pivots[k]].
inline std::vector<double> equilibrate(const Pattern& K, const double* values,
                                       const Index* groups) {
  constexpr int rounds = 8;
  constexpr double close = 2;  // to one
  const double least = negligible(K, values);
  std::vector<double> scale(K.n, 1.0), largest(K.n);
  for (int round = 0; round < rounds; ++round) {
    std::fill(largest.begin(), largest.end(), 0.0);
    for (Index e = 0; e < K.entries; ++e) {
      if (std::abs(values[e]) <= least) continue;
      const Index i = K.entry_row[e], j = K.entry_col[e];
      const double size = scale[i] * std::abs(values[e]) * scale[j];
      for (const Index k : {i, j}) {
        double& group = largest[groups[K.pivots[k]]];
        group = std::max(group, size);
      }
    }
    bool done = true;
    for (Index k = 0; k < K.n; ++k) {
      const double size = largest[groups[K.pivots[k]]];
      if (!(size > 0)) continue;
      done = done && size < close && size > 1 / close;
      scale[k] /= std::sqrt(size);
    }
    if (done) break;
  }
  return scale;
}

// Whether the numbers of an equilibrated K differ much within a block, among the rows that
// are coupled to others.
inline bool uneven(const Pattern& K, const double* values, const double* shift,
                   const std::vector<double>& scale) {
  constexpr double much = 100;
  std::vector<char> coupled(K.n, 0);
  const double least = negligible(K, values);
  for (Index e = 0; e < K.entries; ++e)
    if (K.entry_row[e] != K.entry_col[e] && std::abs(values[e]) > least)
      coupled[K.entry_row[e]] = coupled[K.entry_col[e]] = 1;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double smallest[2] = {infinity, infinity}, most[2] = {0, 0};
  for (Index k = 0; k < K.n; ++k) {
    if (!coupled[k]) continue;
    const int block = shift[k] > 0;
    smallest[block] = std::min(smallest[block], scale[k]);
    most[block] = std::max(most[block], scale[k]);
  }
  return most[0] > much * smallest[0] || most[1] > much * smallest[1];
}

}  // namespace diffqcp
