// What the functions of the Python module share. Errors are set, and said by a result.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "plan.hpp"

namespace diffqcp {

// Copies an array of int32, so that nobody changes it once it is checked. Whether that
// has succeeded.
inline bool read_indices(const char* name, PyObject* object, Indices& indices) {
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "%s: expected an array of int32, got %R", name,
                 reinterpret_cast<PyObject*>(Py_TYPE(object)));
    return false;
  }
  const std::string format = view.format == nullptr ? "B" : view.format;
  const bool known = format == "i" || (format == "l" && sizeof(long) == sizeof(Index));
  if (view.ndim != 1 || !known) {
    PyErr_Format(PyExc_TypeError,
                 "%s: expected a one-dimensional array of int32, got %d dimensions of the "
                 "format '%s'",
                 name, view.ndim, format.c_str());
    PyBuffer_Release(&view);
    return false;
  }
  try {
    indices.resize(static_cast<size_t>(view.shape[0]));
  } catch (const std::exception&) {
    PyErr_NoMemory();
    PyBuffer_Release(&view);
    return false;
  }
  const char* from = static_cast<const char*>(view.buf);
  for (Index& index : indices) {
    std::memcpy(&index, from, sizeof(Index));  // it may not be aligned
    from += view.strides[0];
  }
  PyBuffer_Release(&view);
  return true;
}

// Runs the body without the interpreter's lock. Whether it has thrown nothing.
template <typename Body>
bool without_lock(const Body& body) {
  PyObject* failure = nullptr;
  std::string message;
  Py_BEGIN_ALLOW_THREADS;
  try {
    body();
  } catch (const std::invalid_argument& exception) {
    failure = PyExc_ValueError;
    message = exception.what();
  } catch (const std::length_error& exception) {
    failure = PyExc_MemoryError;
    message = exception.what();
  } catch (const std::bad_alloc&) {
    failure = PyExc_MemoryError;
    message = "not enough memory for K";
  }
  Py_END_ALLOW_THREADS;
  if (failure != nullptr) PyErr_SetString(failure, message.c_str());
  return failure == nullptr;
}

}  // namespace diffqcp
