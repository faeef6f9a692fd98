// What a panel of a left-looking factorisation gets from earlier supernodes: L_e diag(d)
// L_e' is subtracted from its columns. Supernodes of few columns whose rows nearly follow
// each other in the panel are collected, and subtracted in one product: that is what rows
// of a dense matrix become.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "plan.hpp"

namespace diffqcp {

// Fortran's dgemm.
using Gemm = void(char*, char*, int*, int*, int*, double*, double*, int*, double*, int*,
                  double*, double*, int*);

// C -= A B' in entries (i, j) with i >= j, and in a few above.
inline void subtract_lower(Gemm* gemm, Index rows, Index cols, Index inner, const double* a,
                           Index lda, const double* b, Index ldb, double* c, Index ldc) {
  constexpr Index chunk = 128;
  char none = 'N', transpose = 'T';
  double minus = -1, one = 1;
  for (Index start = 0; start < cols; start += chunk) {
    Index height = rows - start, width = std::min(chunk, cols - start);
    gemm(&none, &transpose, &height, &width, &inner, &minus,
         const_cast<double*>(a) + start, &lda, const_cast<double*>(b) + start, &ldb, &one,
         c + start * (int64_t{ldc} + 1), &ldc);
  }
}

class Updates {
 public:
  Updates(Gemm* gemm, Index order) : gemm_(gemm), position_(order) {}

  // For the panel with these rows, of which the first ones, from `begin` on, are its
  // columns.
  void start(double* panel, Index width, Index height, Index begin, const Index* rows) {
    panel_ = panel;
    width_ = width;
    height_ = height;
    begin_ = begin;
    for (Index i = 0; i < height; ++i) position_[rows[i]] = i;
    most_ = std::max<int64_t>(8, std::min<int64_t>(64, kBuffer / height));
  }

  // Subtracts what a supernode has in its rows from .. on, of which those before `to` belong
  // to the columns of the panel. `earlier` is its own panel, `stride` that one's height.
  void subtract(const double* earlier, Index stride, Index rank, const double* d,
                const Index* rows, Index from, Index to) {
    const Index tall = stride - from, wide = to - from;
    const int64_t area = static_cast<int64_t>(tall) * wide;
    const double* block = earlier + from;
    const int64_t whole = static_cast<int64_t>(end_of(rows, stride) - position_[rows[from]]) *
                          (end_of(rows, to) - position_[rows[from]]);
    if (whole >= kTiny && 2 * area >= whole && rank < most_) {
      collect(block, stride, rank, d, rows + from, tall, wide);
    } else if (area * rank < kSmall) {
      one_by_one(block, stride, rank, d, rows + from, tall, wide);
    } else {
      in_one_product(block, stride, rank, d, rows + from, tall, wide);
    }
  }

  // Subtracts what has been collected.
  void finish() {
    if (collected_ > 0)
      subtract_lower(gemm_, below_ - above_, right_of_ - above_, collected_,
                     left_.data() + above_, height_, right_.data() + above_, width_,
                     panel_ + above_ * (int64_t{height_} + 1), height_);
    collected_ = 0;
  }

 private:
  // Below this many multiplications calling BLAS costs more than it saves.
  static constexpr int64_t kSmall = 8192;
  // For blocks with fewer entries nothing is collected.
  static constexpr int64_t kTiny = 256;
  static constexpr int64_t kBuffer = 1 << 18;

  // One more than the place in the panel of the last of these rows.
  Index end_of(const Index* rows, Index count) const {
    return position_[rows[count - 1]] + 1;
  }

  // Columns of zeros are those of constraints that are not active.
  static bool is_zero(const double* column, Index count) {
    return std::all_of(column, column + count, [](double value) { return value == 0; });
  }

  void collect(const double* block, Index stride, Index rank, const double* d,
               const Index* rows, Index tall, Index wide) {
    const Index first = position_[rows[0]], last = end_of(rows, tall);
    const int64_t tallest = std::max(below_, last) - std::min(above_, first);
    // What is collected for other rows would have to be padded with zeros.
    if (collected_ > 0 && tallest > 2 * std::max(below_ - above_, last - first)) finish();
    if (collected_ == 0) above_ = height_, below_ = right_of_ = 0;
    above_ = std::min(above_, first);
    below_ = std::max(below_, last);
    right_of_ = std::max(right_of_, end_of(rows, wide));
    left_.resize(std::max<size_t>(left_.size(), most_ * height_));
    right_.resize(std::max<size_t>(right_.size(), most_ * width_));
    for (Index k = 0; k < rank; ++k) {
      const double* column = block + static_cast<int64_t>(k) * stride;
      if (is_zero(column, tall)) continue;
      double* left = left_.data() + static_cast<int64_t>(collected_) * height_;
      double* right = right_.data() + static_cast<int64_t>(collected_) * width_;
      std::fill(left, left + height_, 0.0);
      std::fill(right, right + width_, 0.0);
      for (Index i = 0; i < tall; ++i) left[position_[rows[i]]] = column[i];
      for (Index j = 0; j < wide; ++j) right[position_[rows[j]]] = column[j] * d[k];
      if (++collected_ == most_) finish();
    }
  }

