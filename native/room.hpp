// Memory whose numbers are not set before they are used: of what is large, pages that are
// never written cost nothing.
#pragma once

#include <memory>
#include <vector>

namespace diffqcp {

template <typename Number>
struct Unset : std::allocator<Number> {
  template <typename Other>
  struct rebind {
    using other = Unset<Other>;
  };

  void construct(Number*) {}
  template <typename... Values>
  void construct(Number* place, Values&&... values) {
    ::new (static_cast<void*>(place)) Number(std::forward<Values>(values)...);
  }
};

using Room = std::vector<double, Unset<double>>;

}  // namespace diffqcp
