// The numeric phase: a left-looking supernodal LDL' factorisation without pivoting,
// solves with it, and products with K. Everything is in the order of the pivots.
//
// Ng and Peyton, "Block sparse Cholesky algorithms on advanced uniprocessor computers",
// SIAM J. Sci. Comput. 14 (1993), describe the left-looking supernodal method.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "simplicial.hpp"
#include "symbolic.hpp"
#include "update.hpp"

namespace diffqcp {

// Supernodes with fewer entries are solved with entry by entry.
constexpr int64_t kNarrow = 256;
constexpr Index kBlock = 8;  // columns of a panel that are eliminated one by one

class Factorisation {
 public:
  Factorisation(const Pattern& pattern, Gemm* gemm) : K(pattern), gemm_(gemm) {}

  // By one that has been made for the pattern, if that is prepared.
  Factorisation(const Pattern& pattern, Gemm* gemm, const Simplicial& simplicial)
      : K(pattern), gemm_(gemm),
        simplicial_(simplicial.prepared() ? &simplicial : nullptr) {}

  Index order() const { return K.n; }
  Index entries() const { return K.entries; }

  // K + diag(shift) = L diag(d) L'. `panels` gets L, by supernodes, with ones not stored;
  // `inverse` gets 1 / d.
  //
  // In exact arithmetic every pivot has the sign of its shift and is no smaller (the
  // matrix is quasi-definite: Vanderbei, SIAM J. Optim. 5, 1995); where rounding says
  // otherwise, the shift takes its place.
  void factorise(const double* values, const double* shift, double* panels,
                 double* inverse) const {
    if (simplicial_ != nullptr)
      return simplicial_->factorise(K, values, shift, panels, inverse);
    std::vector<double> work;
    double* d = inverse;  // until the end
    // Supernodes whose next rows to be used belong to a supernode, as linked lists.
    Indices lists(3 * static_cast<size_t>(K.supers), -1);
    Index *head = lists.data(), *next = head + K.supers, *used = next + K.supers;
    Updates updates(gemm_, K.n);

    std::fill(panels, panels + K.size(), 0.0);
    for (Index k = 0; k < K.entries; ++k) panels[K.entry_target[k]] += values[k];

    for (Index s = 0; s < K.supers; ++s) {
      const Index width = K.width(s), height = K.height(s), begin = K.first[s];
      const Index* rows = K.rows + K.row_start[s];
      double* panel = panels + K.panel[s];
      for (Index j = 0; j < width; ++j)
        panel[static_cast<int64_t>(j) * height + j] += shift[begin + j];
      if (head[s] != -1) updates.start(panel, width, height, begin, rows);
      for (Index e = head[s]; e != -1;) {
        const Index following = next[e];
        const Index* own = K.rows + K.row_start[e];
        const Index from = used[e], end = K.height(e);
        Index to = from;
        while (to < end && own[to] < begin + width) ++to;
        updates.subtract(panels + K.panel[e], end, K.width(e), d + K.first[e], own, from, to);
        used[e] = to;
        if (to < end) link(e, K.owner[own[to]], head, next);
        e = following;
      }
      updates.finish();
      if (width == 1) {
        d[begin] = pivot(panel[0], shift[begin]);
        const double reciprocal = 1 / d[begin];
        for (Index i = 1; i < height; ++i) panel[i] *= reciprocal;
      } else {
        eliminate(panel, height, 0, width, begin, shift, d + begin, work);
      }
      // A constraint that is not active has no coupling; then nothing depends on it.
      if (height > width && coupled(panel, height, width)) {
        used[s] = width;
        link(s, K.owner[rows[width]], head, next);
      }
    }
    for (Index j = 0; j < K.n; ++j) inverse[j] = 1 / d[j];
  }

  // Solves in place for C right-hand sides, interleaved: the C numbers of a row follow
  // each other.
  template <int C>
  void solve(const double* panels, const double* inverse, double* z) const {
    if (C == 1 && simplicial_ != nullptr)
      return simplicial_->solve(K, panels, inverse, z);
    std::vector<double> work;
    for (Index s = 0; s < K.supers; ++s)
      forward<C>(panels + K.panel[s], K.width(s), K.height(s), K.rows + K.row_start[s], z,
                 work);
    for (Index j = 0; j < K.n; ++j)
      for (int c = 0; c < C; ++c) z[static_cast<int64_t>(j) * C + c] *= inverse[j];
    for (Index s = K.supers - 1; s >= 0; --s)
      backward<C>(panels + K.panel[s], K.width(s), K.height(s), K.rows + K.row_start[s], z,
                  work);
  }