  // target(i) -= sum over k < R of a(i, k) d[k] a(0, k), with `a` by columns.
  template <int R, typename Target>
  static void subtract_scaled(const double* a, Index stride, const double* d, Index count,
                              const Target& target) {
    const double* column[R];
    double factor[R];
    for (int k = 0; k < R; ++k) {
      column[k] = a + static_cast<int64_t>(k) * stride;
      factor[k] = column[k][0] * d[k];
    }
    for (Index i = 0; i < count; ++i) {
      double sum = 0;
      for (int k = 0; k < R; ++k) sum += column[k][i] * factor[k];
      target(i) -= sum;
    }
  }

  double* column_of(Index row) const {
    return panel_ + static_cast<int64_t>(row - begin_) * height_;
  }

  void one_by_one(const double* block, Index stride, Index rank, const double* d,
                  const Index* rows, Index tall, Index wide) {
    for (Index j = 0; j < wide; ++j) {
      double* column = column_of(rows[j]);
      const auto target = [&](Index i) -> double& { return column[position_[rows[j + i]]]; };
      const Index count = tall - j;
      Index k = 0;
      for (; k + 4 <= rank; k += 4)
        subtract_scaled<4>(block + k * int64_t{stride} + j, stride, d + k, count, target);
      for (; k + 2 <= rank; k += 2)
        subtract_scaled<2>(block + k * int64_t{stride} + j, stride, d + k, count, target);
      if (k < rank)
        subtract_scaled<1>(block + k * int64_t{stride} + j, stride, d + k, count, target);
    }
  }

  void in_one_product(const double* block, Index stride, Index rank, const double* d,
                      const Index* rows, Index tall, Index wide) {
    kept_.clear();
    for (Index k = 0; k < rank; ++k)
      if (!is_zero(block + static_cast<int64_t>(k) * stride, tall)) kept_.push_back(k);
    const Index inner = static_cast<Index>(kept_.size());
    if (inner == 0) return;
    const bool all = inner == rank, direct = consecutive(rows, tall);
    const size_t left_size = all ? 0 : static_cast<size_t>(tall) * inner;
    const size_t right_size = static_cast<size_t>(wide) * inner;
    work_.resize(std::max(work_.size(), left_size + right_size +
                                            (direct ? 0 : static_cast<size_t>(tall) * wide)));
    double *packed = work_.data(), *right = packed + left_size, *change = right + right_size;
    for (Index k = 0; k < inner; ++k) {
      const double* column = block + static_cast<int64_t>(kept_[k]) * stride;
      if (!all) std::copy(column, column + tall, packed + static_cast<int64_t>(k) * tall);
      for (Index j = 0; j < wide; ++j)
        right[static_cast<int64_t>(k) * wide + j] = column[j] * d[kept_[k]];
    }
    const double* left = all ? block : packed;
    const Index left_stride = all ? stride : tall;
    if (direct)
      return subtract_lower(gemm_, tall, wide, inner, left, left_stride, right, wide,
                            column_of(rows[0]) + position_[rows[0]], height_);
    std::fill(change, change + static_cast<size_t>(tall) * wide, 0.0);
    subtract_lower(gemm_, tall, wide, inner, left, left_stride, right, wide, change, tall);
    for (Index j = 0; j < wide; ++j) {
      double* column = column_of(rows[j]);
      const double* own = change + static_cast<int64_t>(j) * tall;
      for (Index i = j; i < tall; ++i) column[position_[rows[i]]] += own[i];
    }
  }

  // Whether these rows follow each other in the panel.
  bool consecutive(const Index* rows, Index count) const {
    for (Index i = 1; i < count; ++i)
      if (position_[rows[i]] != position_[rows[0]] + i) return false;
    return true;
  }

  Gemm* gemm_;
  Indices position_, kept_;  // of a row in the panel
  double* panel_ = nullptr;
  Index width_ = 0, height_ = 0, begin_ = 0;
  Index most_ = 0, collected_ = 0;  // columns that are collected at a time, and are now
  Index above_ = 0, below_ = 0, right_of_ = 0;  // where the rows and columns of these are
  std::vector<double> left_, right_, work_;
};

}  // namespace diffqcp
