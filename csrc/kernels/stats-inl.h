// Statistics of a block: sums, counts and the exponent histogram of a recorded pass.
//
// A chunk is scanned once for its sums, its largest magnitude and the counts that are seldom zero; the
// others (subnormal and non-finite elements, those beyond a format's range) are counted in further
// passes over the chunk, taken only when the first shows that there are any.
// For the histogram the scan also leaves each element's exponent field as a byte (double: two). Eight exponents
// at a time are then counted, from the largest down, a full vector of bytes at a compare, until every element is
// accounted for: two rounds do for most chunks (the smallest of 4096 normally distributed values is about 2^-12 of
// the largest). The first round counts zeros and subnormals with the same compares.
// All limits are compared on the bits of |x|, which order as the numbers do: subnormals are told from
// zeros whatever the thread's floating-point mode.
//
// Numerics  counts and max_abs are exact. Sums: partial sums of at most 128 terms a lane in T, relative
//           error <= 140 u of the sum of absolute terms (float32 typically 1e-7). Where the mean outweighs
//           the spread, a chunk's sums are taken about its mean, so that the variance keeps its digits.
//           Chunks whose squares leave float32 are summed in double; double data may overflow.
// Cost      float32 on a Zen 3 core with AVX2: 0.12 ns an element, 0.33 with the histogram
//           (bench/bench_kernels.cpp: block_stats).

