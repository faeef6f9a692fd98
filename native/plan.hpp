// A plan: the result of the symbolic phase in one array, as the numeric phase reads it.
#pragma once

#include <cstdint>
#include <vector>

// Compiled for the machine at hand and for an older one; the loader chooses. (Sanitizers
// are not ready when it does.)
#if !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && \
    defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DIFFQCP_VECTORISED __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define DIFFQCP_VECTORISED
#endif

namespace diffqcp {

using Index = int32_t;
using Indices = std::vector<Index>;

namespace detail {

// Two sums of 32 bits. In each, every number has a weight of its own, which is odd: one that
// is changed, or two different ones that are swapped, show.
DIFFQCP_VECTORISED
inline uint64_t weighted_sum(const Index* values, int64_t count) {
  constexpr uint32_t step = 2, other_step = 0x9E3779B2;
  uint32_t sum = 0, other = 0, weight = 1, other_weight = 1;
  for (int64_t k = 0; k < count; ++k, weight += step, other_weight += other_step) {
    sum += static_cast<uint32_t>(values[k]) * weight;
    other += static_cast<uint32_t>(values[k]) * other_weight;
  }
  return uint64_t{other} << 32 | sum;
}

}  // namespace detail

// A view of a plan: a mark, the numbers of columns, supernodes, entries and rows, the
// arrays that Symbolic describes, and a sum over all of that. The indices in it are used
// unchecked, so an array is to be tried by `is_plan` before it is viewed.
struct Pattern {
  Index n, supers, entries;
  const Index *pivots, *first, *owner, *row_start, *panel, *rows;
  const Index *entry_row, *entry_col, *entry_target;

  static constexpr Index kMark = 0x314C444C;
  static constexpr int64_t kHeader = 5, kSum = 2;

  explicit Pattern(const Index* plan)
      : n(plan[1]), supers(plan[2]), entries(plan[3]), pivots(plan + kHeader),
        first(pivots + n), owner(first + supers + 1), row_start(owner + n),
        panel(row_start + supers + 1), rows(panel + supers + 1),
        entry_row(rows + plan[4]), entry_col(entry_row + entries),
        entry_target(entry_col + entries) {}

  int64_t size() const { return panel[supers]; }
  Index width(Index s) const { return first[s + 1] - first[s]; }
  Index height(Index s) const { return row_start[s + 1] - row_start[s]; }
};

// Appends the sum, which makes a plan of what precedes it.
inline void seal(Indices& plan) {
  const uint64_t sum =
      detail::weighted_sum(plan.data(), static_cast<int64_t>(plan.size()));
  plan.push_back(static_cast<Index>(static_cast<uint32_t>(sum)));
  plan.push_back(static_cast<Index>(static_cast<uint32_t>(sum >> 32)));
}

// Whether an array is what `seal` has made, or by a chance of 2^-64 looks like that. This
// finds mistakes; who wants to deceive it can.
inline bool is_plan(const Index* plan, int64_t length) {
  constexpr int64_t ends = Pattern::kHeader + Pattern::kSum;
  if (length < ends || plan[0] != Pattern::kMark) return false;
  for (int64_t k = 1; k < Pattern::kHeader; ++k)
    if (plan[k] < 0) return false;
  const int64_t n = plan[1], supers = plan[2], entries = plan[3], rows = plan[4];
  if (length != ends + 2 * n + 3 * (supers + 1) + rows + 3 * entries) return false;
  const uint64_t sum = detail::weighted_sum(plan, length - Pattern::kSum);
  return static_cast<uint32_t>(plan[length - 2]) == static_cast<uint32_t>(sum) &&
         static_cast<uint32_t>(plan[length - 1]) == static_cast<uint32_t>(sum >> 32);
}

}  // namespace diffqcp
