// Random QCPs through the headers for derivatives.
#pragma once

#include <cfloat>
#include <limits>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "../differentiate.hpp"
#include "../least_shift.hpp"
#include "../proximal.hpp"
#include "../search.hpp"
#include "common.hpp"

namespace diffqcp::tests {

// The parts of a problem, as the Python module diffqcp._problem makes them.
class Draft {
 public:
  Index n, m = 0;
  std::vector<Indices> parts;
  Numbers exponents;

  explicit Draft(Random& random) : n(random.below(6)), parts(Problem::kParts) {
    Index straight[2] = {random.below(3), random.below(4)};
    add(random.below(2) == 0 ? Kind::kZero : Kind::kFree, 1, straight[0], 1);
    add(Kind::kRay, 1, straight[1], 1);
    for (Index k = random.below(4); k > 0; --k) {
      const Index count = 1 + random.below(3), sign = random.below(2) == 0 ? 1 : -1;
      switch (random.below(4)) {
        case 0:
          add(Kind::kSecondOrder, 1, 2 + random.below(7), count);
          break;
        case 1:
          add(Kind::kPSD, 1, 2 + random.below(3), count);
          break;
        case 2:
          add(Kind::kExponential, sign, 3, count);
          break;
        default:
          add(Kind::kPower, sign, 3, count);
          for (Index j = 0; j < count; ++j)
            exponents.push_back(0.02 + 0.48 * random.uniform());
      }
    }
    Indices& rows = parts[Problem::kRows];
    rows.resize(m);
    std::iota(rows.begin(), rows.end(), 0);
    for (Index k = m - 1; k > straight[0] + straight[1]; --k)
      std::swap(rows[k], rows[straight[0] + straight[1] +
                              random.below(k - straight[0] - straight[1] + 1)]);
    draw_matrices(random);
    Index order = n + m;
    Indices i, j;
    const auto entry = [&](Index row, Index col) {
      i.push_back(row);
      j.push_back(col);
    };
    for (Index k : parts[Problem::kUpper])
      entry(parts[Problem::kPRows][k], parts[Problem::kPCols][k]);
    for (Index k = 0; k < m; ++k) entry(n + k, n + k);
    Indices groups(order);
    std::iota(groups.begin(), groups.end(), 0);
    for (const Factor& factor : factors_) add_block(factor, random, order, groups, entry);
    const Symbolic symbolic =
        analyse(order, static_cast<int64_t>(i.size()), i.data(), j.data());
    parts[Problem::kPlan] = symbolic.plan();
    parts[Problem::kSource] = symbolic.source;
    parts[Problem::kGroups] = groups;
    parts[Problem::kSizes] = {n, m, straight[0], straight[1], order,
                              random.below(2), random.below(2)};
  }

 private:
  struct Factor {
    Index start, size, count;
    bool expandable;
  };

  void add(Kind kind, Index sign, Index size, Index count) {
    if (size == 0) return;
    const Index dim = kind == Kind::kPSD ? size * (size + 1) / 2 : size;
    for (Index number : {sign * static_cast<Index>(kind), size, count})
      parts[Problem::kCones].push_back(number);
    const bool straight = kind == Kind::kZero || kind == Kind::kFree || kind == Kind::kRay;
    if (straight)
      factors_.push_back({m, 1, dim, false});
    else
      factors_.push_back({m, dim, count, kind == Kind::kSecondOrder && dim > 2});
    for (Index k = 0; k < count && !straight; ++k) parts[Problem::kLengths].push_back(dim);
    m += dim * count;
  }

  void draw_matrices(Random& random) {
    const bool whole = random.below(2) == 0, by_rows = random.below(2) == 0;
    for (Index i = 0; i < n; ++i)
      for (Index j = by_rows ? i : 0; j <= (by_rows ? n - 1 : i); ++j) {
        const Index row = by_rows ? i : j, col = by_rows ? j : i;
        if (row != col && !whole && random.below(2) == 0) continue;
        parts[Problem::kUpper].push_back(
            static_cast<Index>(parts[Problem::kPRows].size()));
        parts[Problem::kPRows].push_back(row);
        parts[Problem::kPCols].push_back(col);
        parts[Problem::kPWeights].push_back(row == col ? 1 : 2);
      }
    // Some lines are whole, so that there are stretches.
    for (Index i = 0; i < (by_rows ? m : n); ++i) {
      const bool all = whole || random.below(2) == 0;
      for (Index j = 0; j < (by_rows ? n : m); ++j) {
        const Index row = by_rows ? i : j, col = by_rows ? j : i;
        if (!all && random.below(2) == 0) continue;
        parts[Problem::kARows].push_back(row);
        parts[Problem::kACols].push_back(col);
      }
    }
  }

