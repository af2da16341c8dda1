// Products: the register tile and the packing of weights into panels. The loops around the tile
// (blocking, order, threads) are ops/gemm.cpp.
//
//   C[i, j] = init + sum_k A[i, k] * B[k, j]        k ascending, one accumulator per sum  (G.1)
//
// A tile of Rows x Vectors accumulators stays in registers for the whole sum: 6 x 4 vectors on targets with 32
// registers, 4 x 3 with 16. Each step of k takes Vectors loads of B and Rows broadcasts of A for Rows * Vectors FMAs,
// so loads never limit full tiles. On Zen 5 with AVX-512, 6 x 4 runs at 1.00 of the FMA peak, 4 x 4 and 8 x 3 at 0.97
// (bench/bench_kernels.cpp).
//
// A weight gradient reads both operands in place. With 16 registers it uses tiles of 6 x 2 and blocks of 128 rows, so
// that the panel of x and the lines of delta that a tile reads fit the first-level cache together (Zen 3: 1.1 times the
// speed of 4 x 3; AVX2 on Zen 4: gradients of w256 1.03 times the speed with blocks of 256). For wide layers delta is
// packed (w1024: 1.08; bench/experiments.md, AVX2).
//
// During its sum, a tile prefetches the lines that will be written next, those of C or others, so that stores do not
// wait (not for a single row, where this costs more than it saves). At each step of k it prefetches one or two lines of
// the data that follows.
//
// If at most half of the last vector's columns exist, AVX-512 uses half a vector: Zen 4 executes 512 bits in two steps,
// so 100 columns cost 104 lanes instead of 112 (bench/experiments.md: b128 w100 d50 1.05 times as fast, w50 1.13).
//
// All three products of a dense layer use this kernel, with different strides:
//   forward        A = input        [n, in]        B = weight^T in panels   a_row = ld, a_step = 1
//   backward_data  A = delta        [n, out]       B = weight in panels     a_row = ld, a_step = 1
//   backward_params A = delta^T     [out, n]       B = input [n, in]        a_row = 1,  a_step = ld
// Numerics  relative error of a sum <= depth * eps * sum |A||B| / |C|; bound: tests/tolerances.py "dense".

