// Products on every target the CPU supports: register tiles, packing, gemm and gemm_params against plain loops in
// double, with guards around all outputs, and the same bits for any split of rows.
#include <algorithm>

#include "network/workspace.hpp"
#include "ops/gemm.hpp"
#include "products.hpp"

namespace gradcore::testing {
namespace {

// Calls body(kernel set) for each supported target.
template <class T, class Body>
void for_each_target(const char *name, Body &&body) {
  for (int t = 0; t < num_targets(); t++) {
    if (!target_supported(t)) continue;
    tally().where = std::string(name) + " " + target(t).name + " " + kTypeName<T>;
    body(target(t).template set<T>());
  }
}

// Calls body(kernel set, shape, gap) for each supported target and shape, sometimes with gaps between rows.
template <class T, class Body>
void for_each_shape(const char *name, Body &&body) {
  for_each_target<T>(name, [&](const KernelSet<T> &k) {
    const std::string where = tally().where;
    index gap = 0;
    for (const Shape &s : shapes(k.lanes)) {
      tally().where = where + " rows " + std::to_string(s.rows) + " depth " + std::to_string(s.depth) + " cols " +
                      std::to_string(s.cols) + " gap " + std::to_string(gap);
      body(k, s, gap);
      gap = (gap + 3) % 7;
    }
  });
}

template <class T>
Ends ends_of(TileInit init, const Matrix<T> &bias, const Matrix<T> &before, index i, index j) {
  const double c = double(before(i, j));
  switch (init) {
    case TileInit::zero:
      return {0, 1};
    case TileInit::bias:
      return {double(bias[j]), 1};
    case TileInit::accumulate:
      return {c, 1};
    case TileInit::multiply:
      return {0, c};
  }
  return {};
}

// ---- the register tile: every height, width and tail ----

template <class T>
void test_tile(const KernelSet<T> &k, int rows, int vectors, index depth) {
  const index most = vectors * k.lanes;
  const Matrix<T> a = rng.matrix<T>({rows, depth, 2, 1}, 1), b = rng.matrix<T>({depth, most, 1, 1}, 1);
  const Matrix<T> bias = rng.vector<T>(most, 1);
  for (index cols = most - k.lanes + 1; cols <= most; cols++) {
    for (const TileInit init : kInits) {
      Matrix<T> c = rng.matrix<T>({rows, cols, 3, 1}, 1);
      const Matrix<T> before = c;
      GemmTile<T> tile{};
      tile.depth = tile.run = depth;
      tile.a = a.data(), tile.a_row = a.ld(), tile.a_step = 1;
      tile.b = tile.ahead = b.data(), tile.b_step = b.ld();
      tile.c = tile.written = c.data(), tile.c_row = tile.written_row = c.ld(), tile.cols = int(cols);
      tile.init = init, tile.bias = bias.data();
      k.gemm_tile[rows - 1][vectors - 1](tile);
      check_product(c, depth, a, b, [&](index i, index j) { return ends_of(init, bias, before, i, j); });
    }
  }
}

template <class T>
void test_tiles() {
  for_each_target<T>("gemm_tile", [](const KernelSet<T> &k) {
    CHECK(k.tile_vectors >= 1 && k.tile_vectors <= kMaxTileVectors);
    for (int vectors = 1; vectors <= k.tile_vectors; vectors++) {
      const int tallest = k.tile_rows[vectors - 1];
      if (!CHECK(tallest >= 1 && tallest <= kMaxTileRows)) continue;
      for (int rows = 1; rows <= tallest; rows++)
        for (const index depth : {1, 9}) test_tile(k, rows, vectors, depth);
    }
  });
}

// ---- packing ----

template <class T>
Matrix<T> pack(const KernelSet<T> &k, bool forward, const Shape &s, const Matrix<T> &weight) {
  Matrix<T> packed(1, packed_size(k, s.depth, s.cols));
  const index in = forward ? s.depth : s.cols, out = forward ? s.cols : s.depth;
  // In two strips, as after an update; those of a forward product consist of full vectors.
  const index middle = forward ? out / 2 / k.lanes * k.lanes : out / 3;
  for (const auto &[begin, end] : {std::pair{middle, out}, std::pair{index(0), middle}})
    (forward ? pack_forward<T> : pack_backward<T>)(k, in, out, weight.data(), weight.ld(), begin, end, packed.data(),
                                                   false);
  return packed;
}

// The same with writes past the caches.
template <class T>
void check_packed_past_caches(const KernelSet<T> &k, bool forward, const Shape &s, const Matrix<T> &weight,
                              const Matrix<T> &packed) {
  const index in = forward ? s.depth : s.cols, out = forward ? s.cols : s.depth;
  AlignedBuffer buffer;
  buffer.reserve(std::size_t(packed.size()) * sizeof(T));
  T *panels = static_cast<T *>(buffer.data());
  (forward ? pack_forward<T> : pack_backward<T>)(k, in, out, weight.data(), weight.ld(), 0, out, panels, true);
  CHECK(std::equal(panels, panels + packed.size(), packed.data()));
}

// Panels must hold B, with rows padded with zeros; B[k, j] is weight[j, k] forward and weight[k, j] backward.
template <class T>
void check_packed(const KernelSet<T> &k, bool forward, const Shape &s, const Matrix<T> &weight,
                  const Matrix<T> &packed) {
  const PanelSplit split(s.cols, k.lanes, k.tile_vectors);
  bool equal = true;
  index covered = 0;
  for (index p = 0; p < split.num_panels(); p++) {
    const index begin = split.begin(p), width = split.vectors(p) * k.lanes;
    CHECK(begin == covered && split.vectors(p) >= 1 && split.vectors(p) <= k.tile_vectors);
    CHECK(split.cols(p) <= width && split.cols(p) > width - k.lanes);
    CHECK(split.panel_of(begin) == p && split.panel_of(begin + split.cols(p) - 1) == p);
    covered += split.cols(p);
    for (index d = 0; d < s.depth; d++) {
      for (index j = 0; j < width; j++) {
        const bool inside = j < split.cols(p);
        const T expected = !inside ? T(0) : forward ? weight(begin + j, d) : weight(d, begin + j);
        equal &= packed[s.depth * begin + d * width + j] == expected;
      }
    }
  }
  CHECK(equal && covered == s.cols);
  CHECK(packed.intact());
}

template <class T>
void test_packing() {
  for_each_shape<T>("pack", [](const KernelSet<T> &k, const Shape &s, index gap) {
    for (const bool forward : {true, false}) {
      const Matrix<T> weight = rng.matrix<T>({forward ? s.cols : s.depth, forward ? s.depth : s.cols, gap, 1}, 1);
      const Matrix<T> packed = pack(k, forward, s, weight);
      check_packed(k, forward, s, weight, packed);
      check_packed_past_caches(k, forward, s, weight, packed);
    }
  });
}

// ---- gemm: B in panels, and where it lies ----

template <class T>
struct Product {
  const KernelSet<T> &kernels;
  Shape shape;
  Matrix<T> a, packed, bias;