  template <typename Entry>
  void add_block(const Factor& factor, Random& random, Index& order, Indices& groups,
                 const Entry& entry) {
    const auto [start, size, count, expandable] = factor;
    const Index dim = size * count, first = n + start;
    Indices coordinate(m), places, pair_cols, pair_cones;
    for (Index k = 0; k < m; ++k) coordinate[parts[Problem::kRows][k]] = k;
    std::map<std::pair<Index, Index>, Index> pairs;
    const Indices &rows = parts[Problem::kARows], &cols = parts[Problem::kACols];
    Indices entry_cols;
    for (size_t e = 0; e < rows.size(); ++e) {
      const Index place = coordinate[rows[e]] - start;
      if (place < 0 || place >= dim) continue;
      const std::pair<Index, Index> key{place / size, cols[e]};
      const auto [found, added] = pairs.insert({key, static_cast<Index>(pairs.size())});
      if (added) {
        pair_cones.push_back(key.first);
        pair_cols.push_back(key.second);
      }
      parts[Problem::kEntry].push_back(static_cast<Index>(e));
      parts[Problem::kPair].push_back(found->second);
      places.push_back(place);
      entry_cols.push_back(cols[e]);
    }
    const bool expanded = expandable && random.below(2) == 0;
    const Index tau = expanded ? order : -1;
    for (Index number : {tau, static_cast<Index>(places.size()),
                         static_cast<Index>(pair_cols.size())})
      parts[Problem::kBlocks].push_back(number);
    const auto append = [](Indices& all, const Indices& more) {
      all.insert(all.end(), more.begin(), more.end());
    };
    append(parts[Problem::kPlace], places);
    append(parts[Problem::kPairCone], pair_cones);
    append(parts[Problem::kPairCol], pair_cols);
    for (Index k = 0; k < dim; ++k) groups[first + k] = first + k / size * size;
    if (size == 1) {
      for (size_t e = 0; e < places.size(); ++e) entry(first + places[e], entry_cols[e]);
    } else if (!expanded) {
      for (size_t p = 0; p < pair_cols.size(); ++p)
        for (Index k = 0; k < size; ++k)
          entry(first + size * pair_cones[p] + k, pair_cols[p]);
    } else {
      for (Index k = 0; k < 2; ++k) {
        for (size_t p = 0; p < pair_cols.size(); ++p)
          entry(first + size * pair_cones[p] + k, pair_cols[p]);
        for (Index t = 0; t < dim; ++t) entry(tau + t, tau + dim + 2 * (t / size) + k);
      }
      for (size_t e = 0; e < places.size(); ++e) entry(tau + places[e], entry_cols[e]);
      for (Index t = 0; t < dim; ++t) entry(tau + t, tau + t);
      for (Index t = 0; t < dim; ++t) groups.push_back(groups[first + t]);
      for (Index t = 0; t < 2 * count; ++t) groups.push_back(tau + dim + t);
      order += dim + 2 * count;
    }
  }

  std::vector<Factor> factors_;
};

// Numbers for a problem, and for a point that need not be its solution.
struct Drawn {
  Numbers P, A, q, b, x, y, s;

  Drawn(const Problem& problem, Random& random)
      : P(problem.P.count()), A(random.vector(static_cast<Index>(problem.A.count()))),
        q(random.vector(problem.n)), b(random.vector(problem.m)),
        x(random.vector(problem.n)), y(random.vector(problem.m)),
        s(random.vector(problem.m)) {
    // Diagonally dominant.
    for (size_t k = 0; k < P.size(); ++k)
      P[k] = problem.P.rows[k] == problem.P.cols[k] ? 1 + random.uniform()
                                                    : 0.1 * random.normal();
    if (problem.rays > 0 && random.below(3) == 0)
      b[problem.zero + random.below(problem.rays)] =
          std::numeric_limits<double>::infinity();
  }

