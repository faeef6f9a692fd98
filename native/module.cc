// XLA FFI calls of the sparse LDL' factorisation, and its symbolic phase, as a Python
// module. An array of a call may have leading batch axes of length one or of the length
// of the batch, as jax.ffi.ffi_call(vmap_method="expand_dims") makes them.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>

#include "refine.hpp"
#include "spectrum.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using diffqcp::Factorisation;
using diffqcp::Gemm;
using diffqcp::Index;
using diffqcp::Outcome;
using diffqcp::Pattern;
using diffqcp::Refinement;

namespace {

// SciPy's.
Gemm* gemm = nullptr;
diffqcp::Eigen* eigen = nullptr;

using Plan = ffi::Buffer<ffi::S32>;
using Numbers = ffi::AnyBuffer;           // float32 or float64, float64 inside
using Words = ffi::Buffer<ffi::U32>;      // pairs of them are doubles
using Flags = ffi::Buffer<ffi::PRED>;
using Errors = ffi::Buffer<ffi::F32>;
using Counts = ffi::Buffer<ffi::S32>;

// Where the items of a batch are in an array whose last `inner` axes belong to an item.
class Batch {
 public:
  Batch(ffi::Span<const int64_t> dims, ffi::Span<const int64_t> all, size_t inner = 1) {
    int64_t stride = inner == 0 ? 1 : dims[dims.size() - 1];
    for (size_t axis = dims.size() - inner; axis-- > 0;) {
      lengths_.push_back(all[axis]);
      strides_.push_back(dims[axis] == 1 ? 0 : stride);
      stride *= dims[axis];
    }
  }

  int64_t operator()(int64_t item) const {
    int64_t offset = 0;
    for (size_t axis = 0; axis < lengths_.size(); ++axis) {
      offset += item % lengths_[axis] * strides_[axis];
      item /= lengths_[axis];
    }
    return offset;
  }

  bool shared() const {
    return std::all_of(strides_.begin(), strides_.end(),
                       [](int64_t stride) { return stride == 0; });
  }

 private:
  std::vector<int64_t> lengths_, strides_;  // innermost axis first
};

int64_t items(ffi::Span<const int64_t> dims) {
  int64_t count = 1;
  for (size_t axis = 0; axis + 1 < dims.size(); ++axis) count *= dims[axis];
  return count;
}

// Calls task(k) for k < count on the threads of XLA's pool and on this one, which alone
// could finish, so that it never waits for a pool that is busy.
template <typename Task>
void parallel(ffi::ThreadPool& pool, int64_t count, const Task& task) {
  if (count == 1) return task(0);
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto shared = std::make_shared<Shared>();
  const auto run = [shared, count, &task] {
    for (int64_t k; (k = shared->next++) < count;) {
      task(k);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->done == count) shared->finished.notify_all();
    }
  };
  const int64_t helpers = std::min<int64_t>(count, pool.num_threads()) - 1;
  for (int64_t k = 0; k < helpers; ++k) {
    auto copy = run;
    pool.Schedule(std::move(copy));
  }
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == count; });
}

template <int C>
using Size = std::integral_constant<int, C>;

// Copies `count` numbers to every `stride`-th place; the k-th is that of index order[k].
void read(const Numbers& from, int64_t offset, Index count, const Index* order,
          double* to, int stride = 1) {
  const auto copy = [&](const auto* in) {
    for (Index k = 0; k < count; ++k)
      to[static_cast<int64_t>(k) * stride] = in[order == nullptr ? k : order[k]];
  };
  if (from.element_type() == ffi::F32)
    copy(from.typed_data<float>() + offset);
  else
    copy(from.typed_data<double>() + offset);
}

void write(const std::vector<double>& from, int start, int stride, const Index* order,
           ffi::AnyBuffer& to, int64_t offset, Index count) {
  const auto copy = [&](auto* out) {
    for (Index k = 0; k < count; ++k)
      out[order[k]] = from[static_cast<size_t>(k) * stride + start];
  };
  if (to.element_type() == ffi::F32)
    copy(to.typed_data<float>() + offset);
  else
    copy(to.typed_data<double>() + offset);
}

// The values of an item as doubles, copied if they are not.
class Values {
 public:
  Values(const Numbers& numbers, int64_t offset, Index count) {
    if (numbers.element_type() == ffi::F64) {
      data_ = numbers.typed_data<double>() + offset;
      return;
    }
    copy_.resize(count);
    read(numbers, offset, count, nullptr, copy_.data());
    data_ = copy_.data();
  }

  const double* data() const { return data_; }

 private:
  std::vector<double> copy_;
  const double* data_;
};

bool real(const Numbers& numbers) {
  return numbers.element_type() == ffi::F32 || numbers.element_type() == ffi::F64;
}

