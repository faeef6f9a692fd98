// XLA FFI calls of the sparse LDL' factorisation, and its symbolic phase, as a Python
// module.
#include <memory>
#include <string>

#include "batch.hpp"
#include "batches.hpp"
#include "dense.hpp"
#include "host.hpp"
#include "parallel.hpp"
#include "traced.hpp"

namespace ffi = xla::ffi;
using diffqcp::Batch;
using diffqcp::Factor;
using diffqcp::Factorisation;
using diffqcp::Guarded;
using diffqcp::Index;
using diffqcp::items;
using diffqcp::Numbers;
using diffqcp::Outcome;
using diffqcp::parallel;
using diffqcp::Pattern;
using diffqcp::read;
using diffqcp::real;
using diffqcp::Values;

namespace {

const diffqcp::Lapack& lapack = diffqcp::dense::routines.lapack;

using Plan = ffi::Buffer<ffi::S32>;      // and other arrays of integers
using Words = ffi::Buffer<ffi::U32>;      // pairs of them are doubles
using Flags = ffi::Buffer<ffi::PRED>;
using Errors = ffi::Buffer<ffi::F32>;
using Counts = ffi::Buffer<ffi::S32>;

template <int C>
using Size = std::integral_constant<int, C>;

void write(const std::vector<double>& from, int start, int stride, const Index* order,
           ffi::AnyBuffer& to, int64_t offset, Index count) {
  const auto copy = [&](auto* out) {
    for (Index k = 0; k < count; ++k)
      out[order == nullptr ? k : order[k]] = from[static_cast<size_t>(k) * stride + start];
  };
  if (to.element_type() == ffi::F32)
    copy(to.typed_data<float>() + offset);
  else
    copy(to.typed_data<double>() + offset);
}

// What is wrong with the arrays of a call, if anything is. The batch is that of a result
// whose last axis is an item's.
class Check {
 public:
  Check(const char* name, ffi::Span<const int64_t> dims, Plan plan) : batch_(dims) {
    const int64_t length = static_cast<int64_t>(plan.element_count());
    if (!diffqcp::is_plan(plan.typed_data(), length))
      fault_ = "plan: expected what analyse has returned";
    else if (dims.size() == 0)
      fault_ = std::string(name) + ": expected one axis or more";
  }

  // An array with an item of this length, or a single number, for each item of the batch,
  // or for all along an axis of length one.
  Check& argument(const char* name, ffi::Span<const int64_t> dims, int64_t length) {
    return array(name, dims, length, true);
  }
  Check& argument(const char* name, ffi::Span<const int64_t> dims) {
    return array(name, dims, -1, true);
  }
  Check& result(const char* name, ffi::Span<const int64_t> dims, int64_t length) {
    return array(name, dims, length, false);
  }
  Check& result(const char* name, ffi::Span<const int64_t> dims) {
    return array(name, dims, -1, false);
  }

  Check& numbers(const char* name, const Numbers& numbers) {
    if (fault_.empty() && !real(numbers))
      fault_ = std::string(name) + ": expected float32 or float64";
    return *this;
  }

  // One number of 0 ... n - 1 for each row, for all items.
  Check& below(const char* name, Plan numbers, Index n) {
    if (!passed()) return *this;
    const Index* first = numbers.typed_data();
    const int64_t count = static_cast<int64_t>(numbers.element_count());
    if (count != n || !std::all_of(first, first + count,
                                   [n](Index k) { return 0 <= k && k < n; }))
      fault_ = std::string(name) + ": expected " + std::to_string(n) +
               " numbers, from 0 to less than that";
    return *this;
  }

  Check& doubles(const char* name, const void* data) {
    if (fault_.empty() && reinterpret_cast<uintptr_t>(data) % alignof(double) != 0)
      fault_ = std::string(name) + ": expected memory that is aligned for float64";
    return *this;
  }

  bool passed() const { return fault_.empty(); }

  ffi::Error error() const {
    return passed() ? ffi::Error::Success() : ffi::Error::InvalidArgument(fault_);
  }

