// Products of pairs of bfloat16: AVX512-BF16's vdpbf16ps adds both products of a pair to a float, twice the terms of a
// float product in the same time. An operand is a matrix of 32-bit elements, each two neighbouring terms of the sum,
// the first in the lower half; where their number is odd the last is zero. The tiles are those of gemm-inl.h.
// Numerics  operands are rounded to nearest even, products are exact, each addition is rounded; subnormal numbers are
//           taken and left as zero, whatever the thread's floating-point mode.

namespace gradcore::GRADCORE_TARGET {

struct PairTerms {
  static constexpr bool kHalves = false;  // these and taller tiles would be 35 kB more, for widths that gain least
  static constexpr int kMostRows = 6;

  // Bits, never arithmetic: what looks like a signalling NaN must stay as it is.
  GRADCORE_INLINE Vec<float> splat(const float &a) {
    int32_t bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return Vec<float>(_mm512_castsi512_ps(_mm512_set1_epi32(bits)));
  }
  GRADCORE_INLINE Vec<float> add(Vec<float> a, Vec<float> b, Vec<float> sum) {
    return Vec<float>(_mm512_dpbf16_ps(__m512(sum), (__m512bh)(a), (__m512bh)(b)));
  }
};

// The first n lanes, those that exist, without a branch.
GRADCORE_INLINE int lanes_of(index n) { return n < 0 ? 0 : n < kLanes<float> ? int(n) : kLanes<float>; }
GRADCORE_INLINE Vec<float> load_first(const float *p, index n) { return load_partial(p, lanes_of(n)); }
GRADCORE_INLINE void store_first(float *p, Vec<float> v, index n) { store_partial(p, v, lanes_of(n)); }

// Neighbours within a row: n of them, in (n + 1) / 2 elements.
GRADCORE_INLINE Vec<float> pairs_along_row(const float *x, index n) {
  const Vec<float> low = load_first(x, n), high = load_first(x + kLanes<float>, n - kLanes<float>);
  return Vec<float>((__m512)_mm512_cvtne2ps_pbh(__m512(high), __m512(low)));
}

// Neighbours within n columns: x[j] and x[j + ld], or 0 where there is no second row.
GRADCORE_INLINE Vec<float> pairs_along_columns(const float *x, index ld, bool second, index n) {
  const Vec<float> first = load_first(x, n), next = load_first(x + ld, second ? n : 0);
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(__m512(next), __m512(first));
  alignas(64) static constexpr int16_t kInterleaved[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return Vec<float>(_mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved), halves)));
}

void round_rows_to_pairs(index rows, index cols, const float *x, index ldx, float *to, index ldto) {
  for (index r = 0; r < rows; r++)
    for (index c = 0; c < cols; c += 2 * kLanes<float>)
      store_first(to + r * ldto + c / 2, pairs_along_row(x + r * ldx + c, cols - c), (cols - c + 1) / 2);
}

void round_columns_to_pairs(index rows, index cols, const float *x, index ldx, float *to, index ldto) {
  for (index r = 0; r < rows; r += 2)
    for (index c = 0; c < cols; c += kLanes<float>)
      store_first(to + r / 2 * ldto + c, pairs_along_columns(x + r * ldx + c, ldx, r + 1 < rows, cols - c), cols - c);
}

GRADCORE_INLINE void put_pairs(float *p, Vec<float> v, bool past_caches) { past_caches ? stream(p, v) : store(p, v); }

void pack_rows_to_pairs(index depth, index cols, const float *src, index ld, index width, float *panel,
                        bool past_caches) {
  for (index k = 0; k < depth; k += 2, panel += width)
    for (index j = 0; j < width; j += kLanes<float>)
      put_pairs(panel + j, pairs_along_columns(src + k * ld + j, ld, k + 1 < depth, cols - j), past_caches);
  if (past_caches) stream_fence();
}

// The transposed block of `rows`: `count` of them, `width` apart in a panel. Out of line: GCC would make a copy of all
// that comes before for each way of writing.
__attribute__((noinline)) void put_transposed(Vec<float> *rows, int count, float *panel, index width,
                                              bool past_caches) {
  transpose_stages<float, kLanes<float> / 2>(rows);
  for (int i = 0; i < count; i++) put_pairs(panel + i * width, rows[i], past_caches);
}

void pack_transposed_to_pairs(index depth, index cols, const float *src, index ld, index width, float *panel,
                              bool past_caches) {
  constexpr int W = kLanes<float>;
  const index elements = (depth + 1) / 2;
  for (index j = 0; j < width; j += W) {
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
  set.terms = 2;
  set.pack_rows = pack_rows_to_pairs;
  set.pack_transposed = pack_transposed_to_pairs;
  set.round_rows = round_rows_to_pairs;
  set.round_columns = round_columns_to_pairs;
  return set;
}

extern const ProductKernels<float> kProducts;
constexpr ProductKernels<float> kProducts = pair_products();

}  // namespace gradcore::GRADCORE_TARGET