namespace gradcore::GRADCORE_TARGET {

// The last vector of a tile's rows: whole, or its lower half only.
template <class T, bool kHalf>
struct LastVector {
  using V = Vec<T>;
  GRADCORE_INLINE V of(Vec<T> v) { return v; }
  GRADCORE_INLINE V load(const T *p) { return GRADCORE_TARGET::load(p); }
  GRADCORE_INLINE Vec<T> whole(V v) { return v; }
};
#if GRADCORE_VECTOR_BYTES == 64
template <class T>
struct LastVector<T, true> {
  using V = HalfVec<T>;
  GRADCORE_INLINE V of(Vec<T> v) { return lower_half(v); }
  GRADCORE_INLINE V load(const T *p) { return load_half(p); }
  GRADCORE_INLINE Vec<T> whole(V v) { return with_lower_half(v); }
};
#endif

// With AVX-512, one instruction serves both cases; without the branch, kernels are 12 kB smaller.
template <class T>
GRADCORE_INLINE Vec<T> load_last(const T *p, int lanes, bool whole) {
  return GRADCORE_VECTOR_BYTES < 64 && whole ? load(p) : load_partial(p, lanes);
}

// Operands with one term of a sum per element; those with two are in pairs-inl.h.
template <class T>
struct SingleTerms {
  static constexpr bool kHalves = GRADCORE_VECTOR_BYTES == 64;
  static constexpr int kMostRows = kMaxTileRows;
  GRADCORE_INLINE Vec<T> splat(T a) { return GRADCORE_TARGET::splat<T>(a); }
  template <class V>
  GRADCORE_INLINE V add(V a, V b, V sum) {
    return fma(a, b, sum);
  }
};

template <class T, class Terms, int Rows, int Vectors, bool kHalf>
GRADCORE_INLINE void sum_tile(const GemmTile<T> &tile) {
  using Last = LastVector<T, kHalf>;
  constexpr int W = kLanes<T>, kWhole = Vectors - 1, kFirst = kWhole > 0 ? kWhole : 1;
  Vec<T> acc[Rows][kFirst];
  typename Last::V last_acc[Rows];
  const int tail = tile.cols - kWhole * W;  // valid lanes of the last vector, 1..W
  const bool ends_whole = !kHalf && tail == W;
  constexpr bool kTwoLines = Vectors * sizeof(Vec<T>) >= 2 * kCacheLine;

  if (tile.init == TileInit::accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const T *c = tile.c + i * tile.c_row, *last = c + kWhole * W;
#pragma GCC unroll 4
      for (int v = 0; v < kWhole; v++) acc[i][v] = load(c + v * W);
      last_acc[i] = Last::of(load_last<T>(last, tail, ends_whole));
    }
  } else {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      const Vec<T> start = tile.init == TileInit::bias ? load(tile.bias + v * W) : Vec<T>{};
#pragma GCC unroll 8
      for (int i = 0; i < Rows; i++) {
        if (v < kWhole)
          acc[i][v] = start;
        else
          last_acc[i] = Last::of(start);
        if (Rows > 1) prefetch_to_write(tile.written + i * tile.written_row + v * W);
      }
    }
  }

  const T *a = tile.a, *b = tile.b, *ahead = tile.ahead;
  const index a_row = tile.a_row, a_step = tile.a_step, b_step = tile.b_step, more = tile.ahead_more;
  // Two counters, because with one that counts to the end of a piece, GCC keeps a sum of the baseline's tile in memory
  // (0.86 of the speed).
  index run = tile.run;
  for (index k = tile.depth; k > 0; k--, a += a_step, b += b_step, ahead += b_step) {
    if (Rows > 1) prefetch(ahead);
    if (Rows > 1 && kTwoLines) prefetch(ahead + more);
    Vec<T> bk[kFirst];
#pragma GCC unroll 4
    for (int v = 0; v < kWhole; v++) bk[v] = load(b + v * W);
    const typename Last::V last_b = Last::load(b + kWhole * W);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const Vec<T> aik = Terms::splat(a[i * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < kWhole; v++) acc[i][v] = Terms::add(aik, bk[v], acc[i][v]);
      last_acc[i] = Terms::add(Last::of(aik), last_b, last_acc[i]);
    }
    if (__builtin_expect(--run == 0, 0)) {
      a += tile.jump, b += tile.jump, ahead += tile.jump;
      run = tile.run;
    }
  }

  if (tile.init == TileInit::multiply) {
#pragma GCC unroll 8
    for (int i = 0; i < Rows; i++) {
      const T *c = tile.c + i * tile.c_row, *last = c + kWhole * W;
#pragma GCC unroll 4
      for (int v = 0; v < kWhole; v++) acc[i][v] *= load(c + v * W);
      last_acc[i] *= Last::of(load_last<T>(last, tail, ends_whole));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) {
    T *c = tile.c + i * tile.c_row, *last = c + kWhole * W;
#pragma GCC unroll 4
    for (int v = 0; v < kWhole; v++) store(c + v * W, acc[i][v]);
    if (ends_whole)
      store(last, Last::whole(last_acc[i]));
    else
      store_partial(last, Last::whole(last_acc[i]), tail);
  }
}

template <class T, class Terms, int Rows, int Vectors>
void gemm_tile(const GemmTile<T> &tile) {
  constexpr int W = kLanes<T>;
  if (Terms::kHalves && 2 * (tile.cols - (Vectors - 1) * W) <= W)
    sum_tile<T, Terms, Rows, Vectors, Terms::kHalves>(tile);
  else
    sum_tile<T, Terms, Rows, Vectors, false>(tile);
}