namespace gradcore::GRADCORE_TARGET {

// Nonzero |x| up to kFlushed rounds to zero (half the smallest subnormal: the tie goes to the even
// zero), and |x| above kInRange to infinity or NaN: fp16, bf16, fp8 e4m3, fp8 e5m2 (OCP). The limit
// lies in the middle between the largest value and its successor; that tie goes up, but in e4m3 to
// 448, which is even. kInRange is the last number of T that stays.
inline constexpr int kFormats = 4, kFp16 = 0, kBf16 = 1, kE4m3 = 2, kE5m2 = 3;
inline constexpr double kFlushed[kFormats] = {0x1p-25, 0x1p-134, 0x1p-10, 0x1p-17};
inline constexpr double kOverflowTie[kFormats] = {65520.0, 0x1.ffp127, 464.0, 61440.0};
inline constexpr bool kTieOverflows[kFormats] = {true, true, false, true};
inline constexpr int kFlushedExponent[kFormats] = {-25, -134, -10, -17};  // of kFlushed

template <class T>
struct Exponents;
template <>
struct Exponents<float> {
  using Field = unsigned char;
};
template <>
struct Exponents<double> {
  using Field = unsigned short;
};
template <class T>
using Field = typename Exponents<T>::Field;

// A full vector of fields, and as many fields as T has lanes.
template <class T>
struct FieldVectors;
template <>
struct FieldVectors<float> {
  using Full = unsigned char __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using OneEach = unsigned char __attribute__((vector_size(GRADCORE_VECTOR_BYTES / 4)));
};
template <>
struct FieldVectors<double> {
  using Full = unsigned short __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using OneEach = unsigned short __attribute__((vector_size(GRADCORE_VECTOR_BYTES / 4)));
};

template <class T>
using Bits = typename VecTraits<T>::Int;
template <class T>
inline constexpr int kFieldBits = 8 * int(sizeof(Field<T>));
template <class T>
inline constexpr Bits<T> kInfinityBits = Bits<T>(2 * VecTraits<T>::kExponentBias + 1) << VecTraits<T>::kMantissaBits;
template <class T>
inline constexpr Bits<T> kSmallestNormalBits = Bits<T>(1) << VecTraits<T>::kMantissaBits;

GRADCORE_INLINE int32_t bits_of(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
GRADCORE_INLINE int64_t bits_of(double x) {
  int64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
template <class T>
GRADCORE_INLINE Bits<T> magnitude_bits(T x) {
  return bits_of(x) & ~kSignBit<T>;
}

// ---- the first pass ----

template <class T, bool kHistogram>
struct StatsScan {
  Vec<T> sum[2] = {}, squares[2] = {}, largest = {};
  IVec<T> nonzero = {}, above_e4m3 = {}, above_e5m2 = {};  // without a histogram: |x| above what the formats flush
  IVec<T> least_mantissa = splat_int<T>(kSmallestNormalBits<T> - 1);  // with one: 0 where powers of two or zeros are

  GRADCORE_INLINE_MEMBER IVec<T> add(Vec<T> value, int k) {
    const Vec<T> magnitude = abs<T>(value);
    const IVec<T> bits = to_bits(magnitude);
    sum[k] += value;
    squares[k] = fma(value, value, squares[k]);
    largest = max(magnitude, largest);
    if constexpr (kHistogram) {
      least_mantissa = min(bits & splat_int<T>(kSmallestNormalBits<T> - 1), least_mantissa);
    } else {
      tally_less(nonzero, IVec<T>{}, bits);
      tally_less(above_e4m3, splat_int<T>(bits_of(T(kFlushed[kE4m3]))), bits);
      tally_less(above_e5m2, splat_int<T>(bits_of(T(kFlushed[kE5m2]))), bits);
    }
    return bits;
  }
};

// The fields of four vectors, interleaved: a histogram does not mind the order.
template <class T>
GRADCORE_INLINE void store_fields(const IVec<T> (&bits)[4], Field<T> *fields) {
  IVec<T> word = bits[3] >> VecTraits<T>::kMantissaBits;
#pragma GCC unroll 3
  for (int v = 2; v >= 0; v--) word = (word << kFieldBits<T>) | (bits[v] >> VecTraits<T>::kMantissaBits);
  __builtin_memcpy(fields, &word, sizeof word);
}
template <class T>
GRADCORE_INLINE void store_fields(IVec<T> bits, Field<T> *fields) {
  const auto narrow = __builtin_convertvector(bits >> VecTraits<T>::kMantissaBits, typename FieldVectors<T>::OneEach);
  __builtin_memcpy(fields, &narrow, sizeof narrow);
}

// Returns the end of the fields written: none without a histogram.
template <class T, bool kHistogram>
GRADCORE_INLINE Field<T> *scan_block(const Block<T> &chunk, StatsScan<T, kHistogram> &scan, Field<T> *fields) {
  constexpr int W = kLanes<T>;
  for (index r = 0; r < chunk.rows; r++) {
    const T *row = chunk.x + r * chunk.ld;
    index c = 0;
    for (; c + 4 * W <= chunk.cols; c += 4 * W) {
      IVec<T> bits[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) bits[v] = scan.add(load(row + c + v * W), v % 2);
      if (kHistogram) store_fields<T>(bits, fields), fields += 4 * W;
    }
    for (; c < chunk.cols; c += W) {
      const index left = chunk.cols - c;
      const IVec<T> bits = scan.add(left >= W ? load(row + c) : load_partial(row + c, int(left)), 0);
      if (kHistogram) store_fields<T>(bits, fields), fields += W;
    }
  }
  return fields;
}

// ---- further passes ----

template <class T, int kLimits>
struct CountAbove {
  IVec<T> limit[kLimits], count[kLimits] = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes) {
    const IVec<T> bits = to_bits(abs<T>(lanes.get(x)));
    for (int k = 0; k < kLimits; k++) tally_less(count[k], limit[k], bits);
  }
};

// counts[k] = elements whose |x| has bits above limits[k] >= 0. NaN counts as above infinity.
template <class T, int kLimits>
void count_above(const Block<T> &chunk, const Bits<T> (&limits)[kLimits], index (&counts)[kLimits]) {
  CountAbove<T, kLimits> op;
  for (int k = 0; k < kLimits; k++) op.limit[k] = splat_int<T>(limits[k]);
  for_block_vectors(chunk, op);
  for (int k = 0; k < kLimits; k++) counts[k] = add_lanes<T>(op.count[k]);
}

template <class T>
bool has_non_finite(const Block<T> &chunk) {
  const Bits<T> limits[] = {kInfinityBits<T> - 1};
  index counts[1];
  count_above(chunk, limits, counts);
  return counts[0] > 0;
}

// What a chunk of `nonzero` nonzero elements adds to the counts of the smallest numbers, without a histogram.
template <class T>
void add_tiny(const Block<T> &chunk, index nonzero, StatsSums *to) {
  const Bits<T> limits[] = {bits_of(T(kFlushed[kFp16])), bits_of(T(kFlushed[kBf16])), kSmallestNormalBits<T> - 1};
  index counts[3];
  count_above(chunk, limits, counts);
  to->flushed[kFp16] += nonzero - counts[0];
  to->flushed[kBf16] += nonzero - counts[1];
  to->subnormals += nonzero - counts[2];
}

template <class T>
void add_overflows(const Block<T> &chunk, StatsSums *to) {
  Bits<T> limits[kFormats];
  for (int f = 0; f < kFormats; f++) limits[f] = bits_of(T(kOverflowTie[f])) - kTieOverflows[f];
  index counts[kFormats];
  count_above(chunk, limits, counts);
  for (int f = 0; f < kFormats; f++) to->overflowed[f] += counts[f];
}

template <class T>
struct CountWholePowers {
  IVec<T> mantissas = {}, nonzero = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes) {
    const IVec<T> bits = to_bits(abs<T>(lanes.get(x)));
    tally_less(nonzero, IVec<T>{}, bits);
    tally_less(mantissas, IVec<T>{}, bits & splat_int<T>(kSmallestNormalBits<T> - 1));
  }
};

// Normal numbers that are just what a format flushes, a power of two: the histogram tells those below.
template <class T>
void add_flush_limits(const Block<T> &chunk, StatsSums *to) {
  for (int f = 0; f < kFormats; f++) {
    const Bits<T> limit = bits_of(T(kFlushed[f]));
    if (limit < kSmallestNormalBits<T>) continue;
    const Bits<T> limits[] = {limit - 1, limit};
    index counts[2];
    count_above(chunk, limits, counts);
    to->flushed[f] += counts[0] - counts[1];
  }
}

inline constexpr int kFieldsAtOnce = 8;
inline constexpr int kMostRounds = 4;

// The sum of a vector of counts, which may reach 4096.
template <class T>
GRADCORE_INLINE index sum_counts(const typename FieldVectors<T>::Full &count) {
  constexpr uint64_t kEven = sizeof(Field<T>) == 1 ? 0x00ff00ff00ff00ff : ~uint64_t(0);
  uint64_t words[sizeof(count) / 8], sums = 0;  // of 16 bits each
  __builtin_memcpy(words, &count, sizeof count);
  for (const uint64_t word : words) sums += (word & kEven) + (sizeof(Field<T>) == 1 ? (word >> 8) & kEven : 0);
  return index(sums * 0x0001000100010001 >> 48);
}

// counts[k] = fields equal to wanted[k].
template <class T>
GRADCORE_INLINE void count_fields(const Field<T> *fields, index vectors, const int (&wanted)[kFieldsAtOnce],
                                  index (&counts)[kFieldsAtOnce]) {
  using Full = typename FieldVectors<T>::Full;
  Full count[kFieldsAtOnce] = {}, all[kFieldsAtOnce];
  for (int k = 0; k < kFieldsAtOnce; k++) all[k] = Full{} + Field<T>(wanted[k]);
  for (index i = 0; i < vectors; i++) {
    Full value;
    __builtin_memcpy(&value, fields + i * index(sizeof value / sizeof(Field<T>)), sizeof value);
#pragma GCC unroll 8
    for (int k = 0; k < kFieldsAtOnce; k++) tally_equal(count[k], value, all[k]);
  }
  for (int k = 0; k < kFieldsAtOnce; k++) counts[k] = sum_counts<T>(count[k]);
}

// `count` normal elements of one exponent: to the histogram, and to what is below the formats' limits.
template <class T>
GRADCORE_INLINE void add_bin(int field, index count, StatsSums *to, index *histogram) {
  histogram[VecTraits<T>::kMantissaBits - 1 + field] += count;
  for (int f = 0; f < kFormats; f++)
    if (field - VecTraits<T>::kExponentBias < kFlushedExponent[f]) to->flushed[f] += count;
}

// Adds the normal elements with fields from 1 to `field`, one by one.
template <class T>
void add_few_normals(const Field<T> *fields, index vectors, int field, StatsSums *to, index *histogram) {
  using Full = typename FieldVectors<T>::Full;
  constexpr int kInWord = 8 / int(sizeof(Field<T>));
  for (index i = 0; i < vectors; i++, fields += sizeof(Full) / sizeof(Field<T>)) {
    Full value;
    __builtin_memcpy(&value, fields, sizeof value);
    const Full wanted = Full(value <= Full{} + Field<T>(field)) & Full(value != Full{});
    uint64_t words[sizeof wanted / 8];
    __builtin_memcpy(words, &wanted, sizeof wanted);
    for (int w = 0; w < int(sizeof wanted / 8); w++) {
      for (uint64_t left = words[w]; left != 0;) {
        const int k = __builtin_ctzll(left) / kFieldBits<T>;
        add_bin<T>(fields[w * kInWord + k], 1, to, histogram);
        left &= ~(uint64_t(Field<T>(-1)) << k * kFieldBits<T>);
      }
    }
  }
}

// Adds the normal elements of a chunk of n, largest exponent field `field`; `unused` fields are zero and no elements.
// Returns how many elements are not normal.
template <class T>
index add_normals(const Field<T> *fields, index vectors, int field, index n, index unused, StatsSums *to,
                  index *histogram) {
  index left = n, not_normal = 0;
  for (int round = 0; round < kMostRounds && left > 0; round++) {
    int wanted[kFieldsAtOnce];
    for (int k = 0; k < kFieldsAtOnce; k++) wanted[k] = round + k == 0 ? 0 : field > 0 ? field-- : -1;
    index counts[kFieldsAtOnce];
    count_fields<T>(fields, vectors, wanted, counts);
    if (round == 0) not_normal = counts[0] -= unused;
    for (int k = 0; k < kFieldsAtOnce && wanted[k] >= 0; k++) {
      left -= counts[k];
      if (wanted[k] > 0) add_bin<T>(wanted[k], counts[k], to, histogram);
    }
  }
  if (left > 0) add_few_normals<T>(fields, vectors, field, to, histogram);
  return not_normal;
}

template <class T>
void add_subnormals(const Block<T> &chunk, StatsSums *to, index *histogram) {
  for (index r = 0; r < chunk.rows; r++) {
    for (index c = 0; c < chunk.cols; c++) {
      const Bits<T> bits = magnitude_bits(chunk.x[r * chunk.ld + c]);
      if (bits == 0 || bits >= kSmallestNormalBits<T>) continue;
      histogram[63 - __builtin_clzll(uint64_t(bits))]++;
      for (int f = 0; f < kFormats; f++) to->flushed[f] += bits <= bits_of(T(kFlushed[f]));
    }
  }
}

// ---- one chunk ----

template <class T>
struct CenteredScan {
  Vec<T> center, drift = {}, squares = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes) {
    const Vec<T> d = lanes.keep(lanes.get(x) - center);
    drift += d;
    squares = fma(d, d, squares);
  }
};

