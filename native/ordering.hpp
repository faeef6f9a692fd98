// A fill-reducing ordering for the sparse factorization of symmetric matrices:
// P. R. Amestoy, T. A. Davis and I. S. Duff, "An approximate minimum degree ordering
// algorithm", SIAM J. Matrix Anal. Appl. 17 (1996), pp. 886-905.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

namespace diffqcp {
namespace detail {

// Elimination on the quotient graph. A column is first a *variable*, then an *element*
// once it is eliminated. A variable lists the variables and the elements it is adjacent
// to. An element lists its members, the variables on the border of its pivot: they form a
// clique, the fill, which is not stored. Neighbours list each other or share an element.
//
// Variables found to have the same neighbours are merged: one represents them all, and
// its weight is the number of columns it stands for. Degrees and sizes sum weights.
//
// Between two eliminations:
//  - weights_[i] > 0 if variable i is live, 0 if it is eliminated, merged or dense;
//  - element e is live if its size, the weight of its members, is positive;
//  - lists may hold dead nodes, which are skipped, and dropped when a list is rewritten;
//  - a variable's list has its variables by index, then its elements by age, so that
//    lists without dead nodes are equal as sets only if they are equal entry by entry;
//  - each live variable is in the bucket of its degree.
// During an elimination the pivot's border is out of the buckets and its weights are
// negative: one look-up tells a border variable from another live one or a dead one.
class MinimumDegree {
 public:
  MinimumDegree(int32_t n, const int32_t* ptr, const int32_t* idx)
      : remaining_(n), nodes_(n), weights_(n, 1), buckets_(n, none), ring_(n) {
    order_.reserve(n);
    std::iota(ring_.begin(), ring_.end(), 0);
    // A nearly full row is costly to update and gains little by its place: it goes last.
    const double dense = std::max(16.0, 10.0 * std::sqrt(static_cast<double>(n)));
    for (int32_t i = 0; i < n; ++i) {
      if (ptr[i + 1] - ptr[i] > dense) {
        weights_[i] = 0;
        --remaining_;
        dense_.push_back(i);
      }
    }
    std::stable_sort(dense_.begin(), dense_.end(), [ptr](int32_t i, int32_t j) {
      return ptr[i + 1] - ptr[i] < ptr[j + 1] - ptr[j];
    });
    lists_.reserve(ptr[n]);
    for (int32_t i = 0; i < n; ++i) {
      if (weights_[i] == 0) continue;
      const auto begin = static_cast<int32_t>(lists_.size());
      for (int32_t k = ptr[i]; k < ptr[i + 1]; ++k) {
        if (weights_[idx[k]] > 0) lists_.push_back(idx[k]);
      }
      const auto first = lists_.begin() + begin;
      if (!std::is_sorted(first, lists_.end())) std::sort(first, lists_.end());
      // This first degree counts the dense rows: if two neighbours differ by those alone,
      // eliminating the one with fewer of them first makes less fill.
      const auto count = static_cast<int32_t>(lists_.size()) - begin;
      nodes_[i].variable = {begin, count, 0, ptr[i + 1] - ptr[i], none, none, 0};
      insert(i);
    }
  }

  std::vector<int32_t> run() {
    while (remaining_ > 0) {
      while (buckets_[minimum_] == none) ++minimum_;
      eliminate(buckets_[minimum_]);
    }
    order_.insert(order_.end(), dense_.begin(), dense_.end());
    return std::move(order_);
  }

 private:
  static constexpr int32_t none = -1;

  struct Variable {
    int32_t begin, variables, elements;  // its list, which never grows, is in lists_
    int32_t degree;  // an upper bound
    int32_t next, previous;  // in the bucket
    uint32_t hash;  // of the list when it was last rewritten
  };

  struct Element {
    std::size_t begin, end;  // its members are in pool_
    int32_t size;
    int32_t pivot;  // the last one whose border it met
    int32_t outside;  // the weight of the members that are not on that border
  };

  union Node {
    Variable variable;
    Element element;
  };

  void insert(int32_t i) {
    Variable& v = nodes_[i].variable;
    int32_t& head = buckets_[v.degree];
    v.previous = none;
    v.next = head;
    if (head != none) nodes_[head].variable.previous = i;
    head = i;
    minimum_ = std::min(minimum_, v.degree);
  }

  void remove(int32_t i) {
    const Variable& v = nodes_[i].variable;
    if (v.next != none) nodes_[v.next].variable.previous = v.previous;
    (v.previous != none ? nodes_[v.previous].variable.next : buckets_[v.degree]) = v.next;
  }

  void eliminate(int32_t pivot) {
    const int32_t pivot_weight = weights_[pivot];
    remove(pivot);
    output(pivot);
    form_border(pivot);
    if (border_.size() == 1) {
      // No element is needed for a single member: its degree falls, and that is all.
      const int32_t i = border_[0];
      weights_[i] = border_size_;
      nodes_[i].variable.degree -= pivot_weight;
      insert(i);
      return;
    }
    measure_elements(pivot);
    for (int32_t i : border_) rewrite(i, pivot);
    merge_border();
    const std::size_t begin = pool_.size();
    for (int32_t i : border_) {
      if (weights_[i] == 0) continue;
      weights_[i] = -weights_[i];
      int32_t& degree = nodes_[i].variable.degree;
      degree = std::min(degree, remaining_ - border_size_) + border_size_ - weights_[i];
      insert(i);
      pool_.push_back(i);
    }
    nodes_[pivot].element = {begin, pool_.size(), border_size_, none, 0};
  }