// The weight gradient of very few rows, for which sums of tiles would be too short. C is written line by line, at the
// rate at which lines can be written (one row of w64: 1.1 times as fast as tiles with AVX-512, 1.55 with AVX2, 1.5 on
// the baseline; four rows 1.0, 1.25 and 1.2; six 0.99, 1.08 and 1.15; eight 0.96, 1.02 and 1.07).
template <class T, class Terms, int Depth>
GRADCORE_INLINE void write_outer_products(index rows, index cols, const T *a, index lda, const T *b, index ldb, T *c) {
  constexpr int W = kLanes<T>, kVectors = sizeof(Vec<T>) < kCacheLine ? 2 : 1;
  for (index i = 0; i < rows; i++, c += cols) {
    Vec<T> ai[Depth];
#pragma GCC unroll 8
    for (int k = 0; k < Depth; k++) ai[k] = Terms::splat(a[k * lda + i]);
    const auto sum_at = [&](index j) {
      Vec<T> sum{};
#pragma GCC unroll 8
      for (int k = 0; k < Depth; k++) sum = Terms::add(ai[k], load(b + k * ldb + j), sum);
      return sum;
    };
    index j = 0;
    for (; j + kVectors * W <= cols; j += kVectors * W) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) store(c + j + v * W, sum_at(j + v * W));
    }
    for (; j + W <= cols; j += W) store(c + j, sum_at(j));
    if (j < cols) store_partial(c + j, sum_at(j), int(cols - j));
  }
}

// The largest number of rows for which this is faster than tiles; larger for short vectors.
inline constexpr int kMostOuterProducts = GRADCORE_VECTOR_BYTES < 64 ? 6 : 4;

template <class T, class Terms, int Depth = kMostOuterProducts>
void outer_products(index depth, index rows, index cols, const T *a, index lda, const T *b, index ldb, T *c) {
  if (depth == Depth) return write_outer_products<T, Terms, Depth>(rows, cols, a, lda, b, ldb, c);
  if constexpr (Depth > 1) outer_products<T, Terms, Depth - 1>(depth, rows, cols, a, lda, b, ldb, c);
}

template <class T, bool kStream>
GRADCORE_INLINE void put(T *p, Vec<T> v) {
  if constexpr (kStream)
    stream(p, v);
  else
    store(p, v);
}

template <class T, bool kStream>
GRADCORE_INLINE void pack_rows_by(index depth, index cols, const T *src, index ld, index width, T *panel) {
  constexpr int W = kLanes<T>;
  for (index k = 0; k < depth; k++, src += ld, panel += width) {
    index j = 0;
    for (; j + W <= cols; j += W) put<T, kStream>(panel + j, load(src + j));
    if (j < cols) {
      put<T, kStream>(panel + j, load_partial(src + j, int(cols - j)));
      j += W;
    }
    for (; j < width; j += W) put<T, kStream>(panel + j, Vec<T>{});
  }
}

// ---- transposition in registers: log2(W) stages of exchanges between rows H apart ----

template <int... I>
struct Lanes {};
template <int N, int... I>
struct MakeLanes : MakeLanes<N - 1, N - 1, I...> {};
template <int... I>
struct MakeLanes<0, I...> {
  using Type = Lanes<I...>;
};

// Swaps the odd blocks of H lanes of row a with the even ones of row b: one stage of a transposition.
template <int H, class V, int... I>
GRADCORE_INLINE void exchange(V &a, V &b, Lanes<I...>) {
  constexpr int W = sizeof...(I);
  const V low = shuffle<((I & H) ? I - H + W : I)...>(a, b);
  b = shuffle<((I & H) ? I + W : I + H)...>(a, b);
  a = low;
}

template <class T, int H>
GRADCORE_INLINE void transpose_stages(Vec<T> *rows) {
  constexpr int W = kLanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
    if ((i & H) == 0) exchange<H>(rows[i], rows[i + H], typename MakeLanes<W>::Type{});
  if constexpr (H > 1) transpose_stages<T, H / 2>(rows);
}