template <class T>
void add_wide_sums(const Block<T> &chunk, StatsSums *to) {
  for (index r = 0; r < chunk.rows; r++) {
    const T *row = chunk.x + r * chunk.ld;
    to->sum += wide_sum<T>(chunk.cols, WideSum<T>{row});
    to->sumsq += dot(chunk.cols, row, row);
  }
}

// sum x = n c + sum d and sum x^2 = n c^2 + 2 c sum d + sum d^2, with d = x - c and c the mean as a T.
template <class T>
void add_centered_sums(const Block<T> &chunk, T center, StatsSums *to) {
  CenteredScan<T> scan{splat<T>(center)};
  for_block_vectors(chunk, scan);
  const double n = double(chunk.size()), c = double(center), drift = double(reduce_add<T>(scan.drift));
  to->sum += n * c + drift;
  to->sumsq += n * c * c + 2 * c * drift + double(reduce_add<T>(scan.squares));
}

template <class T>
void add_sums(const Block<T> &chunk, T sum, T squares, StatsSums *to) {
  const double n = double(chunk.size()), total = double(sum);
  if (!squares_hold(squares)) {
    add_wide_sums(chunk, to);
  } else if (total * total > 0.5 * n * double(squares)) {
    add_centered_sums(chunk, T(total / n), to);
  } else {
    to->sum += total;
    to->sumsq += double(squares);
  }
}

