// Positional population count: for each k, how many lanes of a chunk's vectors have bit k set.
//
// Full adders on vectors count the bits of all lanes at once (Mula, Kurz, Lemire, Faster population counts using AVX2
// instructions, 2018). The counts are binary numbers, one in each bit of each lane: vector d of an array holds digit d
// of all of them. count_bits adds them over the lanes (BinaryCounts); counts() writes them as plain numbers
// (BitCounts).

namespace gradcore::GRADCORE_TARGET {

template <class T>
using Bits = typename VecTraits<T>::Int;
template <class T>
inline constexpr int kWindow = 8 * int(sizeof(T));  // bits of a lane

// ---- digits ----

// A full adder for every bit: digit + a + b = digit + 2 carry. Returns the carry.
#if GRADCORE_VECTOR_BYTES == 64
template <int kTruthTable, class V>
GRADCORE_INLINE V ternary_logic(V a, V b, V c) {
  if constexpr (sizeof(V) == 64) return V(_mm512_ternarylogic_epi32(__m512i(a), __m512i(b), __m512i(c), kTruthTable));
  if constexpr (sizeof(V) == 32) return V(_mm256_ternarylogic_epi32(__m256i(a), __m256i(b), __m256i(c), kTruthTable));
  if constexpr (sizeof(V) == 16) return V(_mm_ternarylogic_epi32(__m128i(a), __m128i(b), __m128i(c), kTruthTable));
}
template <class V>
GRADCORE_INLINE V add_bits(V &digit, V a, V b) {  // GCC 12 would make five instructions of these two
  const V carry = ternary_logic<0xe8>(digit, a, b);
  digit = ternary_logic<0x96>(digit, a, b);
  return carry;
}
#else
template <class V>
GRADCORE_INLINE V add_bits(V &digit, V a, V b) {
  const V either = a ^ b, carry = (a & b) | (either & digit);
  digit ^= either;
  return carry;
}
#endif

// Adds to the numbers in each lane those in another one, other(vector). They need one more digit: digits[kOld].
template <int kOld, class V, class Other>
GRADCORE_INLINE void add_other_lanes(V *digits, const Other &other) {
  V carry{};
#pragma GCC unroll 16
  for (int d = 0; d < kOld; d++) {
    const V own = digits[d];
    digits[d] = carry;
    carry = add_bits(digits[d], own, other(own));
  }
  digits[kOld] = carry;
}

// Adds the numbers of all lanes, which needs log2(kCount) more digits. Writes all digits; the sums are in lane 0 of
// vectors of 16 bytes.
template <class Int, int kCount, int kOld, class Quarter>
GRADCORE_INLINE void add_lanes_of_digits(const typename Part<Int, kCount>::V *digits, Quarter *sums) {
  using V = typename Part<Int, kCount>::V;
  if constexpr (sizeof(V) > 16) {
    typename Part<Int, kCount / 2>::V total[kOld + 1], half[2], carry{};
#pragma GCC unroll 16
    for (int d = 0; d < kOld; d++) {
      __builtin_memcpy(half, &digits[d], sizeof half);
      total[d] = carry;
      carry = add_bits(total[d], half[0], half[1]);
    }
    total[kOld] = carry;
    add_lanes_of_digits<Int, kCount / 2, kOld + 1>(total, sums);
  } else {
    for (int d = 0; d < kOld; d++) sums[d] = digits[d];
    if constexpr (kCount == 4) {
      add_other_lanes<kOld>(sums, [](V v) { return shuffle<2, 3, 0, 1>(v, v); });
      add_other_lanes<kOld + 1>(sums, [](V v) { return shuffle<1, 0, 3, 2>(v, v); });
    } else {
      add_other_lanes<kOld>(sums, [](V v) { return shuffle<1, 0>(v, v); });
    }
  }
}

// ---- a chunk ----

template <class T>
inline constexpr int kDigits = 8 + int(sizeof(T)) / 4;  // a chunk is at most 64 sizeof(T) vectors
template <class T>
using Digits = IVec<T>[kDigits<T>];

using ShortVec = int16_t __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
inline constexpr int kShorts = GRADCORE_VECTOR_BYTES / 2;

GRADCORE_INLINE ShortVec lane_numbers() {
  ShortVec numbers;
  for (int k = 0; k < kShorts; k++) numbers[k] = int16_t(k);
  return numbers;
}

// v += addend in the lanes k for which bit k of `lanes` is set.
GRADCORE_INLINE void add_where(ShortVec &v, int16_t addend, uint32_t lanes) {
#if GRADCORE_VECTOR_BYTES == 64
  v = ShortVec(_mm512_mask_add_epi16(__m512i(v), __mmask32(lanes), __m512i(v), __m512i(ShortVec{} + addend)));
#else
  const ShortVec own = (ShortVec{} + 1) << lane_numbers();
  v += (((ShortVec{} + int16_t(lanes)) & own) == own) & addend;
#endif
}

// A number for each bit of a lane.
template <class T>
struct BitCounts {
  ShortVec parts[kWindow<T> / kShorts];

#if GRADCORE_VECTOR_BYTES == 64
  // Number k is number k + by, modulo the window, of these.
  GRADCORE_INLINE_MEMBER BitCounts rotated(int by) const {
    constexpr int kParts = kWindow<T> / kShorts;
    const __m512i low = __m512i(parts[0]), high = __m512i(parts[kParts - 1]);
    BitCounts result;
    for (int p = 0; p < kParts; p++) {
      const ShortVec from = lane_numbers() + int16_t(by + p * kShorts);
      result.parts[p] = ShortVec(_mm512_permutex2var_epi16(low, __m512i(from), high));
    }
    return result;
  }
#endif
  GRADCORE_INLINE_MEMBER void add_to(index *totals) const {
    int16_t counts[kWindow<T>];
    __builtin_memcpy(counts, parts, sizeof counts);
    for (int k = 0; k < kWindow<T>; k++) totals[k] += counts[k];
  }
  // The sum of the numbers before `end`; a chunk's is below 2^16.
  GRADCORE_INLINE_MEMBER index sum_below(int end) const {
    IVec<double> fours{};  // sums of four numbers each, side by side
    for (int k = 0; k < kWindow<T>; k += kShorts)
      fours += IVec<double>(parts[k / kShorts] & (lane_numbers() < int16_t(end - k)));
    return index(uint64_t(fold<Sum, int64_t, kLanes<double>>(fours)) * 0x0001000100010001u >> 48);
  }
};

// The same in binary: bit k of lane 0 of digits[d] is digit d of number k.
template <class T>
struct BinaryCounts {
  static constexpr int kSumDigits = kDigits<T> + __builtin_ctz(kLanes<T>);
  using Digit = typename VecTraits<T>::UnsignedInt;
  typename Part<Bits<T>, 16 / sizeof(T)>::V digits[kSumDigits];