  // Appends to the order the columns that variable i stands for.
  void output(int32_t i) {
    remaining_ -= std::abs(weights_[i]);
    weights_[i] = 0;
    order_.push_back(i);
    for (int32_t j = ring_[i]; j != i; j = ring_[j]) order_.push_back(j);
  }

  // Collects the pivot's neighbours. Its elements, with no other members, are absorbed.
  void form_border(int32_t pivot) {
    border_.clear();
    border_size_ = 0;
    const auto take = [&](int32_t i) {
      if (weights_[i] <= 0) return;
      remove(i);
      border_.push_back(i);
      border_size_ += weights_[i];
      weights_[i] = -weights_[i];
    };
    const Variable& v = nodes_[pivot].variable;
    const int32_t* list = lists_.data() + v.begin;
    for (int32_t k = 0; k < v.variables; ++k) take(list[k]);
    for (int32_t k = v.variables; k < v.variables + v.elements; ++k) {
      Element& e = nodes_[list[k]].element;
      if (e.size == 0) continue;
      for (std::size_t m = e.begin; m < e.end; ++m) take(pool_[m]);
      e.size = 0;
    }
  }

  // Computes `outside` for the elements that meet the border.
  void measure_elements(int32_t pivot) {
    for (int32_t i : border_) {
      const Variable& v = nodes_[i].variable;
      const int32_t* list = lists_.data() + v.begin;
      for (int32_t k = v.variables; k < v.variables + v.elements; ++k) {
        Element& e = nodes_[list[k]].element;
        if (e.pivot != pivot) e.outside = e.size;
        e.pivot = pivot;
        e.outside += weights_[i];
      }
    }
  }

  // Rewrites the list of a border variable, and bounds its degree outside the border.
  void rewrite(int32_t i, int32_t pivot) {
    Variable& v = nodes_[i].variable;
    int32_t* list = lists_.data() + v.begin;
    int32_t kept = 0;
    int64_t degree = 0;
    uint32_t hash = 0;
    const auto keep = [&](int32_t node, int32_t weight) {
      list[kept++] = node;
      degree += weight;
      // Not linear, so that lists with the same sum of indices do not collide.
      const uint32_t mixed = static_cast<uint32_t>(node) * 0x9E3779B1u;
      hash += mixed ^ (mixed >> 15);
    };
    // Entries between border variables can go: the pivot's element stands for them.
    for (int32_t k = 0; k < v.variables; ++k) {
      const int32_t weight = weights_[list[k]];
      if (weight > 0) keep(list[k], weight);
    }
    const int32_t variables = kept;
    for (int32_t k = v.variables; k < v.variables + v.elements; ++k) {
      Element& e = nodes_[list[k]].element;
      if (e.size == 0) continue;
      if (e.outside > 0) {
        keep(list[k], e.outside);
      } else {
        e.size = 0;  // absorbed: the pivot's element has all its members
      }
    }
    if (degree == 0) {
      // No neighbours outside the border: eliminated next, it makes no fill.
      border_size_ += weights_[i];
      output(i);
      return;
    }
    // There is room: the pivot, or one of its elements, was listed and was not kept.
    list[kept++] = pivot;
    v.variables = variables;
    v.elements = kept - variables;
    v.degree = static_cast<int32_t>(std::min<int64_t>(v.degree, degree));
    v.hash = hash;
  }

  // Merges the border variables with equal lists, thus with the same neighbours. They are
  // out of the buckets, so `next` chains those at the same place in the hash table.
  void merge_border() {
    if (table_.size() < border_.size()) table_.resize(2 * border_.size(), none);
    for (int32_t i : border_) {
      if (weights_[i] == 0) continue;
      Variable& v = nodes_[i].variable;
      int32_t& head = table_[v.hash % table_.size()];
      int32_t j = head;
      while (j != none && !equal(v, nodes_[j].variable)) j = nodes_[j].variable.next;
      if (j == none) {
        v.next = head;
        head = i;
      } else {
        weights_[j] += weights_[i];
        weights_[i] = 0;
        std::swap(ring_[i], ring_[j]);  // joins two rings
      }
    }
    for (int32_t i : border_) {
      if (weights_[i] != 0) table_[nodes_[i].variable.hash % table_.size()] = none;
    }
  }

  bool equal(const Variable& a, const Variable& b) const {
    const int32_t* list = lists_.data() + a.begin;
    return a.hash == b.hash && a.variables == b.variables && a.elements == b.elements &&
           std::equal(list, list + a.variables + a.elements, lists_.data() + b.begin);
  }

  int32_t remaining_;  // columns to eliminate, besides the dense ones
  int32_t minimum_ = 0;  // the buckets before it are empty
  std::vector<Node> nodes_;
  std::vector<int32_t> weights_;
  std::vector<int32_t> buckets_;  // the first variable of each degree
  std::vector<int32_t> ring_;  // circular lists of the columns a variable stands for
  std::vector<int32_t> lists_;
  // Room is not reclaimed in the pool: it has fewer entries than the factor will have.
  std::vector<int32_t> pool_;
  std::vector<int32_t> border_;  // of the pivot
  int32_t border_size_ = 0;
  std::vector<int32_t> table_;  // the first variable of each hash; empty between uses
  std::vector<int32_t> dense_, order_;
};

}  // namespace detail

// Approximate minimum degree ordering of a symmetric matrix of order n.
// (ptr, idx): the full pattern (both triangles, no diagonal entries, no duplicates) in
// compressed columns. Returns perm: perm[k] is the k-th pivot.
inline std::vector<int32_t> minimum_degree(int32_t n, const int32_t* ptr,
                                           const int32_t* idx) {
  if (n == 0) return {};
  return detail::MinimumDegree(n, ptr, idx).run();
}

}  // namespace diffqcp
