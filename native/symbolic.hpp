// The symbolic phase of a supernodal LDL' factorisation, done once for a pattern.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "ordering.hpp"
#include "plan.hpp"

namespace diffqcp {

// The order of K and the number of its entries are less, so that an Index counts both
// triangles together.
constexpr int64_t kTooMany = int64_t{1} << 30;

// The pattern of K and of its factor, in pivot order. Supernode s has the columns
// first[s] .. first[s + 1] and the rows rows[row_start[s] .. row_start[s + 1]], its own
// columns first. Its panel, panel[s] .. panel[s + 1] of them all, is stored by columns.
struct Symbolic {
  Indices pivots;     // pivots[k] is the index of the k-th pivot
  Indices first;
  Indices owner;      // the supernode of a column
  Indices row_start;
  Indices panel;
  Indices rows;
  // The entries of K by columns of its lower triangle: which of the given entries,
  // where in K, and where in the panels.
  Indices source;
  Indices entry_row;
  Indices entry_col;
  Indices entry_target;
  double operations;  // multiplications in a factorisation

  // All of it but the source in one array, which Pattern reads.
  Indices plan() const {
    Indices all = {Pattern::kMark, static_cast<Index>(pivots.size()),
                   static_cast<Index>(first.size()) - 1,
                   static_cast<Index>(entry_row.size()), static_cast<Index>(rows.size())};
    for (const Indices* part : {&pivots, &first, &owner, &row_start, &panel, &rows,
                                &entry_row, &entry_col, &entry_target})
      all.insert(all.end(), part->begin(), part->end());
    seal(all);
    return all;
  }
};

namespace detail {

// The pattern of both triangles without the diagonal, renumbered, by columns. Entries at
// the same place are one.
struct Graph {
  Indices ptr, idx;