  // y = K x for C interleaved vectors.
  template <int C>
  void multiply(const double* values, const double* x, double* y) const {
    std::fill(y, y + static_cast<int64_t>(K.n) * C, 0.0);
    for (Index k = 0; k < K.entries;) {
      const Index column = K.entry_col[k];
      const int64_t j = static_cast<int64_t>(column) * C;
      double own[C], sum[C], sums[4][C] = {};
      for (int c = 0; c < C; ++c) own[c] = x[j + c], sum[c] = y[j + c];
      // What the entry on the diagonal adds to y twice is written over in the end.
      const auto add = [&](Index entry, double* to) {
        const int64_t i = static_cast<int64_t>(K.entry_row[entry]) * C;
        const double value = values[entry];
        for (int c = 0; c < C; ++c) {
          y[i + c] += value * own[c];
          to[c] += value * x[i + c];
        }
      };
      const auto here = [&](Index entry) {
        return entry < K.entries && K.entry_col[entry] == column;
      };
      // Sums that do not wait for each other.
      for (; here(k + 3); k += 4)
        for (int e = 0; e < 4; ++e) add(k + e, sums[e]);
      for (; here(k); ++k) add(k, sum);
      for (int c = 0; c < C; ++c)
        y[j + c] = sum[c] + ((sums[0][c] + sums[1][c]) + (sums[2][c] + sums[3][c]));
    }
  }

 private:
  // z <- L_s^-1 z for the columns of one supernode.
  template <int C>
  static void forward(const double* panel, Index width, Index height, const Index* rows,
                      double* z, std::vector<double>& work) {
    if (static_cast<int64_t>(width) * height < kNarrow) {
      Index j = 0;
      for (; j + 4 <= width; j += 4) forward_columns<C, 4>(panel, height, rows, j, z);
      for (; j + 2 <= width; j += 2) forward_columns<C, 2>(panel, height, rows, j, z);
      if (j < width) forward_columns<C, 1>(panel, height, rows, j, z);
      return;
    }
    gather<C>(height, rows, z, work);
    for (Index j = 0; j < width; j += kColumns) {
      const Index count = std::min(kColumns, width - j), rest = height - j - count;
      const double* block = panel + static_cast<int64_t>(j) * (height + 1);
      for (int c = 0; c < C; ++c) {
        double* own = work.data() + static_cast<int64_t>(c) * height + j;
        for (Index k = 0; k < count; ++k)
          for (Index i = k + 1; i < count; ++i)
            own[i] -= block[static_cast<int64_t>(k) * height + i] * own[k];
      }
      for (int c = 0; c < C; c += kVectors) {
        double* own = work.data() + static_cast<int64_t>(c) * height + j;
        subtract_columns(rest, count, block + count, height, std::min(kVectors, C - c), own,
                         height);
      }
    }
    scatter<C>(height, height, rows, work, z);
  }

  // z <- L_s'^-1 z.
  template <int C>
  static void backward(const double* panel, Index width, Index height, const Index* rows,
                       double* z, std::vector<double>& work) {
    if (static_cast<int64_t>(width) * height < kNarrow) {
      Index j = width;
      if (j % 2 != 0) backward_columns<C, 1>(panel, height, rows, j -= 1, z);
      if (j % 4 != 0) backward_columns<C, 2>(panel, height, rows, j -= 2, z);
      while (j > 0) backward_columns<C, 4>(panel, height, rows, j -= 4, z);
      return;
    }
    gather<C>(height, rows, z, work);
    for (Index j = (width - 1) / kColumns * kColumns; j >= 0; j -= kColumns) {
      const Index count = std::min(kColumns, width - j), rest = height - j - count;
      const double* block = panel + static_cast<int64_t>(j) * (height + 1);
      for (int c = 0; c < C; c += kVectors) {
        double* own = work.data() + static_cast<int64_t>(c) * height + j;
        subtract_products(rest, count, block + count, height, std::min(kVectors, C - c), own,
                          height);
      }
      for (int c = 0; c < C; ++c) {
        double* own = work.data() + static_cast<int64_t>(c) * height + j;
        for (Index k = count - 1; k >= 0; --k)
          for (Index i = k + 1; i < count; ++i)
            own[k] -= block[static_cast<int64_t>(k) * height + i] * own[i];
      }
    }
    scatter<C>(width, height, rows, work, z);
  }

  // These rows of C interleaved vectors, one vector after the other.
  template <int C>
  static void gather(Index height, const Index* rows, const double* z,
                     std::vector<double>& work) {
    work.resize(std::max(work.size(), static_cast<size_t>(height) * C));
    for (int c = 0; c < C; ++c)
      for (Index i = 0; i < height; ++i)
        work[static_cast<int64_t>(c) * height + i] =
            z[static_cast<int64_t>(rows[i]) * C + c];
  }

