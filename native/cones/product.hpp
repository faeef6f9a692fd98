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
    const auto project_each = [&](const double* from, double* to) {
      for_each([&](const Cone& cone, Index start, int64_t) {
        cone.project(from + start, to + start);
      });
    };
    if (rows.empty()) return project_each(v, p);
    std::vector<double> coordinates(dim), out(dim);
    stack(v, coordinates.data());
    project_each(coordinates.data(), out.data());
    unstack(out, p);
  }

  void jacobian(const double* v, double mu, double* lam, double* frames) const {
    const auto jacobian_each = [&](const double* from) {
      for_each([&](const Cone& cone, Index start, int64_t frame) {
        cone.jacobian(from + start, mu, lam + start, frames + frame);
      });
    };
    if (rows.empty()) return jacobian_each(v);
    std::vector<double> coordinates(dim);
    stack(v, coordinates.data());
    jacobian_each(coordinates.data());
  }

  // U vector, from coordinates to rows; `vector` is overwritten.
  void rotate(const double* frames, std::vector<double>& vector, double* out) const {
    for_each([&](const Cone& cone, Index start, int64_t frame) {
      cone.rotate(frames + frame, vector.data() + start);
    });
    unstack(vector, out);
  }

  // U' vector, from rows to coordinates.
  void rotate_back(const double* frames, const double* vector, double* coordinates) const {
    stack(vector, coordinates);
    for_each([&](const Cone& cone, Index start, int64_t frame) {
      cone.rotate_back(frames + frame, coordinates + start);
    });
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

  void stack(const double* v, double* coordinates) const {
    if (rows.empty()) std::copy(v, v + dim, coordinates);
    for (size_t k = 0; k < rows.size(); ++k) coordinates[k] = v[rows[k]];
  }

  void unstack(const std::vector<double>& coordinates, double* out) const {
    if (rows.empty()) std::copy(coordinates.begin(), coordinates.end(), out);
    for (size_t k = 0; k < rows.size(); ++k) out[rows[k]] = coordinates[k];
  }
};

}  // namespace diffqcp
