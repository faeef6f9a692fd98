// The line search of the methods of multipliers: the Python function line_search in
// diffqcp.forward._line_search.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "problem.hpp"

namespace diffqcp {

// The slope at t is constant + t * square + across'Pi(place + t path); `first` is that at 0.
struct Slope {
  double constant, square, first;
  const std::vector<double>& across;
};

// The end of a step of length t: place + t path, and its projection.
struct Stepped {
  double length = 0;
  std::vector<double> z, y;

  explicit Stepped(const Problem& problem) : z(problem.m), y(problem.m) {}
};

// `end` becomes that of a step at whose end the slope of a convex function is close to zero;
// or that of one of length 1, without a search.
template <typename Project>
void line_search(const Slope& terms, const std::vector<double>& place,
                 const std::vector<double>& path, bool at_once, const Project& project,
                 Stepped& end) {
  constexpr int most = 30;
  constexpr double enough = 0.1;
  const auto go = [&](double length) {
    end.length = length;
    for (size_t k = 0; k < place.size(); ++k) end.z[k] = place[k] + length * path[k];
    project(end.z, end.y);
    double slope = terms.constant + length * terms.square;
    for (size_t k = 0; k < place.size(); ++k) slope += terms.across[k] * end.y[k];
    return slope;
  };
  double slope = go(1);
  double low = 0, low_slope = terms.first, high_slope = 0;
  double high = std::numeric_limits<double>::infinity();
  for (int count = 1; !at_once && count < most; ++count) {
    if (std::abs(slope) <= enough * std::abs(terms.first)) break;
    if (slope < 0) {
      low = end.length;
      low_slope = slope;
    } else {
      high = end.length;
      high_slope = slope;
    }
    double length = 4 * low;
    if (std::isfinite(high)) {
      const double rise = high_slope - low_slope;
      double share = std::clamp(-low_slope / (rise > 0 ? rise : 1), 0.01, 0.99);
      if (count % 3 == 2) share = 0.5;
      length = low + share * (high - low);
    }
    slope = go(length);
  }
}

}  // namespace diffqcp
