// Random matrices and random QCPs through all of the headers, for the sanitizers: `nox -s sanitize`. Needs
// neither Python nor a BLAS. Ends with a message and status 1 where a result is wrong.

#include <cfloat>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <mutex>
#include <queue>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../parallel.hpp"
#include "../shift.hpp"
#include "common.hpp"
#include "derivatives.hpp"

namespace {

using namespace diffqcp;
using namespace diffqcp::tests;

struct Matrix {
  Index n = 0;
  Indices rows, cols;
  Numbers values, shift;  // in the order of the entries, and of the rows

  void add(Index row, Index col, double value) {
    rows.push_back(row);
    cols.push_back(col);
    values.push_back(value);
  }

  // K x entry by entry, for results to be compared with.
  Numbers times(const Numbers& x) const {
    Numbers y(n, 0.0);
    for (size_t k = 0; k < rows.size(); ++k) {
      y[rows[k]] += values[k] * x[cols[k]];
      if (rows[k] != cols[k]) y[cols[k]] += values[k] * x[rows[k]];
    }
    return y;
  }
};

// The calls that module.cc makes, for one matrix; by single columns, if it is that small.
class System {
 public:
  explicit System(const Matrix& matrix, bool by_columns = false)
      : symbolic_(analyse(matrix.n, static_cast<int64_t>(matrix.rows.size()),
                          matrix.rows.data(), matrix.cols.data())),
        plan_(symbolic_.plan()), pattern_(plan_.data()), values_(matrix.values.size()),
        panels_(pattern_.size()), inverse_(matrix.n), shift_(matrix.n) {
    REQUIRE(is_plan(plan_.data(), static_cast<int64_t>(plan_.size())));
    for (size_t k = 0; k < values_.size(); ++k)
      values_[k] = matrix.values[symbolic_.source[k]];
    for (Index k = 0; k < matrix.n; ++k) shift_[k] = matrix.shift[pattern_.pivots[k]];
    if (by_columns) simplicial_ = Simplicial(pattern_);
  }

  const Indices& plan() const { return plan_; }

  // Whether the matrix is singular.
  bool factorise(bool adapt, bool well_posed) {
    Indices groups(pattern_.n);
    for (Index k = 0; k < pattern_.n; ++k) groups[k] = k / 2;
    rank_ = factorise_with_shift(pattern_, factorisation(), values_.data(), groups.data(),
                                 adapt, well_posed, panels_.data(), inverse_.data(),
                                 shift_.data());
    return rank_.singular;
  }

  template <int C>
  Numbers solve(bool singular, bool well_posed, const Numbers& right,
                double* error) const {
    Refinement::Rank rank = rank_;
    rank.singular = singular;
    Numbers z(static_cast<size_t>(pattern_.n) * C);
    for (Index k = 0; k < pattern_.n; ++k)
      for (int c = 0; c < C; ++c) z[size_t{C} * k + c] = right[pattern_.pivots[k]];
    const Factorisation known = factorisation();
    Outcome outcome[C];
    const Refinement refinement(known, values_.data(), panels_.data(), inverse_.data(),
                                shift_.data());
    const Tolerances tolerances{1e-13, DBL_EPSILON, 50, well_posed};
    const bool uneven = singular && !rank.even;
    const NullSpace null_space =
        uneven ? refinement.null_space(rank, tolerances) : NullSpace();
    if (pattern_.n > 0 && std::isnan(rank.rate))  // K is not finite
      unsolved<C>(z, outcome);
    else
      refinement.solve<C>(rank, uneven ? &null_space : nullptr, tolerances, z, outcome);
    *error = 0;
    Numbers solution(pattern_.n);
    for (int c = 0; c < C; ++c) {
      if (!(outcome[c].error <= *error)) *error = outcome[c].error;
      for (Index k = 0; k < pattern_.n; ++k)
        solution[pattern_.pivots[k]] = z[size_t{C} * k + c];
    }
    return solution;
  }