 private:
  Check& array(const char* name, ffi::Span<const int64_t> dims, int64_t length,
               bool broadcast) {
    if (!passed()) return *this;
    const size_t outer = batch_.size() - 1;
    bool fits = dims.size() == outer + (length < 0 ? 0 : 1);
    for (size_t axis = 0; fits && axis < outer; ++axis)
      fits = dims[axis] == batch_[axis] || (broadcast && dims[axis] == 1);
    if (fits && (length < 0 || dims[outer] == length)) return *this;
    std::vector<int64_t> expected(batch_.begin(), batch_.begin() + outer);
    if (length >= 0) expected.push_back(length);
    fault_ = std::string(name) + ": expected shape " + shape(expected) +
             (broadcast && outer > 0 ? ", or ones for its leading axes" : "") + ", got " +
             shape(dims);
    return *this;
  }

  template <typename Lengths>
  static std::string shape(const Lengths& lengths) {
    std::string text = "(";
    for (const int64_t length : lengths) text += std::to_string(length) + ",";
    return text + ")";
  }

  ffi::Span<const int64_t> batch_;
  std::string fault_;
};

ffi::Error check_factorise(Plan plan, Plan groups, const Numbers& values,
                           const Numbers& shift, ffi::Result<Words>& words, ffi::Result<Flags>& singular) {
  Check check("words", words->dimensions(), plan);
  if (!check.passed()) return check.error();
  const Pattern K(plan.typed_data());
  return check.below("groups", groups, K.n)
      .numbers("values", values)
      .numbers("shift", shift)
      .argument("values", values.dimensions(), K.entries)
      .argument("shift", shift.dimensions(), K.n)
      .result("words", words->dimensions(), 2 * Factor::size(K))
      .doubles("words", words->untyped_data())
      .result("singular", singular->dimensions())
      .error();
}

ffi::Error check_solve(Plan plan, const Numbers& values, Words words, Flags singular,
                       const Numbers& vector, ffi::Result<ffi::AnyBuffer>& solution,
                       ffi::Result<Errors>& error, ffi::Result<Counts>& steps) {
  Check check("solution", solution->dimensions(), plan);
  if (!check.passed()) return check.error();
  const Pattern K(plan.typed_data());
  return check.numbers("values", values)
      .numbers("vector", vector)
      .numbers("solution", *solution)
      .argument("values", values.dimensions(), K.entries)
      .argument("words", words.dimensions(), 2 * Factor::size(K))
      .doubles("words", words.untyped_data())
      .argument("singular", singular.dimensions())
      .argument("vector", vector.dimensions(), K.n)
      .result("solution", solution->dimensions(), K.n)
      .result("error", error->dimensions())
      .result("steps", steps->dimensions())
      .error();
}

ffi::Error factorise(ffi::ThreadPool pool, Plan plan, Plan groups, Numbers values,
                     Numbers shift, bool adapt, bool well_posed, ffi::Result<Words> words,
                     ffi::Result<Flags> singular) {
  if (ffi::Error fault = check_factorise(plan, groups, values, shift, words, singular);
      fault.failure())
    return fault;
  const Pattern K(plan.typed_data());
  const auto dims = words->dimensions();
  const Batch value_of(values.dimensions(), dims), shift_of(shift.dimensions(), dims);
  double* out = reinterpret_cast<double*>(words->typed_data());
  const Factorisation factorisation(K, lapack.gemm);
  parallel(pool, items(dims), [&](int64_t item) {
    const Factor factor(K, out + item * Factor::size(K));
    const Values entries(values, value_of(item), K.entries);
    read(shift, shift_of(item), K.n, K.pivots, factor.shift);
    singular->typed_data()[item] = diffqcp::factorise(
        K, factorisation, entries.data(), groups.typed_data(), adapt, well_posed, factor);
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

ffi::Error solve(ffi::ThreadPool pool, Plan plan, Numbers values, Words words,
                 Flags singular, Numbers vector, double tolerance, double floor,
                 int32_t max_steps, bool well_posed, ffi::Result<ffi::AnyBuffer> solution,
                 ffi::Result<Errors> error, ffi::Result<Counts> steps) {
  if (ffi::Error fault =
          check_solve(plan, values, words, singular, vector, solution, error, steps);
      fault.failure())
    return fault;
  const Pattern K(plan.typed_data());
  const auto dims = solution->dimensions();
  if (items(dims) == 0) return ffi::Error::Success();
  const Batch value_of(values.dimensions(), dims), words_of(words.dimensions(), dims),
      vector_of(vector.dimensions(), dims), singular_of(singular.dimensions(), dims, 0);
  double* factors = reinterpret_cast<double*>(words.typed_data());
  // A regular matrix that is shared takes several right-hand sides at a time.
  const bool shared = value_of.shared() && words_of.shared() && singular_of.shared() &&
                      !singular.typed_data()[0];
  const Factorisation factorisation(K, lapack.gemm);
  diffqcp::Solver solver(K, factorisation, lapack.eigen,
                         {tolerance, floor, max_steps, well_posed});
  grouped(pool, items(dims), shared, [&](int64_t item, auto size) {
    constexpr int C = decltype(size)::value;
    const Values entries(values, value_of(item), K.entries);
    std::vector<double> r(static_cast<size_t>(K.n) * C);
    for (int c = 0; c < C; ++c)
      read(vector, vector_of(item + c), K.n, K.pivots, r.data() + c, C);
    const Factor factor(K, factors + words_of(item) / 2);
    Outcome outcome[C];
    solver.solve<C>(entries.data(), factor, singular.typed_data()[singular_of(item)], r,
                    outcome);
    for (int c = 0; c < C; ++c) {
      write(r, c, C, K.pivots, *solution, (item + c) * K.n, K.n);
      error->typed_data()[item + c] = static_cast<float>(outcome[c].error);
      steps->typed_data()[item + c] = outcome[c].steps;
    }
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kFactorise, Guarded<factorise>::call,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Plan>()
                           .Arg<Plan>()
                           .Arg<Numbers>()
                           .Arg<Numbers>()
                           .Attr<bool>("adapt")
                           .Attr<bool>("well_posed")
                           .Ret<Words>()
                           .Ret<Flags>());
XLA_FFI_DEFINE_HANDLER(kSolve, Guarded<solve>::call,
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
  PyObject *order_object, *rows_object, *cols_object;
  if (!PyArg_ParseTuple(args, "OOO", &order_object, &rows_object, &cols_object))
    return nullptr;
  PyObject* integer = PyNumber_Index(order_object);
  if (integer == nullptr) {
    PyErr_Clear();
    return PyErr_Format(PyExc_TypeError, "order: expected an integer, got %R",
                        order_object);
  }
  int overflow = 0;
  int64_t order = PyLong_AsLongLongAndOverflow(integer, &overflow);
  Py_DECREF(integer);
  if (overflow != 0)
    order = overflow > 0 ? std::numeric_limits<int64_t>::max()
                         : std::numeric_limits<int64_t>::min();
  diffqcp::Indices rows, cols;
  if (!diffqcp::read_indices("rows", rows_object, rows)) return nullptr;
  if (!diffqcp::read_indices("cols", cols_object, cols)) return nullptr;
  if (rows.size() != cols.size())
    return PyErr_Format(PyExc_ValueError, "rows, cols: expected one length, got %zu and %zu",
                        rows.size(), cols.size());
  diffqcp::Symbolic symbolic;
  diffqcp::Indices plan;
  if (!diffqcp::without_lock([&] {
        symbolic = diffqcp::analyse(order, static_cast<int64_t>(rows.size()), rows.data(),
                                    cols.data());
        plan = symbolic.plan();
      }))
    return nullptr;
  return Py_BuildValue("(NNLd)", bytes(plan), bytes(symbolic.source),
                       static_cast<long long>(Factor::size(Pattern(plan.data()))),
                       symbolic.operations);
}

PyObject* handlers(PyObject*, PyObject*) {
  const auto capsule = [](auto* handler) {
    return PyCapsule_New(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET",
                         nullptr);
  };
  namespace dense = diffqcp::dense;
  return Py_BuildValue("{sNsNsNsNsNsNsN}", "factorise", capsule(kFactorise), "solve",
                       capsule(kSolve), "eigh", capsule(dense::kEigh), "cholesky",
                       capsule(dense::kCholesky), "solve_triangular",
                       capsule(dense::kTriangular), "lu_factor", capsule(dense::kLu),
                       "lu_solve", capsule(dense::kLuSolve));
}

// Those of calls that an executable keeps, and the type of what it keeps.
PyObject* problem_handlers(PyObject*, PyObject*) {
  namespace traced = diffqcp::traced;
  static XLA_FFI_TypeInfo info = ffi::MakeTypeInfo<traced::Call>();
  const auto capsule = [](void* pointer) {
    return PyCapsule_New(pointer, nullptr, nullptr);
  };
  const auto handler = [](auto* function) {
    return PyCapsule_New(reinterpret_cast<void*>(function), "xla._CUSTOM_CALL_TARGET",
                         nullptr);
  };
  return Py_BuildValue(
      "(NN{sNsNsNsNsNsNsNsNsNsNsN}N)", capsule(&traced::Call::id), capsule(&info),
      "vjp", handler(traced::kVjp), "jvp", handler(traced::kJvp),
      "linearise", handler(traced::kLinearise), "solve", handler(traced::kSolve),
      "newton", handler(traced::kNewton), "minimise", handler(traced::kMinimise),
      "find", handler(traced::kFind), "improve", handler(traced::kImprove),
      "shift", handler(traced::kShift), "central", handler(traced::kCentral),
      "equilibrate", handler(traced::kEquilibrate), handler(traced::kInstantiate));
}

// register(problem, key): the calls of a program know a problem by its key.
PyObject* register_problem(PyObject*, PyObject* args) {
  PyObject* capsule;
  long long key;
  if (!PyArg_ParseTuple(args, "OL", &capsule, &key)) return nullptr;
  const auto* problem = diffqcp::host::shared_problem(capsule);
  if (problem == nullptr) return nullptr;
  diffqcp::traced::registry.add(key, *problem);
  Py_RETURN_NONE;
}

PyObject* problem(PyObject*, PyObject* args) {
  return diffqcp::host::make_problem(args, lapack);
}

namespace host = diffqcp::host;

PyMethodDef methods[] = {
    {"analyse", analyse, METH_VARARGS,
     "analyse(order, rows, cols) -> (plan, source, fill, operations): the symbolic phase."},
    {"handlers", handlers, METH_NOARGS, "The XLA FFI handlers, as capsules."},
    {"problem_handlers", problem_handlers, METH_NOARGS,
     "(type id, type info, {name: handler}, instantiate): those that belong to a problem."},
    {"register", register_problem, METH_VARARGS, "register(problem, key)"},
    {"problem", problem, METH_VARARGS, "problem(parts, exponents): a QCP's structure."},
    {"sizes", host::sizes, METH_O,
     "sizes(problem): of the frames, of K as it is stored, of its factor, of that in programs."},
    {"project", host::project, METH_VARARGS, "project(problem, v, out)"},
    {"jacobian", host::jacobian, METH_VARARGS,
     "jacobian(problem, v, smoothing, (lam, frames))"},
    {"rotate", host::rotate, METH_VARARGS, "rotate(problem, frames, vector, out, back)"},
    {"vjp", host::product<true>, METH_VARARGS,
     "vjp(problem, options, given, cotangents, out) -> (solved, error)"},
    {"jvp", host::product<false>, METH_VARARGS,
     "jvp(problem, options, given, change, out) -> (solved, error)"},
    {"linearise", host::linearise, METH_VARARGS,
     "linearise(problem, options, given, state, out) -> (singular, solved, error)"},
    {"pull_back", host::applied<true>, METH_VARARGS,
     "pull_back(problem, options, state, singular, point, cotangents, out) -> solved"},
    {"push_forward", host::applied<false>, METH_VARARGS,
     "push_forward(problem, options, state, singular, point, change, out) -> solved"},
    {"vjp_batch", host::of_batch<diffqcp::traced::Vjp>, METH_VARARGS,
     "vjp_batch(problem, options, limits, count, threads, inputs, outputs)"},
    {"equilibrate_batch", host::of_batch<diffqcp::traced::Equilibrate>, METH_VARARGS,
     "equilibrate_batch(problem, options, limits, count, threads, inputs, outputs)"},
    {"find_batch", host::of_batch<diffqcp::traced::Find>, METH_VARARGS,
     "find_batch(problem, options, limits, count, threads, inputs, outputs)"},
    {"improve_batch", host::of_batch<diffqcp::traced::Improve>, METH_VARARGS,
     "improve_batch(problem, options, limits, count, threads, inputs, outputs)"},
    {nullptr, nullptr, 0, nullptr}};

// The parameters of a function by Cython's description of it: c, i and d for pointers to
// char, int and double, ? for others.
std::string parameters(const std::string& signature) {
  const std::string start = "void (";
  std::string kinds;
  if (signature.compare(0, start.size(), start) != 0 || signature.back() != ')')
    return "?";
  for (size_t from = start.size(); from < signature.size();) {
    size_t to = signature.find(',', from);
    if (to == std::string::npos) to = signature.size() - 1;
    std::string type = signature.substr(from, to - from);
    while (!type.empty() && type.front() == ' ') type.erase(0, 1);
    const bool number = type == "double *" ||
                        (type.size() > 4 && type.compare(0, 8, "__pyx_t_") == 0 &&
                         type.compare(type.size() - 4, 4, "_d *") == 0);
    kinds += type == "char *" ? 'c' : type == "int *" ? 'i' : number ? 'd' : '?';
    from = to + 1;
  }
  return kinds;
}

// A function of SciPy's linear algebra. Null, with an error set, if it has none or one with
// other parameters: its integers may have 64 bits.
void* find(const char* module, const char* name, const char* kinds) {
  PyObject* found = PyImport_ImportModule(module);
  if (found == nullptr) return nullptr;
  PyObject* api = PyObject_GetAttrString(found, "__pyx_capi__");
  Py_DECREF(found);
  if (api == nullptr) return nullptr;
  PyObject* capsule = PyMapping_GetItemString(api, name);
  Py_DECREF(api);
  if (capsule == nullptr) return nullptr;
  const char* signature = PyCapsule_GetName(capsule);
  void* function = nullptr;
  if (signature != nullptr && parameters(signature) == kinds)
    function = PyCapsule_GetPointer(capsule, signature);
  else if (!PyErr_Occurred())
    PyErr_Format(PyExc_ImportError,
                 "%s.%s: expected a function with 32-bit integers, got '%s'", module, name,
                 signature == nullptr ? "" : signature);
  Py_DECREF(capsule);
  return function;
}

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_ldl",
                          "Sparse LDL' factorisation as XLA FFI calls.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

// Sets a pointer to such a function, and returns whether there is one.
template <typename Function>
bool set(Function*& pointer, const char* module, const char* name, const char* kinds) {
  pointer = reinterpret_cast<Function*>(find(module, name, kinds));
  return pointer != nullptr;
}

}  // namespace

PyMODINIT_FUNC PyInit__ldl() {
  constexpr const char *of_blas = "scipy.linalg.cython_blas",
                       *of_lapack = "scipy.linalg.cython_lapack";
  auto& [basic, getrf, getrs] = diffqcp::dense::routines;
  if (!set(basic.gemm, of_blas, "dgemm", "cciiiddididdi") ||
      !set(basic.eigen, of_lapack, "dsyevd", "ccididdiiii") ||
      !set(basic.potrf, of_lapack, "dpotrf", "cidii") ||
      !set(basic.trsm, of_blas, "dtrsm", "cccciiddidi") ||
      !set(basic.trsv, of_blas, "dtrsv", "cccididi") ||
      !set(basic.syrk, of_blas, "dsyrk", "cciiddiddi") ||
      !set(getrf, of_lapack, "dgetrf", "iidiii") ||
      !set(getrs, of_lapack, "dgetrs", "ciidiidii"))
    return nullptr;
  return PyModule_Create(&definition);
}