// What the factor of an item holds: panels, inverse pivots, the shift, and the rate at
// which null spaces are found.
struct Factor {
  double *panels, *inverse, *shift, *rate;

  Factor(const Pattern& K, double* start)
      : panels(start), inverse(start + K.size()), shift(inverse + K.n),
        rate(shift + K.n) {}

  static int64_t size(const Pattern& K) {
    return K.size() + 2 * static_cast<int64_t>(K.n) + 1;
  }
};

ffi::Error factorise(ffi::ThreadPool pool, Plan plan, Numbers values, Numbers shift,
                     bool adapt, bool well_posed, ffi::Result<Words> words,
                     ffi::Result<Flags> singular) {
  if (!real(values) || !real(shift))
    return ffi::Error::InvalidArgument("values and shift must be real");
  const Pattern K(plan.typed_data());
  const auto dims = words->dimensions();
  const Batch value_of(values.dimensions(), dims), shift_of(shift.dimensions(), dims);
  double* out = reinterpret_cast<double*>(words->typed_data());
  parallel(pool, items(dims), [&](int64_t item) {
    const Factor factor(K, out + item * Factor::size(K));
    const Values entries(values, value_of(item), K.entries);
    read(shift, shift_of(item), K.n, K.pivots, factor.shift);
    const Refinement::Rank rank = diffqcp::factorise_with_shift(
        K, Factorisation(K, gemm), entries.data(), adapt, well_posed, factor.panels,
        factor.inverse, factor.shift);
    singular->typed_data()[item] = rank.singular;
    *factor.rate = rank.rate;
  });
  return ffi::Error::Success();
}

// Calls body(items, C) for groups of C = 4, 2 or 1 items that may share their matrix.
template <typename Body>
void grouped(ffi::ThreadPool& pool, int64_t count, bool shared, const Body& body) {
  if (!shared) {
    parallel(pool, count, [&](int64_t item) { body(item, Size<1>()); });
    return;
  }
  parallel(pool, (count + 3) / 4, [&](int64_t group) {
    int64_t item = 4 * group;
    const int64_t end = std::min(item + 4, count);
    if (end - item == 4) return body(item, Size<4>());
    if (end - item >= 2) {
      body(item, Size<2>());
      item += 2;
    }
    if (item < end) body(item, Size<1>());
  });
}

// Keeps the eigenvectors of the last matrix, for its other right-hand sides. A matrix is
// known by where its shift is.
class LastSpectrum {
 public:
  // Whether `r` has become K^+ r.
  bool solve(const Pattern& K, const double* values, const double* shift,
             std::vector<double>& r) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (shift_ != shift) {
      shift_ = shift;
      spectrum_.reset();
      try {
        spectrum_ = std::make_unique<diffqcp::Spectrum>(K, values, shift, eigen);
      } catch (const std::bad_alloc&) {
      }
    }
    if (spectrum_ == nullptr || !spectrum_->known()) return false;
    spectrum_->solve(r);
    return true;
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<diffqcp::Spectrum> spectrum_;
  const double* shift_ = nullptr;
};

