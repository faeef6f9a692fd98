// Arrays of XLA's calls. One may have leading batch axes of length one or of the length of
// the batch, as jax.ffi.ffi_call(vmap_method="expand_dims") makes them.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "plan.hpp"
#include "xla/ffi/api/ffi.h"

namespace diffqcp {

namespace ffi = xla::ffi;

using Numbers = ffi::AnyBuffer;  // float32 or float64, float64 inside

// Where the items of a batch are in an array whose last `inner` axes belong to an item.
class Batch {
 public:
  Batch(ffi::Span<const int64_t> dims, ffi::Span<const int64_t> all, size_t inner = 1) {
    int64_t stride = 1;
    for (size_t axis = dims.size() - inner; axis < dims.size(); ++axis) stride *= dims[axis];
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

inline int64_t items(ffi::Span<const int64_t> dims, size_t inner = 1) {
  int64_t count = 1;
  for (size_t axis = 0; axis + inner < dims.size(); ++axis) count *= dims[axis];
  return count;
}

// Copies `count` numbers to every `stride`-th place; the k-th is that of index order[k].
inline void read(const Numbers& from, int64_t offset, Index count, const Index* order,
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

inline bool real(const Numbers& numbers) {
  return numbers.element_type() == ffi::F32 || numbers.element_type() == ffi::F64;
}

// A handler that throws nothing.
template <auto handler>
struct Guarded;

template <typename... Arguments, ffi::Error (*handler)(Arguments...)>
struct Guarded<handler> {
  static ffi::Error call(Arguments... arguments) {
    try {
      return handler(std::move(arguments)...);
    } catch (const std::bad_alloc&) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                        "not enough memory for a factorisation or a solve");
    } catch (const std::exception& exception) {
      return ffi::Error::Internal(exception.what());
    }
  }
};

}  // namespace diffqcp
