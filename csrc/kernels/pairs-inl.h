// Products of pairs of bfloat16: AVX512-BF16's vdpbf16ps adds both products of a pair to a float, twice the terms of a
// float product in the same time. An operand is a matrix of 32-bit elements. Each holds two neighbouring terms of the
// sum, the first in the lower half; if their number is odd, the last one is zero. The tiles are those of gemm-inl.h.
// Numerics  operands are rounded to nearest even, products are exact, each addition is rounded; subnormal operands and
//           results are zero, whatever the thread's floating-point mode.

namespace gradcore::GRADCORE_TARGET {

struct PairTerms {
  static constexpr bool kHalves = false;  // halves and taller tiles would add 35 kB, for widths that gain least
  static constexpr int kMostRows = 6;

  // Copies bits without arithmetic, because a pair that looks like a signalling NaN must not change.
  GRADCORE_INLINE Vec<float> splat(const float &a) {
    int32_t bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return Vec<float>(_mm512_castsi512_ps(_mm512_set1_epi32(bits)));
  }
  GRADCORE_INLINE Vec<float> add(Vec<float> a, Vec<float> b, Vec<float> sum) {
    return Vec<float>(_mm512_dpbf16_ps(__m512(sum), (__m512bh)(a), (__m512bh)(b)));
  }
};

// The first n lanes, at most as many as a vector has, without a branch.
GRADCORE_INLINE int lanes_of(index n) { return n < 0 ? 0 : n < kLanes<float> ? int(n) : kLanes<float>; }
GRADCORE_INLINE Vec<float> load_first(const float *p, index n) { return load_partial(p, lanes_of(n)); }
GRADCORE_INLINE void store_first(float *p, Vec<float> v, index n) { store_partial(p, v, lanes_of(n)); }

// Pairs of neighbours within a row: n terms in (n + 1) / 2 elements.
GRADCORE_INLINE Vec<float> pairs_along_row(const float *x, index n) {
  const Vec<float> low = load_first(x, n), high = load_first(x + kLanes<float>, n - kLanes<float>);
  return Vec<float>((__m512)_mm512_cvtne2ps_pbh(__m512(high), __m512(low)));
}

// Pairs of the terms of two rows of 32 columns, for the first or the last 16 columns.
template <int kFirst>
GRADCORE_INLINE Vec<float> pairs_of_rows(Vec<float> first, Vec<float> second) {
  const __m512i even = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(__m512i(first), kFirst / 16));
  const __m512i odd = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(__m512i(second), kFirst / 16));
  return Vec<float>(_mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
}

void round_to_pairs(index rows, index cols, const float *x, index ldx, float *by_rows, index ld_rows, float *by_columns,
                    index ld_columns) {
  constexpr int W = kLanes<float>;
  for (index r = 0; r < rows; r += 2) {
    const bool second = r + 1 < rows;
    for (index c = 0; c < cols; c += 2 * W) {
      const index n = cols - c;
      const float *row = x + r * ldx + c;
      const Vec<float> upper = pairs_along_row(row, n), lower = pairs_along_row(row + ldx, second ? n : 0);
      if (by_rows) {
        float *to = by_rows + r * ld_rows + c / 2;
        store_first(to, upper, (n + 1) / 2);
        if (second) store_first(to + ld_rows, lower, (n + 1) / 2);
      }
      if (by_columns) {
        float *to = by_columns + r / 2 * ld_columns + c;
        store_first(to, pairs_of_rows<0>(upper, lower), n);
        store_first(to + W, pairs_of_rows<W>(upper, lower), n - W);
      }
    }
  }
}

GRADCORE_INLINE void put_pairs(float *p, Vec<float> v, bool past_caches) { past_caches ? stream(p, v) : store(p, v); }

void pack_rows_to_pairs(index depth, index cols, const float *src, index ld, index width, float *panel,
                        bool past_caches) {
  constexpr int W = kLanes<float>;
  for (index k = 0; k < depth; k += 2, panel += width) {
    for (index j = 0; j < width; j += 2 * W) {
      const float *row = src + k * ld + j;
      const Vec<float> upper = pairs_along_row(row, cols - j);
      const Vec<float> lower = pairs_along_row(row + ld, k + 1 < depth ? cols - j : 0);
      put_pairs(panel + j, pairs_of_rows<0>(upper, lower), past_caches);
      if (j + W < width) put_pairs(panel + j + W, pairs_of_rows<W>(upper, lower), past_caches);
    }
  }
  if (past_caches) stream_fence();
}

// Transposes the block `rows` and writes `count` rows of the result, `width` apart in a panel. Not inlined, because GCC
// would duplicate all preceding code for each way of writing.
__attribute__((noinline)) void put_transposed(Vec<float> *rows, int count, float *panel, index width,
                                              bool past_caches) {
  transpose_stages<float, kLanes<float> / 2>(rows);
  for (int i = 0; i < count; i++) put_pairs(panel + i * width, rows[i], past_caches);
}

void pack_transposed_to_pairs(index depth, index cols, const float *src, index ld, index width, float *panel,
                              bool past_caches) {
  constexpr int W = kLanes<float>;
  const index elements = (depth + 1) / 2;
  for (index j = 0; j < cols; j += W) {
    for (index k = 0; k < elements; k += W) {
      Vec<float> rows[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++)
        rows[i] = pairs_along_row(src + (j + i) * ld + 2 * k, j + i < cols ? depth - 2 * k : 0);
      put_transposed(rows, lanes_of(elements - k), panel + k * width + j, width, past_caches);
    }
  }
  if (past_caches) stream_fence();
}

constexpr ProductKernels<float> pair_products() {
  ProductKernels<float> set{};
  fill_gemm<float, PairTerms>(set);
  set.pairs = 1;
  set.pack_rows = pack_rows_to_pairs;
  set.pack_transposed = pack_transposed_to_pairs;
  set.round = round_to_pairs;
  return set;
}

extern const ProductKernels<float> kProducts;
constexpr ProductKernels<float> kProducts = pair_products();

}  // namespace gradcore::GRADCORE_TARGET