// Transposes a block of W rows, of which `cols` exist, and W columns, of which `depth` exist. Not inlined: as a part of
// a loop, GCC keeps the addresses of all rows on the stack.
template <class T, bool kStream>
__attribute__((noinline)) void pack_transposed_block(int depth, index cols, const T *src, index ld, index width,
                                                     T *panel) {
  constexpr int W = kLanes<T>;
  Vec<T> rows[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++, src += ld) {
    const int lanes = i < cols ? depth : 0;
    rows[i] = load_last(src, lanes, lanes == W);
  }
  transpose_stages<T, W / 2>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++, panel += width)
    if (i < depth) put<T, kStream>(panel, rows[i]);
}

// Writes past the caches must fill a line at once. If a vector is shorter than a line, blocks follow the panel's rows
// (AVX2: step of b256 w256 d20 1.05 times as fast; bench/experiments.md, AVX2); otherwise, the rows of the source.
template <class T, bool kStream>
GRADCORE_INLINE void pack_transposed_by(index depth, index cols, const T *src, index ld, index width, T *panel) {
  constexpr int W = kLanes<T>;
  constexpr bool kAlongRows = kStream && sizeof(Vec<T>) < kCacheLine;
  const index outer = kAlongRows ? depth : cols, inner = kAlongRows ? cols : depth;
  for (index m = 0; m < outer; m += W) {
    for (index n = 0; n < inner; n += W) {
      const index j = kAlongRows ? n : m, k = kAlongRows ? m : n;
      pack_transposed_block<T, kStream>(depth - k < W ? int(depth - k) : W, cols - j, src + j * ld + k, ld, width,
                                        panel + k * width + j);
    }
  }
}

template <class T>
void pack_rows(index depth, index cols, const T *src, index ld, index width, T *panel, bool past_caches) {
  if (!past_caches) return pack_rows_by<T, false>(depth, cols, src, ld, width, panel);
  pack_rows_by<T, true>(depth, cols, src, ld, width, panel);
  stream_fence();
}
template <class T>
void pack_transposed(index depth, index cols, const T *src, index ld, index width, T *panel, bool past_caches) {
  if (!past_caches) return pack_transposed_by<T, false>(depth, cols, src, ld, width, panel);
  pack_transposed_by<T, true>(depth, cols, src, ld, width, panel);
  stream_fence();
}

// Accumulators leave registers for B and the broadcast of A: 24 of 32, 12 of 16.
constexpr int tile_rows(int vectors, int most) {
  return GRADCORE_ACCUMULATORS / vectors < most ? GRADCORE_ACCUMULATORS / vectors : most;
}

template <class T, class Terms, int Vectors, int Rows>
constexpr void fill_gemm_tiles(ProductKernels<T> &set) {
  set.gemm_tile[Rows - 1][Vectors - 1] = gemm_tile<T, Terms, Rows, Vectors>;
  if constexpr (Rows > 1) fill_gemm_tiles<T, Terms, Vectors, Rows - 1>(set);
}

template <class T, class Terms, int Vectors = GRADCORE_TILE_VECTORS>
constexpr void fill_gemm(ProductKernels<T> &set) {
  constexpr int kRows = tile_rows(Vectors, Terms::kMostRows);
  set.tile_vectors = GRADCORE_TILE_VECTORS;
  set.params_vectors = GRADCORE_PARAMS_VECTORS;
  set.outer_products = outer_products<T, Terms>;
  set.most_outer_products = kMostOuterProducts;
  set.packs_delta = GRADCORE_ACCUMULATORS < 24;
  set.params_rows = set.packs_delta ? 128 : 256;
  set.tile_rows[Vectors - 1] = kRows;
  fill_gemm_tiles<T, Terms, Vectors, kRows>(set);
  if constexpr (Vectors > 1) fill_gemm<T, Terms, Vectors - 1>(set);
}

template <class T>
constexpr void fill_products(ProductKernels<T> &set) {
  fill_gemm<T, SingleTerms<T>>(set);
  set.pack_rows = pack_rows<T>;
  set.pack_transposed = pack_transposed<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