template <class T>
void add_counts(const Block<T> &chunk, const StatsScan<T, false> &scan, StatsSums *to) {
  const index nonzero = add_lanes<T>(scan.nonzero), beyond_e5m2 = nonzero - add_lanes<T>(scan.above_e5m2);
  to->zeros += chunk.size() - nonzero;
  to->flushed[kE4m3] += nonzero - add_lanes<T>(scan.above_e4m3);
  to->flushed[kE5m2] += beyond_e5m2;
  if (beyond_e5m2 > 0) add_tiny(chunk, nonzero, to);
}

// `fields` end at `end`, `field` is the largest.
template <class T>
void add_exponents(const Block<T> &chunk, const StatsScan<T, true> &scan, const Field<T> *fields, Field<T> *end,
                   int field, StatsSums *to, index *histogram) {
  constexpr int kFields = GRADCORE_VECTOR_BYTES / int(sizeof(Field<T>));
  for (int k = 0; k < kFields; k++) end[k] = 0;  // completes the last vector
  const index n = chunk.size(), vectors = (end - fields + kFields - 1) / kFields;
  const index not_normal = add_normals<T>(fields, vectors, field, n, vectors * kFields - n, to, histogram);
  if (not_normal == 0 && !any_set<T>(scan.least_mantissa == IVec<T>{})) return;
  CountWholePowers<T> rare;
  for_block_vectors(chunk, rare);
  const index nonzero = add_lanes<T>(rare.nonzero), subnormals = not_normal - (n - nonzero);
  to->zeros += n - nonzero;
  to->subnormals += subnormals;
  if (nonzero > add_lanes<T>(rare.mantissas)) add_flush_limits(chunk, to);
  if (subnormals > 0) add_subnormals(chunk, to, histogram);
}