  Graph(Index n, Index count, const Index* rows, const Index* cols, const Indices& label)
      : ptr(n + 1, 0) {
    for (Index k = 0; k < count; ++k) {
      if (rows[k] == cols[k]) continue;
      ++ptr[label[rows[k]] + 1];
      ++ptr[label[cols[k]] + 1];
    }
    std::partial_sum(ptr.begin(), ptr.end(), ptr.begin());
    idx.resize(ptr[n]);
    Indices next(ptr.begin(), ptr.end() - 1);
    for (Index k = 0; k < count; ++k) {
      if (rows[k] == cols[k]) continue;
      const Index i = label[rows[k]], j = label[cols[k]];
      idx[next[j]++] = i;
      idx[next[i]++] = j;
    }
    std::vector<Index> seen(n, -1);
    Index kept = 0, begin = 0;
    for (Index j = 0; j < n; ++j) {
      const Index end = ptr[j + 1];
      for (Index p = begin; p < end; ++p) {
        if (seen[idx[p]] == j) continue;
        seen[idx[p]] = j;
        idx[kept++] = idx[p];
      }
      begin = end;
      ptr[j + 1] = kept;
    }
    idx.resize(kept);
  }
};

// Liu, "A compact row storage scheme for Cholesky factors using elimination trees",
// ACM TOMS 12 (1986). Roots have the parent -1.
inline Indices elimination_tree(Index n, const Graph& graph) {
  Indices parent(n, -1), ancestor(n, -1);
  for (Index k = 0; k < n; ++k) {
    for (Index p = graph.ptr[k]; p < graph.ptr[k + 1]; ++p) {
      for (Index i = graph.idx[p]; i != -1 && i < k;) {
        const Index next = ancestor[i];
        ancestor[i] = k;
        if (next == -1) parent[i] = k;
        i = next;
      }
    }
  }
  return parent;
}

// order[k] is the k-th node of a depth-first traversal, children before parents. Leaves
// with the same neighbours follow each other.
inline Indices postorder(const Graph& graph, const Indices& parent) {
  const Index n = static_cast<Index>(parent.size());
  Indices head(n, -1), sibling(n, -1), order, stack, nodes(n);
  order.reserve(n);
  std::vector<uint64_t> hash(n, 0);
  for (Index i = 0; i < n; ++i) {
    for (Index p = graph.ptr[i]; p < graph.ptr[i + 1]; ++p)
      hash[i] += (static_cast<uint64_t>(graph.idx[p]) + 1) * 0x9E3779B97F4A7C15;
    if (parent[i] != -1) head[parent[i]] = i;
  }
  for (Index i = 0; i < n; ++i)
    if (head[i] != -1) hash[i] = 0;  // not a leaf
  // A list is taken from its end: leaves come first, so that the last child may continue
  // the supernode of its parent.
  std::iota(nodes.rbegin(), nodes.rend(), 0);
  std::stable_sort(nodes.begin(), nodes.end(),
                   [&](Index i, Index j) { return hash[i] < hash[j]; });
  std::fill(head.begin(), head.end(), -1);
  for (const Index i : nodes) {
    if (parent[i] == -1) continue;
    sibling[i] = head[parent[i]];
    head[parent[i]] = i;
  }
  for (Index root = 0; root < n; ++root) {
    if (parent[root] != -1) continue;
    stack.push_back(root);
    while (!stack.empty()) {
      const Index node = stack.back(), child = head[node];
      if (child == -1) {
        stack.pop_back();
        order.push_back(node);
      } else {
        head[node] = sibling[child];
        stack.push_back(child);
      }
    }
  }
  return order;
}

// The number of entries of each column of L, diagonal included: Gilbert, Ng and Peyton,
// "An efficient algorithm to compute row and column counts for sparse Cholesky
// factorization", SIAM J. Matrix Anal. Appl. 15 (1994). The tree is in postorder.
inline Indices column_counts(const Graph& graph, const Indices& parent) {
  const Index n = static_cast<Index>(parent.size());
  Indices size(n, 1), furthest(n, -1), last_leaf(n, -1), set(n);
  // No column has more than n, but a sum over the children of a node may.
  std::vector<int64_t> count(n);
  for (Index j = 0; j < n; ++j)
    if (parent[j] != -1) size[parent[j]] += size[j];
  for (Index j = 0; j < n; ++j) count[j] = size[j] == 1;
  std::iota(set.begin(), set.end(), 0);
  for (Index j = 0; j < n; ++j) {
    const Index descendant = j - size[j] + 1;
    if (parent[j] != -1) --count[parent[j]];
    for (Index p = graph.ptr[j]; p < graph.ptr[j + 1]; ++p) {
      const Index i = graph.idx[p];
      if (i <= j || descendant <= furthest[i]) continue;
      // j is a leaf of the subtree of row i.
      furthest[i] = descendant;
      ++count[j];
      const Index leaf = last_leaf[i];
      last_leaf[i] = j;
      if (leaf == -1) continue;
      Index common = leaf;
      while (set[common] != common) common = set[common];
      for (Index node = leaf; node != common;) {
        const Index next = set[node];
        set[node] = common;
        node = next;
      }
      --count[common];
    }
    if (parent[j] != -1) set[j] = parent[j];
  }
  for (Index j = 0; j < n; ++j)
    if (parent[j] != -1) count[parent[j]] += count[j];
  return Indices(count.begin(), count.end());
}

// Whether a supernode is merged into its parent, at the price of explicit zeros.
inline bool worth_merging(double width, double zeros, double size) {
  if (width <= 4) return zeros <= 0.2 * size;
  if (width <= 16) return zeros <= 0.15 * size;
  if (width <= 64) return zeros <= 0.1 * size;
  return zeros <= 0.05 * size;
}

// Runs of leaves with the same neighbours, as one supernode: run[j] columns from j on,
// or 0 within a run. They are not coupled, but one product with all of them is faster
// than one with each.
inline Indices runs_of_leaves(const Graph& graph, const Indices& parent,
                              const Indices& count) {
  const Index n = static_cast<Index>(parent.size());
  Indices run(n, 1), size(n, 1);
  for (Index j = 0; j < n; ++j)
    if (parent[j] != -1) size[parent[j]] += size[j];
  for (Index j = 0; j < n; j += run[j]) {
    const auto same = [&](Index i) {
      const auto begin = graph.idx.begin();
      return size[i] == 1 && parent[i] == parent[j] && count[i] == count[j] &&
             std::equal(begin + graph.ptr[j], begin + graph.ptr[j + 1],
                        begin + graph.ptr[i]);
    };
    if (size[j] > 1 || parent[j] == -1) continue;
    // Zeros on the triangle above are to be few.
    const Index most = std::min<Index>(64, count[j] / 4);
    while (run[j] < most && j + run[j] < n && same(j + run[j])) run[j + run[j]++] = 0;
  }
  return run;
}

// The first column of each supernode, and n.
inline Indices supernodes(const Graph& graph, const Indices& parent, Indices count) {
  const Index n = static_cast<Index>(parent.size());
  Indices first;
  const Indices run = runs_of_leaves(graph, parent, count);
  for (Index j = 0; j < n; ++j) {
    if (run[j] == 0) continue;
    if (run[j] > 1) count[j] += run[j] - 1;
    const bool follows = j > 0 && run[j - 1] == 1 && run[j] == 1;
    if (!follows || parent[j - 1] != j || count[j - 1] != count[j] + 1)
      first.push_back(j);
  }
  // From the last one on, so that a parent is complete before its children are tried. A
  // supernode can be merged if its parent's columns follow its own.
  const Index total = static_cast<Index>(first.size());
  first.push_back(n);
  std::vector<double> zeros(total, 0);
  Indices rows(total), end(total);
  std::vector<char> starts(total, 1);
  for (Index s = total - 1; s >= 0; --s) {
    rows[s] = count[first[s]];
    end[s] = first[s + 1];
    if (s + 1 == total || parent[end[s] - 1] != end[s]) continue;
    const double width = end[s] - first[s], wider = end[s + 1] - first[s];
    const double height = width + rows[s + 1];
    const double added = zeros[s + 1] + width * (height - rows[s]);
    const double size = wider * height - wider * (wider - 1) / 2;
    if (!worth_merging(wider, added, size)) continue;
    rows[s] = static_cast<Index>(height);
    end[s] = end[s + 1];
    zeros[s] = added;
    starts[s + 1] = 0;
  }
  Indices merged;
  for (Index s = 0; s < total; ++s)
    if (starts[s]) merged.push_back(first[s]);
  merged.push_back(n);
  return merged;
}

inline void check_indices(const char* name, Index n, Index count, const Index* indices) {
  for (Index k = 0; k < count; ++k)
    if (indices[k] < 0 || indices[k] >= n)
      throw std::invalid_argument(std::string(name) + ": expected indices from 0 to " +
                                  std::to_string(n - 1) + ", got " +
                                  std::to_string(indices[k]) + " at place " +
                                  std::to_string(k));
}

}  // namespace detail

// Analyses a symmetric matrix of order n with the given entries, one of each pair off the
// diagonal. Those at the same place add up.
//
// Throws std::invalid_argument for an index outside of the matrix, std::length_error if
// the matrix or its factor is too large.
inline Symbolic analyse(int64_t order, int64_t length, const Index* rows,
                        const Index* cols) {
  using namespace detail;
  if (order < 0)
    throw std::invalid_argument("order: expected 0 or more, got " +
                                std::to_string(order));
  if (order >= kTooMany || length >= kTooMany)
    throw std::length_error("K is of order " + std::to_string(order) + " with " +
                            std::to_string(length) + " entries; the limit is 2^30");
  const Index n = static_cast<Index>(order), count = static_cast<Index>(length);
  check_indices("rows", n, count, rows);
  check_indices("cols", n, count, cols);
  Symbolic result;
  Indices label(n), inverse(n);
  std::iota(label.begin(), label.end(), 0);
  {
    const Graph graph(n, count, rows, cols, label);
    result.pivots = minimum_degree(n, graph.ptr.data(), graph.idx.data());
  }
  for (Index k = 0; k < n; ++k) label[result.pivots[k]] = k;
  {
    const Graph graph(n, count, rows, cols, label);
    Indices ordered(n);
    const Indices order = postorder(graph, elimination_tree(n, graph));
    for (Index k = 0; k < n; ++k) ordered[k] = result.pivots[order[k]];
    result.pivots = std::move(ordered);
  }
  for (Index k = 0; k < n; ++k) label[result.pivots[k]] = k;
  const Graph graph(n, count, rows, cols, label);
  const Indices parent = elimination_tree(n, graph);
  const Indices counts = column_counts(graph, parent);
  result.first = supernodes(graph, parent, counts);
  const Index supers = static_cast<Index>(result.first.size()) - 1;

  // The rows of a supernode: those of its columns in K, and those of its children.
  Indices mark(n, -1), child(supers, -1), sibling(supers, -1);
  for (Index s = 0; s < supers; ++s)
    result.owner.insert(result.owner.end(), result.first[s + 1] - result.first[s], s);
  result.row_start.assign(1, 0);
  result.panel.assign(1, 0);
  result.operations = 0;
  for (Index s = 0; s < supers; ++s) {
    const Index begin = result.first[s], end = result.first[s + 1];
    const size_t start = result.rows.size();
    const auto add = [&](Index i) {
      if (i < end || mark[i] == s) return;
      mark[i] = s;
      result.rows.push_back(i);
    };
    for (Index j = begin; j < end; ++j) result.rows.push_back(j);
    for (Index j = begin; j < end; ++j)
      for (Index p = graph.ptr[j]; p < graph.ptr[j + 1]; ++p) add(graph.idx[p]);
    for (Index c = child[s]; c != -1; c = sibling[c])
      for (Index p = result.row_start[c]; p < result.row_start[c + 1]; ++p)
        add(result.rows[p]);
    const Index width = end - begin;
    std::sort(result.rows.begin() + start + width, result.rows.end());
    const size_t height = result.rows.size() - start;
    if (height > static_cast<size_t>(width)) {
      const Index above = result.owner[result.rows[start + width]];
      sibling[s] = child[above];
      child[above] = s;
    }
    const int64_t size = result.panel[s] + static_cast<int64_t>(height) * width;
    for (Index j = 0; j < width; ++j)
      result.operations += 0.5 * static_cast<double>(height - j) * (height - j + 1);
    if (size + n > std::numeric_limits<Index>::max() || result.rows.size() > (1u << 30))
      throw std::length_error("the sparse factor of K would have more than 2^31 entries");
    result.row_start.push_back(static_cast<Index>(result.rows.size()));
    result.panel.push_back(static_cast<Index>(size));
  }

  // The entries in the order of their columns, by a counting sort.
  Indices next(n + 1, 0);
  for (Index k = 0; k < count; ++k) ++next[std::min(label[rows[k]], label[cols[k]]) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  result.source.resize(count);
  for (Index k = 0; k < count; ++k)
    result.source[next[std::min(label[rows[k]], label[cols[k]])]++] = k;
  result.entry_row.resize(count);
  result.entry_col.resize(count);
  result.entry_target.resize(count);
  Indices& position = inverse;
  Index previous = -1;
  for (Index k = 0; k < count; ++k) {
    const Index i = label[rows[result.source[k]]], j = label[cols[result.source[k]]];
    const Index row = std::max(i, j), col = std::min(i, j), s = result.owner[col];
    for (; previous < s; previous = s)
      for (Index p = result.row_start[s]; p < result.row_start[s + 1]; ++p)
        position[result.rows[p]] = p - result.row_start[s];
    const Index height = result.row_start[s + 1] - result.row_start[s];
    result.entry_row[k] = row;
    result.entry_col[k] = col;
    const int64_t column = static_cast<int64_t>(col - result.first[s]) * height;
    result.entry_target[k] =
        static_cast<Index>(result.panel[s] + column + position[row]);
  }
  return result;
}

}  // namespace diffqcp