  // The first `count` of them back.
  template <int C>
  static void scatter(Index count, Index height, const Index* rows,
                      const std::vector<double>& work, double* z) {
    for (int c = 0; c < C; ++c)
      for (Index i = 0; i < count; ++i)
        z[static_cast<int64_t>(rows[i]) * C + c] =
            work[static_cast<int64_t>(c) * height + i];
  }

  // The part of W columns from the j-th on.
  template <int C, int W>
  static void forward_columns(const double* panel, Index height, const Index* rows, Index j,
                              double* z) {
    const double* column[W];
    double own[W][C];
    for (int w = 0; w < W; ++w) {
      column[w] = panel + static_cast<int64_t>(j + w) * height;
      double* target = z + static_cast<int64_t>(rows[j + w]) * C;
      for (int c = 0; c < C; ++c) {
        for (int v = 0; v < w; ++v) target[c] -= column[v][j + w] * own[v][c];
        own[w][c] = target[c];
      }
    }
    for (Index i = j + W; i < height; ++i) {
      double* target = z + static_cast<int64_t>(rows[i]) * C;
      double sum[C] = {};
      for (int w = 0; w < W; ++w)
        for (int c = 0; c < C; ++c) sum[c] += column[w][i] * own[w][c];
      for (int c = 0; c < C; ++c) target[c] -= sum[c];
    }
  }

  template <int C, int W>
  static void backward_columns(const double* panel, Index height, const Index* rows,
                               Index j, double* z) {
    const double* column[W];
    double sum[W][C] = {};
    for (int w = 0; w < W; ++w) column[w] = panel + static_cast<int64_t>(j + w) * height;
    for (Index i = j + W; i < height; ++i) {
      const double* source = z + static_cast<int64_t>(rows[i]) * C;
      for (int w = 0; w < W; ++w)
        for (int c = 0; c < C; ++c) sum[w][c] += column[w][i] * source[c];
    }
    for (int w = W - 1; w >= 0; --w) {
      double* own = z + static_cast<int64_t>(rows[j + w]) * C;
      for (int c = 0; c < C; ++c) {
        for (int v = w + 1; v < W; ++v)
          sum[w][c] += column[w][j + v] * z[static_cast<int64_t>(rows[j + v]) * C + c];
        own[c] -= sum[w][c];
      }
    }
  }

  static void link(Index s, Index to, Index* head, Index* next) {
    next[s] = head[to];
    head[to] = s;
  }

  static bool coupled(const double* panel, Index height, Index width) {
    for (Index j = 0; j < width; ++j) {
      const double* column = panel + static_cast<int64_t>(j) * height;
      for (Index i = width; i < height; ++i)
        if (column[i] != 0) return true;
    }
    return false;
  }

  // The dense factorisation of the columns start .. end of a panel, in halves: the second
  // one is updated by the first in one product.
  void eliminate(double* panel, Index height, Index start, Index end, Index begin,
                 const double* shift, double* d, std::vector<double>& work) const {
    if (end - start > kBlock) {
      const Index middle = start + (end - start + 1) / 2;
      const Index rank = middle - start, wide = end - middle;
      eliminate(panel, height, start, middle, begin, shift, d, work);
      const double* left = panel + static_cast<int64_t>(start) * height + middle;
      work.resize(std::max(work.size(), static_cast<size_t>(rank) * wide));
      for (Index k = 0; k < rank; ++k)
        for (Index j = 0; j < wide; ++j)
          work[static_cast<int64_t>(k) * wide + j] =
              left[static_cast<int64_t>(k) * height + j] * d[start + k];
      subtract_lower(gemm_, height - middle, wide, rank, left, height, work.data(), wide,
                     panel + static_cast<int64_t>(middle) * height + middle, height);
      return eliminate(panel, height, middle, end, begin, shift, d, work);
    }
    double scaled[kBlock];
    for (Index j = start; j < end; ++j) {
      double* column = panel + static_cast<int64_t>(j) * height;
      for (Index k = start; k < j; ++k)
        scaled[k - start] = panel[static_cast<int64_t>(k) * height + j] * d[k];
      subtract_columns(height - j, j - start,
                       panel + static_cast<int64_t>(start) * height + j, height,
                       scaled, column + j);
      d[j] = pivot(column[j], shift[begin + j]);
      const double inverse = 1 / d[j];
      for (Index i = j + 1; i < height; ++i) column[i] *= inverse;
    }
  }

  const Pattern& K;
  Gemm* gemm_;
  const Simplicial* simplicial_ = nullptr;
};

}  // namespace diffqcp