  Given given() const {
    return {{P.data(), A.data(), q.data(), b.data()}, {x.data(), y.data(), s.data()}};
  }

  std::vector<Numbers*> all() { return {&P, &A, &q, &b, &x, &y, &s}; }
};

inline double inner(const Numbers& left, const Numbers& right) {
  return std::inner_product(left.begin(), left.end(), right.begin(), 0.0);
}

inline void check_cone(const Problem& problem, const Numbers& v, double smoothing) {
  Numbers p(problem.m), lam(problem.m), frames(problem.cone.frame), again(problem.m);
  problem.cone.project(v.data(), p.data());
  problem.cone.jacobian(v.data(), smoothing, lam.data(), frames.data());
  for (double value : lam) REQUIRE(value >= 0 && value <= 1);
  Numbers coordinates(problem.m);
  problem.cone.rotate_back(frames.data(), v.data(), coordinates.data());
  REQUIRE(std::abs(inner(coordinates, coordinates) - inner(v, v)) <= 1e-12 * inner(v, v));
  for (Index k = 0; k < problem.m; ++k) coordinates[k] *= lam[k];
  problem.cone.rotate(frames.data(), coordinates, again.data());
  if (smoothing > 0) return;
  REQUIRE(distance(again, p) <= 1e-12 * size(v));
  for (Index k = 0; k < problem.m; ++k) again[k] = v[k] - p[k];
  REQUIRE(std::abs(inner(again, p)) <= 1e-12 * inner(v, v));
}

// <g, jvp(d)> = <vjp(g), d> for the derivative itself, without Newton steps.
inline void check_adjoint(const Problem& problem, const Options& options,
                          const Drawn& drawn, double smoothing, Random& random) {
  const Drawn d(problem, random);
  Numbers P(d.P.size()), A(d.A.size()), q(problem.n), b(problem.m);
  Numbers x(problem.n), y(problem.m), s(problem.m), db = d.s;
  const Report forward =
      Differentiation(problem, options, false, smoothing, drawn.given())
          .jvp({d.P.data(), d.A.data(), d.q.data(), db.data()},
               {x.data(), y.data(), s.data()});
  const Numbers g = random.vector(problem.m);
  const Report backward =
      Differentiation(problem, options, false, smoothing, drawn.given())
          .vjp({d.x.data(), d.y.data(), g.data()},
               {P.data(), A.data(), q.data(), b.data()});
  if (!forward.solved || !backward.solved) return;
  const double left = inner(d.x, x) + inner(d.y, y) + inner(g, s);
  const double right = inner(d.P, P) + inner(d.A, A) + inner(d.q, q) + inner(db, b);
  double scale = 1;
  for (const Numbers* part : {&x, &y, &s, &P, &A, &q, &b}) scale += size(*part);
  REQUIRE(std::abs(left - right) <= 1e-8 * scale);
}

// Whether a point satisfies the optimality conditions with this cone, up to rounding errors.
template <typename Cone>
bool is_solution(const Problem& problem, const Cone& cone, const Drawn& drawn,
                 const Numbers& x, const Numbers& y, const Numbers& s) {
  const Given given = drawn.given();
  Numbers dual = drawn.q, primal = s, v = y, projected(problem.m);
  for (Index k = 0; k < problem.m; ++k) v[k] -= s[k];
  problem.add_P(given.data.P, x.data(), dual.data());
  problem.A.add_transposed(given.data.A, y.data(), dual.data());
  problem.A.add_product(given.data.A, x.data(), primal.data());
  for (Index k = 0; k < problem.m; ++k) primal[k] -= drawn.b[k];
  cone.project(v, projected);
  const double close = 1e-9 * (1 + size(x) + size(y) + size(s));
  return size(dual) <= close && size(primal) <= close && distance(projected, y) <= close;
}

// What is called solved satisfies the optimality conditions, and the least shift is
// orthogonal to the range of A.
inline void check_proximal(const Problem& problem, const Drawn& drawn, Random& random) {
  const Given given = drawn.given();
  Numbers free(problem.m, 0.0), inside(problem.m, 0.0), y(problem.m);
  for (double& entry : free) entry = random.below(8) == 0;
  const bool starts = random.below(2) == 0;
  Proximal proximal(problem, DBL_EPSILON, given.data, free.data());
  const auto found =
      proximal.minimise(starts ? &given.solution : nullptr, false, 100);
  const DualFace face(problem, free.data());
  if (found.status == kSolved)
    REQUIRE(is_solution(problem, face, drawn, found.x, found.y, found.s));
  LeastShift least(problem, DBL_EPSILON, given.data.A, given.data.b, inside.data());
  const auto shift = least.run(100);
  if (!shift.known) return;
  Numbers pulled(problem.n, 0.0);
  problem.A.add_transposed(given.data.A, shift.t.data(), pulled.data());
  REQUIRE(size(pulled) <= 1e-7 * (size(drawn.A) + 1) * (size(drawn.b) + 1));
  problem.cone.project(shift.t.data(), y.data());
  REQUIRE(distance(y, shift.t) <= 1e-9 * (1 + size(shift.t)));
}

// What the search calls solved is a solution, and a matrix with a diagonal entry and its
// negative are not both convex.
inline void check_search(const Problem& problem, const Options& options,
                         const Drawn& drawn, Random& random) {
  const Given given = drawn.given();
  const Search search(problem, {options, 10, 2}, given.data);
  Candidate found = search.first(random.below(2) == 0 ? &given.solution : nullptr, 100);
  if (!found.settled()) found = search.polished(std::move(found));
  search.restore(found);
  const Numbers bound(problem.m, 0.0);
  // The rows of a curved cone are drawn from all, and so have units of their own.
  if (found.status == kSolved && problem.lengths.empty())
    REQUIRE(is_solution(problem, DualFace(problem, bound.data()), drawn, found.x, found.y,
                        found.s));
  Numbers minus = drawn.P;
  bool diagonal = false;
  for (size_t k = 0; k < minus.size(); ++k) {
    minus[k] *= -1;
    diagonal = diagonal || problem.P.rows[k] == problem.P.cols[k];
  }
  REQUIRE(!diagonal || !problem.curvature().is_convex(minus.data(), DBL_EPSILON, gemm));
}

inline void check_derivatives(Random& random) {
  Draft draft(random);
  const Problem problem(draft.parts, draft.exponents,
                        Lapack{gemm, eigen, potrf, trsm, trsv, syrk});
  Drawn drawn(problem, random);
  const Options options{0x1p-26, random.below(2) == 0, random.below(4) == 0,
                        100 * DBL_EPSILON, 50, DBL_EPSILON,
                        random.below(2) == 0 ? 0.0 : 1e300, random.below(2) == 0};
  const double smoothing = random.below(3) == 0 ? 0.1 * random.uniform() : 0;
  if (problem.m > 0) check_cone(problem, random.vector(problem.m), smoothing);
  check_adjoint(problem, options, drawn, smoothing, random);
  for (double& bound : drawn.b)
    if (std::isinf(bound)) bound = 1;
  check_proximal(problem, drawn, random);
  check_search(problem, options, drawn, random);
  // Values of any kind: no result is expected, but an end.
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double strange[] = {0.0, std::nan(""), infinity, 1e300, -1e300, 1e-300};
  for (Index k = random.below(3); k > 0; --k) {
    Numbers& part = *drawn.all()[random.below(7)];
    if (!part.empty())
      part[random.below(static_cast<Index>(part.size()))] = strange[random.below(6)];
  }
  Numbers P(drawn.P.size()), A(drawn.A.size()), q(problem.n), b(problem.m);
  const Report report =
      Differentiation(problem, options, true, smoothing, drawn.given())
          .vjp({drawn.x.data(), drawn.y.data(), drawn.s.data()},
               {P.data(), A.data(), q.data(), b.data()});
  if (report.solved)
    for (double entry : q) REQUIRE(std::isfinite(entry));
  const Given given = drawn.given();
  const Candidate found =
      Search(problem, {options, 10, 2}, given.data).first(&given.solution, 100);
  if (found.status == kSolved)
    for (double entry : found.x) REQUIRE(std::isfinite(entry));
  const Numbers none(problem.m, 0.0);
  Proximal(problem, DBL_EPSILON, drawn.given().data, none.data())
      .minimise(nullptr, false, 20);
  LeastShift(problem, DBL_EPSILON, drawn.A.data(), drawn.b.data(), none.data()).run(20);
}

}  // namespace diffqcp::tests
