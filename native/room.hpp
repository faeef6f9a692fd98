// Memory whose numbers are not set before they are used: of what is large, pages that are
// never written cost nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace diffqcp {

// Asks for huge pages, as NumPy does for its arrays: to get hundreds of megabytes page by page
// takes as long as a factorisation in them.
inline void prefer_huge_pages([[maybe_unused]] void* memory,
                              [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t large = size_t{1} << 22, page = size_t{1} << 12;
  if (bytes < large) return;
  const size_t skipped = -reinterpret_cast<uintptr_t>(memory) % page;
  madvise(static_cast<char*>(memory) + skipped, bytes - skipped, MADV_HUGEPAGE);
#endif
}

template <typename Number>
struct Unset : std::allocator<Number> {
  template <typename Other>
  struct rebind {
    using other = Unset<Other>;
  };

  Number* allocate(size_t count) {
    Number* memory = std::allocator<Number>::allocate(count);
    prefer_huge_pages(memory, count * sizeof(Number));
    return memory;
  }

  void construct(Number*) {}
  template <typename... Values>
  void construct(Number* place, Values&&... values) {
    ::new (static_cast<void*>(place)) Number(std::forward<Values>(values)...);
  }
};

using Room = std::vector<double, Unset<double>>;

}  // namespace diffqcp