ffi::Error solve(ffi::ThreadPool pool, Plan plan, Numbers values, Words words,
                 Flags singular, Numbers vector, double tolerance, double floor,
                 int32_t max_steps, bool well_posed, ffi::Result<ffi::AnyBuffer> solution,
                 ffi::Result<Errors> error, ffi::Result<Counts> steps) {
  if (!real(values) || !real(vector))
    return ffi::Error::InvalidArgument("values and vector must be real");
  const Pattern K(plan.typed_data());
  const auto dims = solution->dimensions();
  const Batch value_of(values.dimensions(), dims), words_of(words.dimensions(), dims),
      vector_of(vector.dimensions(), dims), singular_of(singular.dimensions(), dims, 0);
  double* factors = reinterpret_cast<double*>(words.typed_data());
  // A regular matrix that is shared takes several right-hand sides at a time.
  const bool shared = value_of.shared() && words_of.shared() && singular_of.shared() &&
                      !singular.typed_data()[0];
  LastSpectrum spectrum;
  grouped(pool, items(dims), shared, [&](int64_t item, auto size) {
    constexpr int C = decltype(size)::value;
    const Values entries(values, value_of(item), K.entries);
    std::vector<double> r(static_cast<size_t>(K.n) * C);
    for (int c = 0; c < C; ++c)
      read(vector, vector_of(item + c), K.n, K.pivots, r.data() + c, C);
    const Factor factor(K, factors + words_of(item) / 2);
    const Factorisation factorisation(K, gemm);
    const Refinement refinement(factorisation, entries.data(), factor.panels,
                                factor.inverse, factor.shift);
    Outcome outcome[C];
    const diffqcp::Tolerances tolerances{tolerance, floor, max_steps, well_posed};
    // Without factors, since K is not finite, there are no solutions.
    const bool known = K.n == 0 || !std::isnan(*factor.rate);
    if (known)
      refinement.solve<C>(singular.typed_data()[singular_of(item)], *factor.rate,
                          tolerances, r, outcome);
    else
      diffqcp::unsolved<C>(r, outcome);
    for (int c = 0; c < C; ++c) {
      if (known && !well_posed && tolerances.missed(outcome[c].error)) {
        std::vector<double> single(K.n);
        read(vector, vector_of(item + c), K.n, K.pivots, single.data());
        if (Refinement::finite(single) &&
            spectrum.solve(K, entries.data(), factor.shift, single)) {
          for (Index k = 0; k < K.n; ++k) r[static_cast<size_t>(k) * C + c] = single[k];
          outcome[c].error = tolerance;
        }
      }
      write(r, c, C, K.pivots, *solution, (item + c) * K.n, K.n);
      error->typed_data()[item + c] = static_cast<float>(outcome[c].error);
      steps->typed_data()[item + c] = outcome[c].steps;
    }
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kFactorise, factorise,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Plan>()
                           .Arg<Numbers>()
                           .Arg<Numbers>()
                           .Attr<bool>("adapt")
                           .Attr<bool>("well_posed")
                           .Ret<Words>()
                           .Ret<Flags>());
XLA_FFI_DEFINE_HANDLER(kSolve, solve,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Plan>()
                           .Arg<Numbers>()
                           .Arg<Words>()
                           .Arg<Flags>()
                           .Arg<Numbers>()
                           .Attr<double>("tolerance")
                           .Attr<double>("floor")
                           .Attr<int32_t>("max_steps")
                           .Attr<bool>("well_posed")
                           .Ret<ffi::AnyBuffer>()
                           .Ret<Errors>()
                           .Ret<Counts>());

PyObject* bytes(const diffqcp::Indices& values) {
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(values.data()),
                                   values.size() * sizeof(Index));
}

PyObject* analyse(PyObject*, PyObject* args) {
  int n;
  Py_buffer rows, cols;
  if (!PyArg_ParseTuple(args, "iy*y*", &n, &rows, &cols)) return nullptr;
  diffqcp::Symbolic symbolic;
  const char* failure = nullptr;
  Py_BEGIN_ALLOW_THREADS;
  try {
    symbolic = diffqcp::analyse(n, static_cast<Index>(rows.len / sizeof(Index)),
                                static_cast<const Index*>(rows.buf),
                                static_cast<const Index*>(cols.buf));
  } catch (const std::length_error&) {
    failure = "the sparse factor of K would have more than 2^31 entries";
  } catch (const std::bad_alloc&) {
    failure = "not enough memory to analyse K";
  }
  Py_END_ALLOW_THREADS;
  PyBuffer_Release(&rows);
  PyBuffer_Release(&cols);
  if (failure != nullptr) {
    PyErr_SetString(PyExc_MemoryError, failure);
    return nullptr;
  }
  const diffqcp::Indices plan = symbolic.plan();
  const Pattern pattern(plan.data());
  return Py_BuildValue("(NNLd)", bytes(plan), bytes(symbolic.source),
                       static_cast<long long>(Factor::size(pattern)),
                       symbolic.operations);
}

PyObject* handlers(PyObject*, PyObject*) {
  const auto capsule = [](auto* handler) {
    return PyCapsule_New(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET",
                         nullptr);
  };
  return Py_BuildValue("{sNsN}", "factorise", capsule(kFactorise), "solve",
                       capsule(kSolve));
}

PyMethodDef methods[] = {
    {"analyse", analyse, METH_VARARGS,
     "analyse(order, rows, cols) -> (plan, source, fill, operations): the symbolic phase."},
    {"handlers", handlers, METH_NOARGS, "The XLA FFI handlers, as capsules."},
    {nullptr, nullptr, 0, nullptr}};

// A function of SciPy's linear algebra; null, with an error set, if it has none.
void* find(const char* module, const char* name) {
  PyObject* found = PyImport_ImportModule(module);
  if (found == nullptr) return nullptr;
  PyObject* api = PyObject_GetAttrString(found, "__pyx_capi__");
  Py_DECREF(found);
  if (api == nullptr) return nullptr;
  PyObject* capsule = PyMapping_GetItemString(api, name);
  Py_DECREF(api);
  if (capsule == nullptr) return nullptr;
  void* function = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
  Py_DECREF(capsule);
  return function;
}

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_ldl",
                          "Sparse LDL' factorisation as XLA FFI calls.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__ldl() {
  gemm = reinterpret_cast<Gemm*>(find("scipy.linalg.cython_blas", "dgemm"));
  if (gemm == nullptr) return nullptr;
  eigen = reinterpret_cast<diffqcp::Eigen*>(find("scipy.linalg.cython_lapack", "dsyevd"));
  if (eigen == nullptr) return nullptr;
  return PyModule_Create(&definition);
}
