// The factorisation of numeric.hpp for a small pattern with which many matrices are factorised:
// where the result of each multiplication belongs is found once.
#pragma once

#include <algorithm>
#include <vector>

#include "numeric.hpp"

namespace diffqcp {

// Right-looking, column by column, into the same panels. Where a factor is that sparse,
// looking up the places of its supernodes takes longer than the arithmetic.
class Simplicial {
 public:
  Simplicial() = default;

  // Leaves it unprepared where there are too many multiplications for that.
  explicit Simplicial(const Pattern& K) {
    if (multiplications(K) > kMost * K.n) return;
    Index first = 0;
    for (Index s = 0; s < K.supers; ++s) {
      const Index width = K.width(s), height = K.height(s);
      const Index* rows = K.rows + K.row_start[s];
      for (Index j = 0; j < width; ++j) {
        columns_.push_back({K.panel[s] + j * (height + 1), height - j - 1, first});
        for (Index k = j + 1; k < height; ++k)
          for (Index i = k; i < height; ++i) targets_.push_back(place(K, rows[i], rows[k]));
        first = static_cast<Index>(targets_.size());
      }
    }
  }

  bool prepared() const { return !columns_.empty(); }

  // As Factorisation::factorise, for the pattern that this has been made for.
  void factorise(const Pattern& K, const double* values, const double* shift, double* panels,
                 double* inverse) const {
    std::fill(panels, panels + K.size(), 0.0);
    for (Index k = 0; k < K.entries; ++k) panels[K.entry_target[k]] += values[k];
    for (Index j = 0; j < K.n; ++j) {
      const Column& column = columns_[j];
      double* entries = panels + column.diagonal;
      const double d = Factorisation::pivot(entries[0] + shift[j], shift[j]);
      inverse[j] = 1 / d;
      ++entries;
      const Index* target = targets_.data() + column.first;
      for (Index k = 0; k < column.below; ++k) {
        const Index count = column.below - k;
        if (entries[k] != 0) {
          const double scaled = entries[k] * inverse[j];
          for (Index i = 0; i < count; ++i)
            panels[target[i]] -= scaled * entries[k + i];
          entries[k] = scaled;
        }
        target += count;
      }
    }
  }

 private:
  static constexpr double kMost = 16;  // multiplications a column, on average

  // Where its diagonal entry is in the panels, how many entries are below it, and which of
  // the targets are those of its multiplications.
  struct Column {
    Index diagonal, below, first;
  };

  static double multiplications(const Pattern& K) {
    double sum = 0;
    for (Index s = 0; s < K.supers; ++s)
      for (Index j = 0; j < K.width(s); ++j) {
        const double below = K.height(s) - j - 1;
        sum += below * (below + 1) / 2;
      }
    return sum;
  }

  // Of an entry of the factor in the panels.
  static Index place(const Pattern& K, Index row, Index col) {
    const Index s = K.owner[col], height = K.height(s);
    const Index* rows = K.rows + K.row_start[s];
    const auto found = std::lower_bound(rows, rows + height, row) - rows;
    return K.panel[s] + (col - K.first[s]) * height + static_cast<Index>(found);
  }

  std::vector<Column> columns_;
  Indices targets_;
};

}  // namespace diffqcp
