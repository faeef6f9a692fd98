// What a family of QCPs shares, as the Python classes AbstractQCPStructure and Assembly
// have it: sizes, patterns, cones, and how K is put together. It is made once and never
// changes, so any number of threads may use it.
#pragma once

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cones/exponential.hpp"
#include "cones/nonneg.hpp"
#include "cones/power.hpp"
#include "cones/product.hpp"
#include "cones/psd.hpp"
#include "cones/soc.hpp"
#include "cones/zero.hpp"
#include "convexity.hpp"
#include "simplicial.hpp"

namespace diffqcp {

// A matrix by its entries. Those with the same place add up.
struct Places {
  // Whether all entries of a matrix are there, row after row or column after column; or all
  // of its upper triangle.
  enum class Order { kAny, kRows, kCols, kUpperRows, kUpperCols };

  Indices rows, cols;
  Index height = 0, width = 0;
  // The entries, if enough of them follow each other in rows, or else in columns.
  std::vector<Stretch> stretches;
  bool by_rows = true;
  Order order = Order::kAny;

  Places() = default;
  Places(Indices of_rows, Indices of_cols, Index m, Index n)
      : rows(std::move(of_rows)), cols(std::move(of_cols)), height(m), width(n),
        stretches(find_stretches(rows, cols)) {
    std::vector<Stretch> in_columns = find_stretches(cols, rows);
    by_rows = stretches.size() <= in_columns.size();
    if (!by_rows) stretches = std::move(in_columns);
    order = find_order();
    if (order == Order::kAny && stretches.size() > count() / kShort) stretches.clear();
    stretches.shrink_to_fit();
  }

  size_t count() const { return rows.size(); }
  bool stretched() const { return !stretches.empty(); }
  bool ordered() const { return order != Order::kAny; }
  bool whole() const { return order == Order::kRows || order == Order::kCols; }

  // y += A x, and y += A'x.
  void add_product(const double* A, const double* x, double* y) const {
    if (stretched()) return by_rows ? add_dots(stretches, A, x, y)
                                    : add_multiples(stretches, A, x, y);
    for (size_t k = 0; k < rows.size();) {
      const Index row = rows[k];
      double sum = 0;
      for (; k < rows.size() && rows[k] == row; ++k) sum += A[k] * x[cols[k]];
      y[row] += sum;
    }
  }
  void add_transposed(const double* A, const double* x, double* y) const {
    if (stretched()) return by_rows ? add_multiples(stretches, A, x, y)
                                    : add_dots(stretches, A, x, y);
    for (size_t k = 0; k < rows.size(); ++k) y[cols[k]] += A[k] * x[rows[k]];
  }

  // y += A x for a symmetric matrix that is all there, or its upper triangle.
  void add_symmetric(const double* A, const double* x, double* y) const {
    const bool upper = order == Order::kUpperRows;
    for (Index i = 0; i < height; ++i) {
      const Index first = upper ? i + 1 : 0, rest = upper ? height - i - 1 : i;
      const double* row = upper ? A + 1 : A;
      y[i] += A[upper ? 0 : i] * x[i] + add_and_dot(rest, x[i], row, x + first, y + first);
      A += whole() ? height : rest + 1;
    }
  }

  // Calls body(stretch, entry), with the place of the first of its entries.
  template <typename Body>
  void for_each_stretch(const Body& body) const {
    size_t entry = 0;
    for (const Stretch& stretch : stretches) {
      body(stretch, entry);
      entry += stretch.count;
    }
  }

  // y = A x, and y = A'x.
  void multiply(const double* A, const std::vector<double>& x,
                std::vector<double>& y) const {
    std::fill(y.begin(), y.end(), 0.0);
    add_product(A, x.data(), y.data());
  }
  void multiply_transposed(const double* A, const std::vector<double>& x,
                           std::vector<double>& y) const {
    std::fill(y.begin(), y.end(), 0.0);
    add_transposed(A, x.data(), y.data());
  }

 private:
  static constexpr size_t kShort = 4;  // entries of a stretch, on average

  static std::vector<Stretch> find_stretches(const Indices& lines, const Indices& others) {
    std::vector<Stretch> found;
    for (size_t k = 0; k < lines.size(); ++k) {
      const bool follows = k > 0 && lines[k] == lines[k - 1] && others[k] == others[k - 1] + 1;
      if (!follows) found.push_back({lines[k], others[k], 0});
      ++found.back().count;
    }
    return found;
  }