  // Number k of the result is number first + k of these, 0 <= first < kWindow<T>; there is none beyond the last.
  GRADCORE_INLINE_MEMBER BitCounts<T> counts(int first = 0) const {
    BitCounts<T> counts{};
    for (int k = 0; k < kWindow<T>; k += kShorts) {
#pragma GCC unroll 16
      for (int d = 0; d < kSumDigits; d++)
        add_where(counts.parts[k / kShorts], int16_t(1 << d), uint32_t(Digit(digits[d][0]) >> first >> k));
    }
    return counts;
  }
};

// Adds 4 (fours[0] + ... + fours[3]).
template <class T>
GRADCORE_INLINE void add_fours(Digits<T> &digits, const IVec<T> (&fours)[4]) {
  const IVec<T> low = add_bits(digits[2], fours[0], fours[1]), high = add_bits(digits[2], fours[2], fours[3]);
  IVec<T> carry = add_bits(digits[3], low, high);
#pragma GCC unroll 8
  for (int d = 4; d < kDigits<T>; d++) {
    const IVec<T> next = digits[d] & carry;
    digits[d] ^= carry;
    carry = next;
  }
}

// Counts the bits of bit_of(vector, its number among four) over all lanes of a chunk. Lanes beyond the ends of rows are
// zero.
template <class T, class BitOf>
GRADCORE_INLINE BinaryCounts<T> count_bits(const Block<T> &chunk, BitOf &&bit_of) {
  constexpr int W = kLanes<T>;
  Digits<T> digits;
  IVec<T> fours[4];
  int num_fours = 0;
  // Not by "= {}", for which GCC inlines a memset that takes 10 ns.
#pragma GCC unroll 16
  for (IVec<T> &digit : digits) digit = IVec<T>{};
  // A single loop over all rows; with one loop per row, GCC loads and stores all digits in every row.
  const T *row = chunk.x;
  index c = 0;
  for (index left = chunk.rows * ((chunk.cols + 4 * W - 1) / (4 * W)); left > 0; left--) {
    IVec<T> bits[4];
    const T *x = row + c;
    const index cols = chunk.cols - c;
    if (cols >= 4 * W) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) bits[v] = bit_of(load(x + v * W), v);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const index n = cols - v * W;
        bits[v] = n <= 0 ? IVec<T>{} : bit_of(n < W ? load_partial(x + v * W, int(n)) : load(x + v * W), v);
      }
    }
    const IVec<T> low = add_bits(digits[0], bits[0], bits[1]), high = add_bits(digits[0], bits[2], bits[3]);
    fours[num_fours++] = add_bits(digits[1], low, high);
    if (num_fours == 4) {
      add_fours<T>(digits, fours);
      num_fours = 0;
    }
    c += 4 * W;
    if (c >= chunk.cols) c = 0, row += chunk.ld;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    if (i >= num_fours) fours[i] = IVec<T>{};
  add_fours<T>(digits, fours);
  BinaryCounts<T> counts;
  add_lanes_of_digits<Bits<T>, W, kDigits<T>>(digits, counts.digits);
  return counts;
}

}  // namespace gradcore::GRADCORE_TARGET
