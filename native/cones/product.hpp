// Products of cones, with their rows permuted.
#pragma once

#include <memory>
#include <vector>

#include "cone.hpp"

namespace diffqcp {

// Equal cones that follow each other.
struct Repeated {
  Index start;    // the first coordinate
  int64_t frame;  // where the frame of the first one is
  std::vector<std::unique_ptr<const Cone>> cones;

  const Cone& first() const { return *cones.front(); }
};

// Coordinates are in the order of the factors, one after the other; row k of them is row
// rows[k] of the product. (`rows` is empty if nothing moves.)
class ProductCone {
 public:
  std::vector<Repeated> factors;
  Indices rows;
  Index dim = 0;
  int64_t frame = 0;

  void add(std::vector<std::unique_ptr<const Cone>> cones) {
    Repeated factor{dim, frame, std::move(cones)};
    for (const auto& cone : factor.cones) {
      dim += cone->dim();
      frame += cone->frame();
    }
    factors.push_back(std::move(factor));
  }

  void project(const double* v, double* p) const {
    if (rows.empty()) {
      for_each([&](const Cone& cone, Index start, int64_t) {
        cone.project(v + start, p + start);
      });
      return;
    }
    std::vector<double> coordinates = stacked(v);
    std::vector<double> out(dim);
    for_each([&](const Cone& cone, Index start, int64_t) {
      cone.project(coordinates.data() + start, out.data() + start);
    });
    unstack(out, p);
  }

  void jacobian(const double* v, double mu, double* lam, double* frames) const {
    const std::vector<double> coordinates = stacked(v);
    for_each([&](const Cone& cone, Index start, int64_t frame) {
      cone.jacobian(coordinates.data() + start, mu, lam + start, frames + frame);
    });
  }

  // U vector, from coordinates to rows; `vector` is overwritten.
  void rotate(const double* frames, std::vector<double>& vector, double* out) const {
    for_each([&](const Cone& cone, Index start, int64_t frame) {
      cone.rotate(frames + frame, vector.data() + start);
    });
    unstack(vector, out);
  }

  // U' vector, from rows to coordinates.
  std::vector<double> rotate_back(const double* frames, const double* vector) const {
    std::vector<double> coordinates = stacked(vector);
    for_each([&](const Cone& cone, Index start, int64_t frame) {
      cone.rotate_back(frames + frame, coordinates.data() + start);
    });
    return coordinates;
  }

 private:
  template <typename Body>
  void for_each(const Body& body) const {
    for (const Repeated& factor : factors) {
      Index start = factor.start;
      int64_t frame = factor.frame;
      for (const auto& cone : factor.cones) {
        body(*cone, start, frame);
        start += cone->dim();
        frame += cone->frame();
      }
    }
  }

  std::vector<double> stacked(const double* v) const {
    std::vector<double> coordinates(v, v + dim);
    for (size_t k = 0; k < rows.size(); ++k) coordinates[k] = v[rows[k]];
    return coordinates;
  }

  void unstack(const std::vector<double>& coordinates, double* out) const {
    if (rows.empty()) std::copy(coordinates.begin(), coordinates.end(), out);
    for (size_t k = 0; k < rows.size(); ++k) out[rows[k]] = coordinates[k];
  }
};

}  // namespace diffqcp