  Order find_order() const {
    const Index lines = by_rows ? height : width, length = by_rows ? width : height;
    if (stretches.empty() || stretches.size() != static_cast<size_t>(lines))
      return Order::kAny;
    // Of the triangle above the diagonal, rows end and columns begin with the matrix.
    bool all = true, triangle = height == width;
    for (Index i = 0; i < lines; ++i) {
      const auto [line, first, count] = stretches[i];
      if (line != i || first + count > length) return Order::kAny;
      all = all && first == 0 && count == length;
      triangle = triangle && (by_rows ? first == i && first + count == length
                                      : first == 0 && count == i + 1);
    }
    if (all) return by_rows ? Order::kRows : Order::kCols;
    if (triangle) return by_rows ? Order::kUpperRows : Order::kUpperCols;
    return Order::kAny;
  }
};

// Equal cones whose coordinates follow each other, as the Python class Block. Where `tau`
// is not negative it is expanded.
struct Block {
  Index start, cones, size, tau;
  Indices entry, place, pair, pair_cone, pair_col;
  Indices by_pair, pair_start;  // the places in `entry`, pair after pair

  Index dim() const { return cones * size; }
  Index extra() const { return tau < 0 ? 0 : dim() + 2 * cones; }
  size_t places() const {
    if (size == 1) return entry.size();
    if (tau < 0) return pair_col.size() * size;
    return 2 * pair_col.size() + 3 * static_cast<size_t>(dim()) + entry.size();
  }
};

// The names of the cones, as the Python module diffqcp._problem numbers them.
enum class Kind { kZero, kFree, kRay, kSecondOrder, kPSD, kExponential, kPower };

struct Problem {
  Index n, m, zero, rays, order;
  bool dense;                    // whether x is eliminated where P is positive definite
  Places P, A;                   // as they are stored
  std::vector<double> weights;   // how many entries of P each stored one stands for
  Indices upper;                 // the stored entry for each of the upper triangle
  Indices lengths;               // of the cones that follow the rays
  ProductCone cone;              // K*
  std::vector<Block> blocks;     // one for each factor
  Indices plan, source, groups;  // of the factorisation
  double products;               // with K, by its parts, that one takes as long as
  Lapack lapack;

  // The numbers that the constructor takes, in this order.
  enum Part {
    kSizes, kPRows, kPCols, kPWeights, kUpper, kARows, kACols, kLengths, kCones, kRows,
    kBlocks, kEntry, kPlace, kPair, kPairCone, kPairCol, kPlan, kSource, kGroups, kParts
  };

  // Throws std::invalid_argument if these parts do not fit together.
  Problem(std::vector<Indices> parts, const std::vector<double>& exponents, Lapack linear)
      : lapack(linear) {
    need(parts.size() == kParts && parts[kSizes].size() == 7, "sizes");
    const Indices& sizes = parts[kSizes];
    n = sizes[0], m = sizes[1], zero = sizes[2], rays = sizes[3], order = sizes[4];
    dense = sizes[6] != 0;
    need(n >= 0 && m >= 0 && zero >= 0 && rays >= 0 && zero + rays <= m, "sizes");
    check(parts[kPRows], parts[kPCols], n, n, "P");
    check(parts[kARows], parts[kACols], m, n, "A");
    P = {std::move(parts[kPRows]), std::move(parts[kPCols]), n, n};
    A = {std::move(parts[kARows]), std::move(parts[kACols]), m, n};
    weights.assign(parts[kPWeights].begin(), parts[kPWeights].end());
    upper = std::move(parts[kUpper]);
    lengths = std::move(parts[kLengths]);
    need(weights.size() == P.count(), "P");
    check(upper, static_cast<int64_t>(P.count()), "P");
    int64_t rest = zero + rays;
    for (Index length : lengths) need(length > 0 && (rest += length) <= m, "lengths");
    need(rest == m, "lengths");
    add_cones(parts[kCones], exponents, sizes[5] != 0);
    cone.rows = std::move(parts[kRows]);
    std::vector<char> seen(m, 0);
    check(cone.rows, m, "rows");
    for (Index row : cone.rows) need(!seen[row]++, "rows");
    need(cone.rows.empty() || cone.rows.size() == static_cast<size_t>(m), "rows");
    add_blocks(parts);
    plan = std::move(parts[kPlan]);
    source = std::move(parts[kSource]);
    groups = std::move(parts[kGroups]);
    need(is_plan(plan.data(), static_cast<int64_t>(plan.size())), "plan");
    need(pattern().n == order && static_cast<size_t>(pattern().entries) == source.size(),
         "plan");
    check(source, static_cast<int64_t>(entries()), "source");
    check(groups, order, "groups");
    need(groups.size() == static_cast<size_t>(order), "groups");
    products = time_of_factorisation() / time_of_product();
  }

