// Helpers of the tests of products: shapes, and a comparison with a product in double.
#ifndef GRADCORE_TESTS_CPP_PRODUCTS_HPP
#define GRADCORE_TESTS_CPP_PRODUCTS_HPP

#include "check.hpp"

namespace gradcore::testing {

inline Random rng;

inline constexpr TileInit kInits[] = {TileInit::zero, TileInit::bias, TileInit::accumulate, TileInit::multiply};

struct Shape {
  index rows, depth, cols;
};

// Every size for each extent in turn with small odd others, equal extents, random triples, and depths beyond one block
// of gemm (1024) or gemm_params (256).
inline std::vector<Shape> shapes(int lanes) {
  std::vector<index> sizes = {lanes - 1, lanes, lanes + 1, 63, 64, 65, 66, 67, 100, 130, 257};
  for (index n = 1; n <= 20; n++) sizes.push_back(n);
  std::vector<Shape> all;
  for (const index n : sizes) {
    all.insert(all.end(), {{n, 7, 13}, {13, n, 7}, {7, 13, n}});
    if (n <= 130) all.push_back({n, n, n});
  }
  for (int i = 0; i < 40; i++) all.push_back({1 + rng.below(70), 1 + rng.below(70), 1 + rng.below(140)});
  for (const index deep : {255, 256, 1023, 1024, 1025, 2100}) all.push_back({13, deep, 5 * lanes - 3});
  return all;
}

// The start of a sum, and the factor of the result.
struct Ends {
  double start, factor;
};

// c[i, j] = factor(i, j) (start(i, j) + sum_k a(i, k) b(k, j)), within tolerances.dense.
template <class T, class A, class B, class F>
void check_product(const Matrix<T> &c, index depth, A &&a, B &&b, F &&ends_of) {
  bool close = true;
  for (index i = 0; i < c.rows(); i++) {
    for (index j = 0; j < c.cols(); j++) {
      const Ends ends = ends_of(i, j);
      double sum = ends.start, magnitude = std::abs(sum);
      for (index k = 0; k < depth; k++) {
        const double term = double(a(i, k)) * double(b(k, j));
        sum += term;
        magnitude += std::abs(term);
      }
      const double tolerance = double(depth + 2) * 2 * kRoundoff<T> * magnitude;
      close &= near(double(c(i, j)), ends.factor * sum, std::abs(ends.factor) * tolerance);
    }
  }
  CHECK(close);
  CHECK(c.intact());
}

}  // namespace gradcore::testing

#endif