  // Computes rows [begin, end) of c.
  void run(index begin, index end, TileInit init, Matrix<T> &c) const {
    run(begin, end, init, RightMatrix<T>{packed.data()}, c);
  }
  void run(index begin, index end, TileInit init, const RightMatrix<T> &b, Matrix<T> &c) const {
    gemm(kernels, end - begin, shape.depth, shape.cols, a.data() + begin * a.ld(), a.ld(), b, c.data() + begin * c.ld(),
         c.ld(), init, bias.data());
  }
};

template <class T>
void check_row_splits(const Product<T> &product, TileInit init, const Matrix<T> &before, const Matrix<T> &c) {
  const index rows = product.shape.rows;
  for (const index cut : {index(1), index(3), index(8), rows / 2, rows - 1}) {
    if (cut <= 0 || cut >= rows) continue;
    Matrix<T> apart = before;
    product.run(cut, rows, init, apart);
    product.run(0, cut, init, apart);
    CHECK(same_bits(apart, c));
    CHECK(apart.intact());
  }
}

template <class T>
void test_gemm(bool forward) {
  for_each_shape<T>(forward ? "gemm forward" : "gemm backward", [&](const KernelSet<T> &k, const Shape &s, index gap) {
    const Matrix<T> weight =
        forward ? rng.matrix<T>({s.cols, s.depth, gap, 1}, 1) : rng.matrix<T>({s.depth, s.cols, gap, 1}, 1);
    const Product<T> product{k, s, rng.matrix<T>({s.rows, s.depth, gap, 1}, 1), pack(k, forward, s, weight),
                             rng.vector<T>(s.cols, 1)};
    for (const TileInit init : kInits) {
      if (init == TileInit::multiply && s.depth > kDepthBlock) continue;
      const Matrix<T> before = rng.matrix<T>({s.rows, s.cols, gap, 1}, 1);
      Matrix<T> c = before;
      product.run(0, s.rows, init, c);
      check_product(
          c, s.depth, product.a, [&](index d, index j) { return forward ? weight(j, d) : weight(d, j); },
          [&](index i, index j) { return ends_of(init, product.bias, before, i, j); });
      check_row_splits(product, init, before, c);
      if (forward) continue;
      Matrix<T> in_place = before;
      product.run(0, s.rows, init, {weight.data(), weight.ld()}, in_place);
      CHECK(same_bits(in_place, c) && in_place.intact());
    }
  });
}

// ---- gemm_params: dw [out, in] of delta [n, out] and x [n, in] ----

template <class T>
struct ParamsProduct {
  const KernelSet<T> &kernels;
  Matrix<T> delta, x;