  Pattern pattern() const { return Pattern(plan.data()); }

  // Whether coordinates are rows, and D is diagonal.
  bool straight() const { return cone.frame == 0 && cone.rows.empty(); }

  // For what factorises many times; made when it is first asked for.
  const Simplicial& simplicial() const {
    std::call_once(asked_, [&] { simplicial_ = Simplicial(pattern()); });
    return simplicial_;
  }

  // For P alone, likewise.
  const Curvature& curvature() const {
    std::call_once(asked_for_P_, [&] { curvature_.emplace(n, P.rows, P.cols, weights); });
    return *curvature_;
  }

  // How many values the assembled K has.
  size_t entries() const {
    size_t count = upper.size() + m;
    for (const Block& block : blocks) count += block.places();
    return count;
  }

  // The symmetric part of a matrix with the pattern of P times x is added to y.
  void add_P(const double* values, const double* x, double* y) const {
    if (P.ordered() && !P.whole()) return P.add_symmetric(values, x, y);
    for (size_t k = 0; k < P.count();) {
      const Index row = P.rows[k];
      const double own = x[row];
      double sum = 0;
      for (; k < P.count() && P.rows[k] == row; ++k) {
        const double half = values[k] * weights[k] / 2;
        sum += half * x[P.cols[k]];
        y[P.cols[k]] += half * own;
      }
      y[row] += sum;
    }
  }

  // y = P x for the symmetric matrix P itself.
  void multiply_P(const double* values, const std::vector<double>& x,
                  std::vector<double>& y) const {
    std::fill(y.begin(), y.end(), 0.0);
    if (P.ordered())
      P.add_symmetric(values, x.data(), y.data());
    else
      add_P(values, x.data(), y.data());
  }

 private:
  // In units of about a nanosecond: a multiplication in large dense blocks, and an entry of a
  // sparse matrix.
  static constexpr double kDense = 0.06, kSparse = 2;

  mutable std::once_flag asked_, asked_for_P_;
  mutable Simplicial simplicial_;
  mutable std::optional<Curvature> curvature_;

  double time_of_factorisation() const {
    const Pattern K = pattern();
    double multiplications = 0;
    for (Index s = 0; s < K.supers; ++s) {
      const double width = K.width(s), height = K.height(s);
      multiplications += width * (height * height - width * height + width * width / 3) / 2;
    }
    return kDense * multiplications;
  }

  double time_of_product() const {
    double entries = 2.0 * static_cast<double>(P.count() + A.count()) + 8.0 * n + 8.0 * m;
    double dense = 0;
    for (const Repeated& factor : cone.factors) {
      const double count = static_cast<double>(factor.cones.size());
      dense += 2 * count * factor.first().dense_work();
      entries += 2 * count * static_cast<double>(factor.first().frame());
    }
    return kSparse * entries + kDense * dense;
  }

  static void need(bool condition, const char* name) {
    if (!condition)
      throw std::invalid_argument(std::string(name) + ": does not fit the other parts");
  }

  static void check(const Indices& indices, int64_t end, const char* name) {
    for (Index index : indices) need(index >= 0 && index < end, name);
  }

  static void check(const Indices& rows, const Indices& cols, Index height, Index width,
                    const char* name) {
    need(rows.size() == cols.size(), name);
    check(rows, height, name);
    check(cols, width, name);
  }

