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
  double largest = 0;
  for (Index e = 0; e < K.entries; ++e) largest = std::max(largest, std::abs(values[e]));
  return 1e-14 * largest;
}

// The numbers c of an equilibrated K: the largest entry of each row of C K C, C = diag(c),
// is about one (Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in
// matrices", RAL-TR-2001-034).
inline std::vector<double> equilibrate(const Pattern& K, const double* values) {
  constexpr int rounds = 8;
  const double least = negligible(K, values);
  std::vector<double> scale(K.n, 1.0), largest(K.n);
  for (int round = 0; round < rounds; ++round) {
    std::fill(largest.begin(), largest.end(), 0.0);
    for (Index e = 0; e < K.entries; ++e) {
      if (std::abs(values[e]) <= least) continue;
      const Index i = K.entry_row[e], j = K.entry_col[e];
      const double size = scale[i] * std::abs(values[e]) * scale[j];
      largest[i] = std::max(largest[i], size);
      largest[j] = std::max(largest[j], size);
    }
    for (Index k = 0; k < K.n; ++k)
      if (largest[k] > 0) scale[k] /= std::sqrt(largest[k]);
  }
  return scale;
}

// Whether the largest entries of the rows of one block differ much, among the rows that
// are coupled to others.
inline bool uneven(const Pattern& K, const double* values, const double* shift) {
  constexpr double much = 100;
  const double negligible_size = negligible(K, values);
  std::vector<double> largest(K.n);
  std::vector<char> coupled(K.n, 0);
  for (Index e = 0; e < K.entries; ++e) {
    const Index i = K.entry_row[e], j = K.entry_col[e];
    if (std::abs(values[e]) <= negligible_size) continue;
    if (i != j) coupled[i] = coupled[j] = 1;
    largest[i] = std::max(largest[i], std::abs(values[e]));
    largest[j] = std::max(largest[j], std::abs(values[e]));
  }
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double least[2] = {infinity, infinity}, most[2] = {0, 0};
  for (Index k = 0; k < K.n; ++k) {
    if (!coupled[k]) continue;
    const int block = shift[k] > 0;
    least[block] = std::min(least[block], largest[k]);
    most[block] = std::max(most[block], largest[k]);
  }
  return most[0] > much * least[0] || most[1] > much * least[1];
}

}  // namespace diffqcp
