// A factorisation by single columns, for a small and sparse pattern that many matrices have:
// where the result of each multiplication belongs is found once.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels.hpp"
#include "plan.hpp"

namespace diffqcp {

// Right-looking, into the panels of the supernodes of a plan. Where a factor is that sparse,
// looking up the places of a supernode takes longer than the arithmetic.
class Simplicial {
 public:
  Simplicial() = default;

  // Leaves it unprepared where there are too many columns or multiplications for that.
  explicit Simplicial(const Pattern& K) {
    if (K.n > kLargest || multiplications(K) > kMost * K.n) return;
    for (Index s = 0; s < K.supers; ++s) {
      const Index width = K.width(s), height = K.height(s);
      const Index* rows = K.rows + K.row_start[s];
      for (Index j = 0; j < width; ++j) {
        columns_.push_back({K.panel[s] + j * (height + 1), K.row_start[s] + j + 1,
                            height - j - 1, static_cast<Index>(targets_.size())});
        for (Index k = j + 1; k < height; ++k) add_targets(K, rows + k, height - k);
      }
    }
  }

  bool prepared() const { return !columns_.empty(); }

  // As those of Factorisation, for the pattern that this has been made for.
  void factorise(const Pattern& K, const double* values, const double* shift, double* panels,
                 double* inverse) const {
    std::fill(panels, panels + K.size(), 0.0);
    for (Index k = 0; k < K.entries; ++k) panels[K.entry_target[k]] += values[k];
    for (Index j = 0; j < K.n; ++j) {
      const Column& column = columns_[j];
      double* entries = panels + column.diagonal + 1;
      inverse[j] = 1 / pivot(entries[-1] + shift[j], shift[j]);
      const Index* target = targets_.data() + column.target;
      for (Index k = 0; k < column.below; ++k) {
        const Index count = column.below - k;
        // A constraint that is not active has no coupling.
        if (entries[k] != 0) {
          const double scaled = entries[k] * inverse[j];
          for (Index i = 0; i < count; ++i) panels[target[i]] -= scaled * entries[k + i];
          entries[k] = scaled;
        }
        target += count;
      }
    }
  }

  void solve(const Pattern& K, const double* panels, const double* inverse, double* z) const {
    for (Index j = 0; j < K.n; ++j) {
      const double own = z[j];
      if (own == 0) continue;
      const double* entries = panels + columns_[j].diagonal + 1;
      const Index* rows = K.rows + columns_[j].row;
      for (Index k = 0; k < columns_[j].below; ++k) z[rows[k]] -= entries[k] * own;
    }
    for (Index j = K.n - 1; j >= 0; --j) {
      const double* entries = panels + columns_[j].diagonal + 1;
      const Index* rows = K.rows + columns_[j].row;
      double sum = z[j] * inverse[j];
      for (Index k = 0; k < columns_[j].below; ++k) sum -= entries[k] * z[rows[k]];
      z[j] = sum;
    }
  }

 private:
  static constexpr Index kLargest = 1 << 16;
  static constexpr double kMost = 16;  // multiplications a column, on average

  // Where its diagonal entry is in the panels and the rows below it are in those of the
  // plan, how many these are, and where the places for its multiplications start.
  struct Column {
    Index diagonal, row, below, target;
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

  // Where the entries of these rows are in the panels, in the column of the first of them.
  // The rows of its supernode are among its own.
  void add_targets(const Pattern& K, const Index* rows, Index count) {
    const Index s = K.owner[rows[0]], column = rows[0] - K.first[s];
    const Index* own = K.rows + K.row_start[s];
    const Index start = K.panel[s] + column * K.height(s);
    Index place = column;
    for (Index i = 0; i < count; ++i) {
      while (own[place] != rows[i]) ++place;
      targets_.push_back(start + place);
    }
  }

  std::vector<Column> columns_;
  Indices targets_;
};

}  // namespace diffqcp