  Numbers multiply(const Numbers& x) const {
    Numbers in(pattern_.n), out(pattern_.n), y(pattern_.n);
    for (Index k = 0; k < pattern_.n; ++k) in[k] = x[pattern_.pivots[k]];
    factorisation().multiply<1>(values_.data(), in.data(), out.data());
    for (Index k = 0; k < pattern_.n; ++k) y[pattern_.pivots[k]] = out[k];
    return y;
  }

 private:
  Factorisation factorisation() const {
    return Factorisation(pattern_, gemm, simplicial_);
  }

  Symbolic symbolic_;
  Indices plan_;
  Pattern pattern_;
  Simplicial simplicial_;
  Numbers values_, panels_, inverse_, shift_;
  Refinement::Rank rank_{};
};

// Quasi-definite, with any pattern: repeated entries in either triangle, stars, cliques,
// chains, and rows without any. Some have no entry on the diagonal but the shift.
Matrix random_matrix(Random& random, Index largest, bool complete) {
  Matrix K;
  K.n = random.below(largest + 1);
  if (K.n == 0) return K;
  Numbers sign(K.n);
  for (Index i = 0; i < K.n; ++i) {
    sign[i] = random.below(2) == 0 ? 1 : -1;
    K.shift.push_back(1e-8 * sign[i]);
    if (complete || random.below(4) != 0) K.add(i, i, sign[i] * random.uniform());
  }
  const auto couple = [&](Index i, Index j) {
    // Between rows of different signs any value keeps it quasi-definite.
    if (i != j) K.add(i, j, sign[i] == sign[j] ? 0.0 : random.normal());
  };
  for (Index k = random.below(4 * K.n + 1); k > 0; --k)
    couple(random.below(K.n), random.below(K.n));
  switch (random.below(5)) {
    case 0: {
      const Index centre = random.below(K.n);
      for (Index i = 0; i < K.n; ++i) couple(i, centre);
      break;
    }
    case 1: {
      const Index first = random.below(K.n), end = first + random.below(K.n - first) + 1;
      for (Index i = first; i < end; ++i)
        for (Index j = first; j < i; ++j) couple(i, j);
      break;
    }
    case 2:
      for (Index i = 1; i < K.n; ++i) couple(i, i - 1);
      break;
    case 3: {
      const Index i = random.below(K.n), j = random.below(K.n);
      for (Index k = 0; k < 3 * K.n; ++k) {
        couple(i, j);
        couple(j, i);
      }
      break;
    }
    default:
      break;
  }
  return K;
}

// K z = r in the given norm, and K x, against the sums over entries.
void check_regular(const Matrix& K, Random& random) {
  System system(K, random.below(2) == 0);
  const Numbers right = random.vector(K.n);
  REQUIRE(distance(system.multiply(right), K.times(right)) <= 1e-12 * (1 + size(right)));
  const bool adapt = random.below(2) == 0, well_posed = random.below(2) == 0;
  REQUIRE(!system.factorise(adapt, well_posed));
  double error;
  for (int width : {1, 2, 4}) {
    const Numbers z = width == 1   ? system.solve<1>(false, well_posed, right, &error)
                      : width == 2 ? system.solve<2>(false, well_posed, right, &error)
                                   : system.solve<4>(false, well_posed, right, &error);
    REQUIRE(error <= 1e-12);
    REQUIRE(distance(K.times(z), right) <= 1e-9 * (1 + size(right) + size(z)));
  }
}

// Values of any kind: no result is expected, but an end, and NaN for what is not finite.
void check_strange(Matrix K, Random& random) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const double strange[] = {0.0,  -0.0,    nan,  infinity, -infinity, DBL_TRUE_MIN,
                            1e-310, DBL_MIN, DBL_MAX, -DBL_MAX, 1e200, -1e-200};
  bool finite = true;
  for (Index k = random.below(4); k > 0 && !K.values.empty(); --k)
    K.values[random.below(static_cast<Index>(K.values.size()))] = strange[random.below(12)];
  for (double value : K.values) finite = finite && std::isfinite(value);
  Numbers right = random.vector(K.n);
  if (K.n > 0 && random.below(2) == 0)
    right[random.below(K.n)] = strange[random.below(12)];
  if (K.n > 0 && random.below(4) == 0) {
    const double factor = random.below(2) == 0 ? 1e-280 : 1e280;
    for (double& shift : K.shift) shift *= factor;
  }
  System system(K, random.below(2) == 0);
  const bool singular = system.factorise(random.below(2) == 0, random.below(2) == 0);
  double error;
  const Numbers z = random.below(2) == 0 && !singular
                        ? system.solve<4>(false, false, right, &error)
                        : system.solve<1>(singular, false, right, &error);
  if (!finite)
    for (double entry : z) REQUIRE(std::isnan(entry));
}