  void run(index begin, index end, index out_begin, index out_end, bool accumulate, Matrix<T> &dw) const {
    gemm_params(kernels, end - begin, dw.cols(), out_begin, out_end, delta.data() + begin * delta.ld(), delta.ld(),
                x.data() + begin * x.ld(), x.ld(), dw.data(), accumulate);
  }
};

// Strips of dw computed separately, and rows of the batch added in parts.
template <class T>
void check_params_splits(const ParamsProduct<T> &product, bool accumulate, const Matrix<T> &before,
                         const Matrix<T> &dw) {
  const index n = product.x.rows(), out = dw.rows();
  Matrix<T> strips = before;
  product.run(0, n, out / 2, out, accumulate, strips);
  bool untouched = true;
  for (index i = 0; i < out / 2 * dw.cols(); i++) untouched &= strips[i] == before[i];
  CHECK(untouched);
  if (out > 1) product.run(0, n, 0, out / 2, accumulate, strips);
  CHECK(same_bits(strips, dw) && strips.intact());

  for (const index cut : {n / 3, n / 2, n - 1}) {
    if (cut <= 0) continue;
    Matrix<T> parts = before;
    product.run(0, cut, 0, out, accumulate, parts);
    product.run(cut, n, 0, out, true, parts);
    CHECK(same_bits(parts, dw));
  }
}

// The rows of m in pieces, with NaN between them.
template <class T>
std::vector<T> spread(const Matrix<T> &m, const Pieces &pieces) {
  const index vector = index(kMaxVectorBytes / sizeof(T));
  std::vector<T> to(std::size_t(m.rows() * (m.ld() + pieces.gap) + vector), std::numeric_limits<T>::quiet_NaN());
  for (index r = 0; r < m.rows(); r++) std::copy_n(m.data() + r * m.ld(), m.ld(), pieces.row(to.data(), m.ld(), r));
  return to;
}

template <class T>
void check_params_pieces(const ParamsProduct<T> &product, bool accumulate, const Matrix<T> &before,
                         const Matrix<T> &dw) {
  const index n = product.x.rows();
  for (const index rows : {index(1), index(3), index(16), n / 2, n - 1}) {
    if (rows <= 0 || rows >= n) continue;
    const Pieces pieces{rows, 7};
    const std::vector<T> delta = spread(product.delta, pieces), x = spread(product.x, pieces);
    Matrix<T> in_pieces = before;
    gemm_params(product.kernels, n, dw.cols(), 0, dw.rows(), delta.data(), product.delta.ld(), x.data(), product.x.ld(),
                in_pieces.data(), accumulate, pieces);
    CHECK(same_bits(in_pieces, dw));
  }
}

template <class T>
void test_gemm_params() {
  for_each_shape<T>("gemm_params", [](const KernelSet<T> &k, const Shape &s, index gap) {
    const ParamsProduct<T> product{k, rng.matrix<T>({s.depth, s.rows, gap, 1}, 1),
                                   rng.matrix<T>({s.depth, s.cols, gap, 1}, 1)};
    for (const bool accumulate : {false, true}) {
      const Matrix<T> before = rng.matrix<T>({s.rows, s.cols, 0, 1}, 1);
      Matrix<T> dw = before;
      product.run(0, s.depth, 0, s.rows, accumulate, dw);
      check_product(
          dw, s.depth, [&](index o, index r) { return product.delta(r, o); }, product.x,
          [&](index o, index i) { return Ends{accumulate ? double(before(o, i)) : 0.0, 1.0}; });
      check_params_splits(product, accumulate, before, dw);
      check_params_pieces(product, accumulate, before, dw);
    }
  });
}

// Delta packed part by part, in pieces or not, must give the same bits as delta in place.
template <class T>
void test_packed_delta() {
  for_each_target<T>("packed delta", [](const KernelSet<T> &k) {
    const std::string where = tally().where;
    for (const Shape &s : {Shape{70, 300, 515}, Shape{5, 64, 512}, Shape{130, 600, 513}, Shape{65, 63, 700}}) {
      tally().where = where + " rows " + std::to_string(s.rows) + " depth " + std::to_string(s.depth);
      const ParamsProduct<T> product{k, rng.matrix<T>({s.depth, s.rows, 3, 1}, 1),
                                     rng.matrix<T>({s.depth, s.cols, 1, 1}, 1)};
      const Matrix<T> before = rng.matrix<T>({s.rows, s.cols, 0, 1}, 1);
      for (const index rows : {s.depth, index(64), index(100), index(13)}) {
        const Pieces pieces{rows, 5};
        const std::vector<T> delta = spread(product.delta, pieces), x = spread(product.x, pieces);
        const auto run = [&](T *packed_delta, Matrix<T> &dw) {
          gemm_params(k, s.depth, s.cols, 0, s.rows, delta.data(), product.delta.ld(), x.data(), product.x.ld(),
                      dw.data(), true, pieces, static_cast<const T *>(nullptr), packed_delta);
        };
        Matrix<T> as_it_lies = before, packed = before, room(kPackedRows, kPackedColumns);
        run(nullptr, as_it_lies);
        run(room.data(), packed);
        CHECK(same_bits(packed, as_it_lies) && packed.intact() && room.intact());
        const bool used = !std::isnan(double(room(0, 0)));
        CHECK(used == (packs_delta(k, s.cols) && std::min(rows, s.depth) >= 64));
      }
    }
  });
}

template <class T>
void test_all() {
  test_packed_delta<T>();
  test_tiles<T>();
  test_packing<T>();
  test_gemm<T>(true);
  test_gemm<T>(false);
  test_gemm_params<T>();
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_all<float>();
  gradcore::testing::test_all<double>();
  return gradcore::testing::report();
}
