#include "ops/gemm.hpp"

#include <algorithm>

namespace gradcore {

namespace {

// Packing delta does not pay for narrower layers (weight gradients with AVX2 on Zen 4: w256 0.98 times as fast as
// without, w512 1.05, w1024 1.16; bench/experiments.md, AVX2), nor for blocks of few rows.
constexpr index kLeastPackedInputs = 512, kLeastPackedRows = 64;
// A panel of weights that fits the first-level cache stays there for its tiles; fetching the next one would evict it
// (AVX2, b256 w256: 0.99 of the speed).
constexpr index kFirstLevel = 32 << 10;

// Runs a column of tiles, rows [0, rows), over one panel; `tile` is complete except for its rows.
//
// Meanwhile the tiles prefetch the next panel, if any, which has the same width: each tile one column of its lines, or
// two if there are more columns than tiles. The hardware prefetcher stops at the end of a page and does not know where
// the next layer's weights or the next columns of x begin (b256 w256 and b1024 w1024: 1.01 and 1.05 times as fast;
// 2,000 layers at 8 rows and at 16: 1.25 times, because lines that no tile fetches are missed).
//
// Heights are as even as possible: 32 rows as 6 + 6 + 5 + 5 + 5 + 5. With 6 + ... + 6 + 2, the last tile of two rows
// would not have enough sums in flight; four rows are enough.
template <class T>
void run_panel(const KernelSet<T> &set, index rows, int vectors, GemmTile<T> &tile, const T *next) noexcept {
  constexpr index kEnoughRows = 4;
  const index line = index(kCacheLine / sizeof(T)), next_lines = next ? vectors * set.lanes / line : 0;
  const index tallest = set.tile_rows[vectors - 1], least = (rows + tallest - 1) / tallest;
  const index count = rows >= kEnoughRows * next_lines ? std::max(least, next_lines) : least;
  const index height = rows / count, taller = rows % count;
  for (index i = 0, fetched = 0; i < count; i++) {
    const index step = i < taller ? height + 1 : height;
    const index left = next_lines - fetched, lines = std::min(left, left > count - i ? index(2) : index(1));
    tile.ahead = lines > 0 ? next + fetched * line : tile.b;
    tile.ahead_more = lines > 1 ? line : 0;
    fetched += lines;
    set.gemm_tile[step - 1][vectors - 1](tile);
    tile.a += step * tile.a_row;
    tile.c += step * tile.c_row;
    tile.written += step * tile.written_row;
  }
}

}  // namespace

PanelSplit::PanelSplit(index cols, int lanes, int tile_vectors) noexcept : cols_(cols), lanes_(lanes) {
  vectors_ = (cols + lanes - 1) / lanes;
  num_panels_ = (vectors_ + tile_vectors - 1) / tile_vectors;
  base_ = vectors_ / num_panels_;
  extra_ = vectors_ % num_panels_;
}

int PanelSplit::cols(index panel) const noexcept {
  const index end = begin(panel + 1);
  return int((end < cols_ ? end : cols_) - begin(panel));
}

index PanelSplit::panel_of(index column) const noexcept {
  const index vector = column / lanes_, in_larger = extra_ * (base_ + 1);  // the first `extra_` panels are larger
  return vector < in_larger ? vector / (base_ + 1) : extra_ + (vector - in_larger) / base_;
}

template <class T>
index packed_size(const KernelSet<T> &set, index depth, index cols) noexcept {
  return set.elements(depth) * PanelSplit(cols, set.lanes, set.tile_vectors).padded_cols();
}

template <class T>
void pack_forward(const KernelSet<T> &set, index in, index out, const T *weight, index ld, index out_begin,
                  index out_end, T *packed, bool past_caches) noexcept {
  const PanelSplit split(out, set.lanes, set.tile_vectors);
  for (index panel = split.panel_of(out_begin); split.begin(panel) < out_end; panel++) {
    const index first = split.begin(panel), begin = std::max(first, out_begin);
    const index cols = std::min(first + split.cols(panel), out_end) - begin;
    set.pack_transposed(in, cols, weight + begin * ld, ld, split.vectors(panel) * set.lanes,
                        packed + set.elements(in) * first + begin - first, past_caches);
  }
}

template <class T>
void pack_backward(const KernelSet<T> &set, index in, index out, const T *weight, index ld, index out_begin,
                   index out_end, T *packed, bool past_caches) noexcept {
  const PanelSplit split(in, set.lanes, set.tile_vectors);
  for (index panel = 0; panel < split.num_panels(); panel++) {
    const index begin = split.begin(panel), width = split.vectors(panel) * set.lanes;
    set.pack_rows(out_end - out_begin, split.cols(panel), weight + out_begin * ld + begin, ld, width,
                  packed + set.elements(out) * begin + set.elements(out_begin) * width, past_caches);
  }
}

template <class T>
void gemm(const KernelSet<T> &set, index rows, index depth, index cols, const T *a, index lda, const RightMatrix<T> &b,
          T *c, index ldc, TileInit init, const T *bias, const Following<T> &following) noexcept {
  const PanelSplit split(cols, set.lanes, set.tile_vectors);
  for (index k = 0; k < depth; k += kDepthBlock) {
    const index block = depth - k < kDepthBlock ? depth - k : kDepthBlock;
    const auto step_of = [&](index panel) { return b.ld ? b.ld : split.vectors(panel) * set.lanes; };
    const auto start_of = [&](index panel) {
      return b.data + (b.ld ? 1 : depth) * split.begin(panel) + k * step_of(panel);
    };
    for (index panel = 0; panel < split.num_panels(); panel++) {
      const index begin = split.begin(panel);
      GemmTile<T> tile{};
      tile.depth = tile.run = block;
      tile.a = a + k;
      tile.a_row = lda;
      tile.a_step = 1;
      tile.b = start_of(panel);
      tile.b_step = step_of(panel);
      tile.c = c + begin;
      tile.c_row = ldc;
      tile.written = (following.written ? following.written : c) + begin;
      tile.written_row = following.written ? following.written_ld : ldc;
      tile.cols = split.cols(panel);
      tile.init = k == 0 ? init : TileInit::accumulate;
      tile.bias = bias ? bias + begin : nullptr;
      const T *next = nullptr;
      if (panel + 1 == split.num_panels())
        next = k + block == depth ? following.b : nullptr;
      else if (block * tile.b_step * index(sizeof(T)) > kFirstLevel)
        next = start_of(panel + 1);
      run_panel(set, rows, split.vectors(panel), tile, next);
    }
  }
}

template <class T>
bool packs_delta(const KernelSet<T> &set, index in) noexcept {
  return set.packs_delta && in >= kLeastPackedInputs;
}

template <class T>
void gemm_params(const KernelSet<T> &set, index rows, index in, index out_begin, index out_end, const T *delta,
                 index ldd, const T *x, index ldx, T *dw, bool accumulate, const Pieces &pieces, const T *next_x,
                 T *packed_delta) noexcept {
  if (rows <= std::min(set.most_outer_products, pieces.rows) && !accumulate)
    return set.outer_products(rows, out_end - out_begin, in, delta + out_begin, ldd, x, ldx, dw + out_begin * in);
  const PanelSplit split(in, set.lanes, set.params_vectors);
  const bool packs = packed_delta && packs_delta(set, in) && std::min(rows, pieces.rows) >= kLeastPackedRows;
  const index most_rows = packs ? kPackedRows : set.params_rows,
              most_outs = packs ? kPackedColumns : out_end - out_begin;
  // Number of whole pieces in a block; 0: a block does not cross the end of a piece, as for packed rows.
  const index short_pieces = packs ? 0 : most_rows / pieces.rows;
  for (index r = 0, block; r < rows; r += block) {
    block = short_pieces ? short_pieces * pieces.rows : std::min(most_rows, pieces.rows - r % pieces.rows);
    block = std::min(block, rows - r);
    for (index o = out_begin, outs; o < out_end; o += outs) {
      outs = std::min(most_outs, out_end - o);
      const T *a = pieces.row(delta, ldd, r) + o;
      if (packs) set.pack_rows(block, outs, a, ldd, kPackedColumns, packed_delta, false);
      for (index panel = 0; panel < split.num_panels(); panel++) {
        const index begin = split.begin(panel);
        GemmTile<T> tile{};
        tile.depth = block;
        tile.a = packs ? packed_delta : a;
        tile.a_row = 1;
        tile.a_step = packs ? kPackedColumns : ldd;
        tile.b = pieces.row(x, ldx, r) + begin;
        tile.b_step = ldx;
        tile.run = std::min(block, pieces.rows);
        tile.jump = pieces.gap;
        tile.c = dw + o * in + begin;
        tile.c_row = in;
        tile.written = tile.c;
        tile.written_row = in;
        tile.cols = split.cols(panel);
        tile.init = r == 0 && !accumulate ? TileInit::zero : TileInit::accumulate;
        const T *next = next_x;
        if (panel + 1 < split.num_panels())
          next = tile.b + split.begin(panel + 1) - begin;
        else if (r + block < rows)
          next = pieces.row(x, ldx, r + block);
        run_panel(set, outs, split.vectors(panel), tile, next);
      }
    }
  }
}

#define GRADCORE_INSTANTIATE(T)                                                                                      \
  template index packed_size<T>(const KernelSet<T> &, index, index) noexcept;                                        \
  template void pack_forward<T>(const KernelSet<T> &, index, index, const T *, index, index, index, T *,             \
                                bool) noexcept;                                                                      \
  template void pack_backward<T>(const KernelSet<T> &, index, index, const T *, index, index, index, T *,            \
                                 bool) noexcept;                                                                     \
  template void gemm<T>(const KernelSet<T> &, index, index, index, const T *, index, const RightMatrix<T> &, T *,    \
                        index, TileInit, const T *, const Following<T> &) noexcept;                                  \
  template bool packs_delta<T>(const KernelSet<T> &, index) noexcept;                                                \
  template void gemm_params<T>(const KernelSet<T> &, index, index, index, index, const T *, index, const T *, index, \
                               T *, bool, const Pieces &, const T *, T *) noexcept;
GRADCORE_INSTANTIATE(float)
GRADCORE_INSTANTIATE(double)
#undef GRADCORE_INSTANTIATE

}  // namespace gradcore