// What analyse refuses, and arrays that are no plans.
void check_refusals(const Matrix& K, Random& random) {
  const auto refused = [](int64_t n, const Indices& rows, const Indices& cols) {
    try {
      analyse(n, static_cast<int64_t>(rows.size()), rows.data(), cols.data());
    } catch (const std::invalid_argument&) {
      return true;
    } catch (const std::length_error&) {
      return true;
    }
    return false;
  };
  REQUIRE(refused(-1, {}, {}) && refused(kTooMany, {}, {}) && refused(0, {0}, {0}));
  if (!K.rows.empty()) {
    const Index place = random.below(static_cast<Index>(K.rows.size()));
    for (Index wrong : {-1, K.n, std::numeric_limits<Index>::max(),
                        std::numeric_limits<Index>::min()}) {
      Indices rows = K.rows;
      rows[place] = wrong;
      REQUIRE(refused(K.n, rows, K.cols) && refused(K.n, K.cols, rows));
    }
  }
  const Indices plan = System(K).plan();
  const int64_t length = static_cast<int64_t>(plan.size());
  for (int64_t shorter = 0; shorter < length; shorter += 1 + length / 8)
    REQUIRE(!is_plan(plan.data(), shorter));
  for (int k = 0; k < 8; ++k) {
    Indices changed = plan;
    changed[random.below(static_cast<Index>(length))] ^= 1 << random.below(31);
    REQUIRE(!is_plan(changed.data(), length));
  }
}

// As much as `parallel` asks of XLA's pool.
class Pool {
 public:
  explicit Pool(int count) {
    for (int k = 0; k < count; ++k) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
    }
    ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int64_t num_threads() const { return static_cast<int64_t>(threads_.size()); }

  void Schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push(std::move(task));
    }
    ready_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::function<void()> task;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ready_.wait(lock, [this] { return ended_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::queue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
  bool ended_ = false;
};

// One factor serves many threads; each factorises its own; what one throws comes out.
void check_threads(Pool& pool, Random& random) {
  const Matrix K = random_matrix(random, 60, true);
  System shared(K);
  REQUIRE(!shared.factorise(true, false));
  const Numbers right = random.vector(K.n);
  double error;
  const Numbers expected = shared.solve<1>(false, false, right, &error);
  const int64_t count = random.below(20);
  std::vector<Numbers> found(count);
  parallel(pool, count, [&](int64_t k) {
    double own_error;
    if (k % 2 == 0) {
      found[k] = shared.solve<1>(false, false, right, &own_error);
      return;
    }
    System own(K);
    own.factorise(true, false);
    found[k] = own.solve<1>(false, false, right, &own_error);
  });
  for (const Numbers& one : found) REQUIRE(one == expected);
  std::atomic<int64_t> calls{0};
  bool thrown = false;
  try {
    parallel(pool, 16, [&](int64_t k) {
      ++calls;
      if (k % 3 == 0) throw std::runtime_error("as is expected");
    });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  REQUIRE(thrown && calls == 16);
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc > 1 ? std::atoi(argv[1]) : 1000;
  Pool pool(4);
  for (int seed = 0; seed < count; ++seed) {
    Random random(static_cast<uint32_t>(seed));
    // Now and then one that is large enough for blocks.
    const Index largest = seed % 50 == 0 ? 300 : 30;
    check_regular(random_matrix(random, largest, true), random);
    check_strange(random_matrix(random, largest, false), random);
    check_refusals(random_matrix(random, largest, false), random);
    if (seed % 10 == 0) check_threads(pool, random);
    check_derivatives(random);
  }
  std::printf("%d matrices of each kind, and QCPs\n", count);
  return 0;
}
