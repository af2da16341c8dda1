// The products of bench_kernels.cpp: register tiles, packed and weight-gradient products, packing.
#ifndef GRADCORE_BENCH_PRODUCTS_HPP
#define GRADCORE_BENCH_PRODUCTS_HPP

#include "ops/gemm.hpp"
#include "suite.hpp"

namespace gradcore::bench {

// As in network/workspace.cpp: an odd number of cache lines.
template <class T>
index row_stride(index cols) {
  const index line = 64 / index(sizeof(T));
  return ((cols + line - 1) / line | 1) * line;
}

inline std::string shape(const char *name, std::initializer_list<index> sizes) {
  std::string text = name;
  const char *separator = " ";
  for (const index size : sizes) {
    text += separator + std::to_string(size);
    separator = "x";
  }
  return text;
}

// ---- products ----

template <class T>
void tile_of(Suite<T> &suite, int rows, int vectors, index cols) {
  const KernelSet<T> &k = suite.kernels;
  const index depth = 256, width = vectors * k.lanes, lda = row_stride<T>(depth);
  const Array<T> a(rows * lda), b(depth * width);
  Array<T> c(rows * cols);
  GemmTile<T> tile{};
  tile.depth = tile.run = depth;
  tile.a = a.data(), tile.a_row = lda, tile.a_step = 1;
  tile.b = tile.ahead = b.data(), tile.b_step = width;
  tile.c = tile.written = c.data(), tile.c_row = tile.written_row = cols, tile.cols = int(cols);
  suite.add(
      shape("gemm_tile", {rows, cols}), {double(rows * cols), 2.0 * double(rows * cols * depth)},
      [&] {
        return error_of(c.data(), c.size(), [&](index i) {
          double sum = 0;
          for (index d = 0; d < depth; d++) sum += double(a[i / cols * lda + d]) * double(b[d * width + i % cols]);
          return sum;
        });
      },
      [&] { k.gemm_tile[rows - 1][vectors - 1](tile); });
}

template <class T>
void tiles(Suite<T> &suite) {
  const KernelSet<T> &k = suite.kernels;
  suite.section("register tiles, rows x columns, depth 256; the tallest with half of the last vector too");
  for (int vectors = 1; vectors <= k.tile_vectors; vectors++) {
    const int cols = vectors * k.lanes, tallest = k.tile_rows[vectors - 1];
    for (int rows = 1; rows <= tallest; rows++) tile_of(suite, rows, vectors, cols);
    tile_of(suite, tallest, vectors, cols - k.lanes / 2);
  }
}

template <class T>
void packed_product(Suite<T> &suite, index rows, index in, index out) {
  const KernelSet<T> &k = suite.kernels;
  const index ldx = row_stride<T>(in), ldy = row_stride<T>(out);
  const Array<T> x(rows * ldx), weight(out * in), bias(out);
  Array<T> packed(packed_size(k, in, out)), y(rows * ldy);
  pack_forward(k, in, out, weight.data(), in, 0, out, packed.data());
  suite.add(
      shape("gemm", {rows, in, out}), {double(rows * out), 2.0 * double(rows * in * out)},
      [&] {
        return error_of(y.data(), (rows - 1) * ldy + out, [&](index i) {
          if (i % ldy >= out) return double(y[i]);
          double sum = double(bias[i % ldy]);
          for (index d = 0; d < in; d++) sum += double(x[i / ldy * ldx + d]) * double(weight[i % ldy * in + d]);
          return sum;
        });
      },
      [&] {
        gemm(k, rows, in, out, x.data(), ldx, RightMatrix<T>{packed.data()}, y.data(), ldy, TileInit::bias,
             bias.data());
      });
}

template <class T>
void params_product(Suite<T> &suite, index rows, index in, index out) {
  const KernelSet<T> &k = suite.kernels;
  const index ldx = row_stride<T>(in), ldd = row_stride<T>(out);
  const Array<T> x(rows * ldx), delta(rows * ldd);
  Array<T> dw(out * in);
  suite.add(
      shape("gemm_params", {rows, in, out}), {double(out * in), 2.0 * double(rows * in * out)},
      [&] {
        return error_of(dw.data(), dw.size(), [&](index i) {
          double sum = 0;
          for (index r = 0; r < rows; r++) sum += double(delta[r * ldd + i / in]) * double(x[r * ldx + i % in]);
          return sum;
        });
      },
      [&] { gemm_params(k, rows, in, 0, out, delta.data(), ldd, x.data(), ldx, dw.data(), false); });
}

template <class T>
void products(Suite<T> &suite) {
  suite.section("forward: rows x in x out");
  for (const index rows : {1, 16, 32, 96})
    for (const index width : {10, 64, 65, 100, 256, 1024}) packed_product(suite, rows, width, width);
  packed_product(suite, 32, 2048, 256);
  suite.section("weight gradient: rows x in x out");
  for (const index rows : {1, 32, 128, 256, 1024})
    for (const index width : {10, 64, 65, 100, 256, 1024}) params_product(suite, rows, width, width);
  for (const index rows : {256, 1024}) params_product(suite, rows, 1024, 96);  // a strip, as the schedule takes it
}

template <class T>
void packing(Suite<T> &suite) {
  const KernelSet<T> &k = suite.kernels;
  suite.section("packing a weight");
  for (const index width : {64, 100, 256}) {
    const Array<T> weight(width * width);
    const PanelSplit split(width, k.lanes, k.tile_vectors);
    Array<T> packed(packed_size(k, width, width));
    const double bytes = double(width * width) * sizeof(T);
    const Work work{double(width * width), 0, bytes, bytes};
    // The panels' first rows: column 0 of the weight, or its row 0.
    const auto first_rows = [&](index step) {
      double wrong = 0;
      for (index p = 0; p < split.num_panels(); p++)
        for (index j = 0; j < split.cols(p); j++)
          wrong += packed[width * split.begin(p) + j] != weight[(split.begin(p) + j) * step];
      return wrong;
    };
    suite.add(
        shape("pack_forward", {width, width}), work, [&] { return first_rows(width); },
        [&] { pack_forward(k, width, width, weight.data(), width, 0, width, packed.data()); });
    suite.add(
        shape("pack_backward", {width, width}), work, [&] { return first_rows(1); },
        [&] { pack_backward(k, width, width, weight.data(), width, 0, width, packed.data()); });
  }
}

}  // namespace gradcore::bench

#endif