// Adds a chunk that is finite but for `replaced` elements, for which it holds zeros. False, with
// nothing added, when it may hold a non-finite element.
template <class T, bool kHistogram>
bool add_chunk(const Block<T> &chunk, index replaced, StatsSums *to, index *histogram) {
  alignas(64) Field<T> fields[kHistogram ? kChunk + GRADCORE_VECTOR_BYTES : 1];
  StatsScan<T, kHistogram> scan{};
  Field<T> *end = scan_block(chunk, scan, fields);
  const T squares = reduce_add<T>(scan.squares[0] + scan.squares[1]);
  const T overflow = from_bits(splat_int<T>(kInfinityBits<T>))[0];
  if (replaced == 0 && !(squares < overflow) && has_non_finite(chunk)) return false;

  const index n = chunk.size();
  const T largest = reduce_max<T>(scan.largest);
  to->count += n;
  to->zeros -= replaced;
  to->nonfinite += replaced;
  if (largest >= T(kOverflowTie[kE4m3])) add_overflows(chunk, to);
  if (largest == 0) {
    to->zeros += n;
    return true;
  }
  to->max_abs = double(largest) > to->max_abs ? double(largest) : to->max_abs;
  add_sums(chunk, reduce_add<T>(scan.sum[0] + scan.sum[1]), squares, to);
  if constexpr (kHistogram)
    add_exponents(chunk, scan, fields, end, int(bits_of(largest) >> VecTraits<T>::kMantissaBits), to, histogram);
  else
    add_counts(chunk, scan, to);
  return true;
}

// A chunk with non-finite elements: the same with zeros in their place.
template <class T, bool kHistogram>
__attribute__((noinline)) void add_non_finite_chunk(const Block<T> &chunk, StatsSums *to, index *histogram) {
  T finite[kChunk];
  index replaced = 0;
  for (index r = 0; r < chunk.rows; r++) {
    for (index c = 0; c < chunk.cols; c++) {
      const T value = chunk.x[r * chunk.ld + c];
      const bool keep = magnitude_bits(value) < kInfinityBits<T>;
      finite[r * chunk.cols + c] = keep ? value : T(0);
      replaced += !keep;
    }
  }
  add_chunk<T, kHistogram>(Block<T>{finite, chunk.rows, chunk.cols, chunk.cols}, replaced, to, histogram);
}

template <class T, bool kHistogram>
struct BlockStats {
  StatsSums *sums;
  index *histogram;
  GRADCORE_INLINE_MEMBER void operator()(const Block<T> &chunk) const {
    if (!add_chunk<T, kHistogram>(chunk, 0, sums, histogram))
      add_non_finite_chunk<T, kHistogram>(chunk, sums, histogram);
  }
};

template <class T>
void block_stats(index rows, index cols, const T *x, index ldx, StatsSums *sums, index *histogram) {
  const Block<T> block{x, rows, cols, ldx};
  const BlockStats<T, true> with_histogram{sums, histogram};
  const BlockStats<T, false> without{sums, nullptr};
  histogram ? for_chunks(block, with_histogram) : for_chunks(block, without);
}

template <class T>
constexpr void fill_stats(KernelSet<T> &set) {
  set.block_stats = block_stats<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