  // Of each factor the kind of cone, negative for the dual of one, its size, and how many
  // there are.
  void add_cones(const Indices& table, const std::vector<double>& exponents, bool upper) {
    need(table.size() % 3 == 0, "cones");
    size_t next = 0;
    for (size_t k = 0; k < table.size(); k += 3) {
      const bool dual = table[k] < 0;
      const Kind kind = static_cast<Kind>(std::abs(table[k]));
      const Index size = table[k + 1], count = table[k + 2];
      need(size > 0 && size <= m && count > 0 && count <= m, "cones");
      std::vector<std::unique_ptr<const Cone>> cones;
      for (Index j = 0; j < count; ++j) {
        const bool power = kind == Kind::kPower;
        need(!power || next < exponents.size(), "exponents");
        cones.push_back(make(kind, dual, size, power ? exponents[next++] : 0, upper));
        need(cone.dim + int64_t{cones.back()->dim()} * (j + 1) <= m, "cones");
      }
      cone.add(std::move(cones));
    }
    need(cone.dim == m && next == exponents.size(), "cones");
  }

  std::unique_ptr<const Cone> make(Kind kind, bool dual, Index size, double alpha,
                                   bool upper) const {
    switch (kind) {
      case Kind::kZero:
        return std::make_unique<ZeroCone>(size);
      case Kind::kFree:
        return std::make_unique<FreeCone>(size);
      case Kind::kRay:
        return std::make_unique<NonnegativeCone>(size);
      case Kind::kSecondOrder:
        need(size >= 2, "cones");
        return std::make_unique<SecondOrderCone>(size);
      case Kind::kPSD:
        need(int64_t{size} * (size + 1) / 2 <= m, "cones");
        return std::make_unique<PSDCone>(size, upper, lapack);
      case Kind::kExponential:
        if (dual) return std::make_unique<Dual<ExponentialCone>>(ExponentialCone());
        return std::make_unique<ExponentialCone>();
      case Kind::kPower:
        need(alpha > 0 && alpha < 1, "exponents");
        if (dual) return std::make_unique<Dual<PowerCone>>(PowerCone(alpha));
        return std::make_unique<PowerCone>(alpha);
    }
    need(false, "cones");
    return nullptr;
  }

  // Of each block where it is expanded to, and how many entries and pairs it has.
  void add_blocks(const std::vector<Indices>& parts) {
    const Indices& table = parts[kBlocks];
    need(table.size() == 3 * cone.factors.size(), "blocks");
    size_t entry = 0, pair = 0;
    int64_t end = int64_t{n} + m;
    const auto part = [&](Part which, size_t start, Index count) {
      const Indices& all = parts[which];
      need(count >= 0 && start + count <= all.size(), "blocks");
      return Indices(all.begin() + start, all.begin() + start + count);
    };
    for (size_t k = 0; k < cone.factors.size(); ++k) {
      const Repeated& factor = cone.factors[k];
      const bool straight = factor.first().frame() == 0;
      const Index count = static_cast<Index>(factor.cones.size());
      const Index size = straight ? 1 : factor.first().dim();
      Block block{factor.start, straight ? count * factor.first().dim() : count,
                  size,         table[3 * k],
                  {},           {},
                  {},           {},
                  {},           {},
                  {}};
      const Index entries = table[3 * k + 1], pairs = table[3 * k + 2];
      block.entry = part(kEntry, entry, entries);
      block.place = part(kPlace, entry, entries);
      block.pair = part(kPair, entry, entries);
      block.pair_cone = part(kPairCone, pair, pairs);
      block.pair_col = part(kPairCol, pair, pairs);
      entry += entries;
      pair += pairs;
      check(block.entry, static_cast<int64_t>(A.count()), "entry");
      check(block.place, block.dim(), "place");
      check(block.pair, pairs, "pair");
      check(block.pair_cone, block.cones, "pair");
      check(block.pair_col, n, "pair");
      for (Index e = 0; e < entries; ++e)
        need(block.pair_cone[block.pair[e]] == block.place[e] / size, "pair");
      need(block.tau < 0 || (block.tau == end && size > 2), "blocks");
      end += block.extra();
      sort_by_pair(block);
      blocks.push_back(std::move(block));
    }
    need(end == order, "blocks");
  }

  static void sort_by_pair(Block& block) {
    block.pair_start.assign(block.pair_col.size() + 1, 0);
    for (Index pair : block.pair) ++block.pair_start[pair + 1];
    for (size_t k = 1; k < block.pair_start.size(); ++k)
      block.pair_start[k] += block.pair_start[k - 1];
    Indices next = block.pair_start;
    block.by_pair.resize(block.entry.size());
    for (size_t e = 0; e < block.entry.size(); ++e)
      block.by_pair[next[block.pair[e]]++] = static_cast<Index>(e);
  }
};

}  // namespace diffqcp
