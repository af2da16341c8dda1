// Statistics of a block: sums, counts and exponents of a recorded pass.
//
// A chunk is scanned once for its sums, its largest magnitude and its zeros, and again (with AVX-512, in the same scan)
// for the exponents of its elements. Each element becomes a lane with one bit set, that of its exponent, in a window of
// as many exponents as a lane has bits (32 or 64), up to the largest exponent, and these are counted
// (bitcount-inl.h). Rare values (exponents below the window, numbers beyond a format's range, powers of two exactly
// at its lower limit, subnormals) take further passes, which are made only if the first shows that there are any.
// Limits are compared on the bits of |x|, which have the same order as the numbers, so that subnormals differ from
// zeros whatever the thread's floating-point mode.
//
// Numerics  counts and max_abs are exact. Sums: partial sums of at most 256 terms per lane in T (double: 512), relative
//           error <= 270 u (530 u) of the sum of absolute terms (float32: typically 1e-7). If the mean outweighs the
//           spread, a chunk's sums are taken about its mean, so that the variance keeps its digits. Chunks whose
//           squares leave T's range are summed in a wider type or scaled.
// Cost      float32 on a Zen 4 core: 0.10 ns per element, 0.11 with the histogram; AVX2 0.11 and 0.21
//           (bench/bench_kernels.cpp: block_stats).

namespace gradcore::GRADCORE_TARGET {

// The limits of fp16, bf16, fp8 e4m3 and fp8 e5m2 (OCP). Nonzero |x| up to kFlushed, half the smallest subnormal,
// rounds to zero; the tie goes to zero, which is even. |x| above kOverflowTie, the middle between the largest value and
// its successor, becomes infinity or NaN; the tie does, too (kTieOverflows), except in e4m3, where it goes to 448,
// which is even.
inline constexpr int kFormats = 4, kFp16 = 0, kBf16 = 1, kE4m3 = 2, kE5m2 = 3;
inline constexpr double kFlushed[kFormats] = {0x1p-25, 0x1p-134, 0x1p-10, 0x1p-17};
inline constexpr double kOverflowTie[kFormats] = {65520.0, 0x1.ffp127, 464.0, 61440.0};
inline constexpr bool kTieOverflows[kFormats] = {true, true, false, true};
inline constexpr int kFlushedExponent[kFormats] = {-25, -134, -10, -17};  // exponents of kFlushed

template <class T>
inline constexpr Bits<T> kInfinityBits = Bits<T>(2 * VecTraits<T>::kExponentBias + 1) << VecTraits<T>::kMantissaBits;
template <class T>
inline constexpr Bits<T> kSmallestNormalBits = Bits<T>(1) << VecTraits<T>::kMantissaBits;
template <class T>
inline constexpr T kLargestNumber = T(sizeof(T) == 4 ? 0x1.fffffep127 : 0x1.fffffffffffffp1023);

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

// ---- exponents ----
//
// Bit k of a lane stands for the exponent field first + k.

// The bit of the exponent of x, in each lane. Below `origin` the difference has its upper bits set, which gives no bit.
template <class T>
GRADCORE_INLINE IVec<T> exponent_bit(Vec<T> x, IVec<T> origin) {
  return one_hot(shift_right_logical<T>(to_bits(abs<T>(x)) - origin, VecTraits<T>::kMantissaBits));
}

// How many elements of the chunk have each exponent field from `first` on.
template <class T>
BinaryCounts<T> count_exponents(const Block<T> &chunk, int first) {
  const IVec<T> origin = splat_int<T>(Bits<T>(first) * (Bits<T>(1) << VecTraits<T>::kMantissaBits));
  return count_bits<T>(chunk, [&](Vec<T> x, int) { return exponent_bit<T>(x, origin); });
}

// ---- the first pass ----
//
// StatsScan::add takes one vector and returns which of its lanes are not zero, in the form that `count` needs. Where
// the exponents are counted anyway, their number is that of the nonzero elements.

#if GRADCORE_VECTOR_BYTES == 64
template <class T>
struct StatsScan {
  Vec<T> sum[2] = {}, squares[2] = {}, largest = {}, smallest = splat<T>(kLargestNumber<T>);  // smallest nonzero |x|
  index nonzero = 0;

  GRADCORE_INLINE_MEMBER auto add(Vec<T> value, int k) {
    const auto lanes = nonzero_lanes(value);
    sum[k] += value;
    squares[k] = fma(value, value, squares[k]);
    largest = larger_magnitude(largest, value);  // ignores NaN, which shows in squares
    smallest = smaller_magnitude(smallest, value, lanes);
    return lanes;
  }
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void count(Lanes lanes) {
    nonzero += __builtin_popcount(lanes);
  }
  index num_nonzero() const { return nonzero; }
  T least() const { return -reduce_max<T>(-smallest); }
};
#else
template <class T>
struct StatsScan {
  Vec<T> sum[2] = {}, squares[2] = {}, largest = {};
  IVec<T> nonzero = {};

  GRADCORE_INLINE_MEMBER IVec<T> add(Vec<T> value, int k) {
    const Vec<T> magnitude = abs<T>(value);
    const IVec<T> bits = to_bits(magnitude);
    sum[k] += value;
    squares[k] = fma(value, value, squares[k]);
    largest = max(magnitude, largest);  // ignores NaN, which shows in squares
    return bits;
  }
  GRADCORE_INLINE_MEMBER void count(IVec<T> bits) { tally_less(nonzero, IVec<T>{}, bits); }
  index num_nonzero() const { return add_lanes<T>(nonzero); }
  T least() const { return 0; }  // not known
};
#endif

// The scan without a histogram: counts |x| above the flush limits of the formats.
template <class T>
struct ScanWithLimits : StatsScan<T> {
  IVec<T> above_e4m3 = {}, above_e5m2 = {};

  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes, int k) {
    const Vec<T> value = lanes.get(x);
    this->count(this->add(value, k));
    const IVec<T> bits = to_bits(abs<T>(value));
    tally_less(above_e4m3, splat_int<T>(bits_of(T(kFlushed[kE4m3]))), bits);
    tally_less(above_e5m2, splat_int<T>(bits_of(T(kFlushed[kE5m2]))), bits);
  }
};

#if GRADCORE_VECTOR_BYTES == 64
// The scan with a histogram and enough registers, in one pass: bits of the exponents modulo the window, which are
// unambiguous if the smallest nonzero element lies within a window of the largest.
template <class T>
struct ScanAtOnce : StatsScan<T> {
  decltype(nonzero_lanes(Vec<T>{})) powers = 0;

  GRADCORE_INLINE_MEMBER IVec<T> add(Vec<T> value, int k) {
    const auto lanes = StatsScan<T>::add(value, k);
    powers |= powers_of_two(value, lanes);
    return exponent_bit_modulo(value, lanes);
  }
};
#else
// The scan with a histogram: exponents show which elements the formats flush, except for powers of two.
template <class T>
struct ScanWithPowers : StatsScan<T> {
  IVec<T> missing_mantissa = {};  // the largest complement of a mantissa; all bits are set if there is a power of two

  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes, int k) {
    const IVec<T> bits = this->add(lanes.get(x), k);
    this->count(bits);
    raise_where_positive(missing_mantissa, ~bits & splat_int<T>(kSmallestNormalBits<T> - 1), bits);
  }
};
#endif

// ---- further passes ----

template <class T, int kLimits>
struct CountAbove {
  IVec<T> limit[kLimits], count[kLimits] = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes, int) {
    const IVec<T> bits = to_bits(abs<T>(lanes.get(x)));
    for (int k = 0; k < kLimits; k++) tally_less(count[k], limit[k], bits);
  }
};

// counts[k] = number of elements with bits of |x| above limits[k] >= 0. NaN counts as above infinity.
template <class T, int kLimits>
void count_above(const Block<T> &chunk, const Bits<T> (&limits)[kLimits], index (&counts)[kLimits]) {
  CountAbove<T, kLimits> op;
  for (int k = 0; k < kLimits; k++) op.limit[k] = splat_int<T>(limits[k]);
  for_block_vectors(chunk, op);
  for (int k = 0; k < kLimits; k++) counts[k] = add_lanes<T>(op.count[k]);
}

// Adds a chunk of `nonzero` nonzero elements to the counts of the smallest numbers, without a histogram.
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

// Counts normal numbers exactly at a format's flush limit, a power of two; the histogram shows those below.
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

// The `count` bins from `first` on, to be changed.
template <class T>
GRADCORE_INLINE index *open_bins(Histogram<T> *histogram, index first, index count) {
  const bool empty = histogram->end == 0;
  if (empty || first < histogram->begin) histogram->begin = first;
  if (first + count > histogram->end) histogram->end = first + count;
  return histogram->bins + first;
}

// Adds counts of exponent fields from `first` on, first > 0, to the histogram and to the counts below the formats'
// limits.
template <class T>
void add_window(const BitCounts<T> &counts, int first, StatsSums *to, Histogram<T> *histogram) {
  counts.add_to(open_bins(histogram, VecTraits<T>::kMantissaBits - 1 + first, kWindow<T>));
  for (int f = 0; f < kFormats; f++) {
    const int end = kFlushedExponent[f] + VecTraits<T>::kExponentBias - first;
    to->flushed[f] += counts.sum_below(end < 0 ? 0 : end > kWindow<T> ? kWindow<T> : end);
  }
}

template <class T>
void add_subnormals(const Block<T> &chunk, StatsSums *to, Histogram<T> *histogram) {
  index *bins = open_bins(histogram, 0, VecTraits<T>::kMantissaBits);
  for (index r = 0; r < chunk.rows; r++) {
    for (index c = 0; c < chunk.cols; c++) {
      const Bits<T> bits = magnitude_bits(chunk.x[r * chunk.ld + c]);
      if (bits == 0 || bits >= kSmallestNormalBits<T>) continue;
      bins[63 - __builtin_clzll(uint64_t(bits))]++;
      for (int f = 0; f < kFormats; f++) to->flushed[f] += bits <= bits_of(T(kFlushed[f]));
    }
  }
}

// ---- one chunk ----

template <class T>
struct CenteredScan {
  Vec<T> center, drift[2] = {}, squares[2] = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *x, Lanes lanes, int k) {
    const Vec<T> d = lanes.keep(lanes.get(x) - center);
    drift[k] += d;
    squares[k] = fma(d, d, squares[k]);
  }
};

// Sums squares that overflow or underflow in T: scaled for double, in double for float.
GRADCORE_INLINE long double squares_beyond(index n, const double *x, bool tiny) {
  const double factor = tiny ? 0x1p600 : 0x1p-600;
  double sum = 0;
  for (index i = 0; i < n; i++) sum += (x[i] * factor) * (x[i] * factor);
  return (long double)(sum) / factor / factor;
}
GRADCORE_INLINE long double squares_beyond(index n, const float *x, bool) {
  return wide_sum<float>(n, WideSquares<float>{x});
}

template <class T>
__attribute__((noinline, cold)) void add_wide_sums(const Block<T> &chunk, bool tiny, StatsSums *to) {
  for (index r = 0; r < chunk.rows; r++) {
    const T *row = chunk.x + r * chunk.ld;
    to->sum += wide_sum<T>(chunk.cols, WideSum<T>{row});
    to->sumsq += squares_beyond(chunk.cols, row, tiny);
  }
}

// Whether a chunk's sum of squares in T is precise enough.
GRADCORE_INLINE bool may_stand(float squares) { return squares_hold(squares); }
GRADCORE_INLINE bool may_stand(double squares) { return kept_digits(squares); }

// sum x = n c + sum d and sum x^2 = n c^2 + 2 c sum d + sum d^2, with d = x - c and c the mean as a T.
template <class T>
void add_centered_sums(const Block<T> &chunk, T center, StatsSums *to) {
  CenteredScan<T> scan{splat<T>(center)};
  for_block_vectors(chunk, scan);
  const double n = double(chunk.size()), c = double(center),
               drift = double(reduce_add<T>(scan.drift[0] + scan.drift[1]));
  to->sum += n * c + drift;
  to->sumsq += n * c * c + 2 * c * drift + double(reduce_add<T>(scan.squares[0] + scan.squares[1]));
}

template <class T>
void add_sums(const Block<T> &chunk, T sum, T squares, StatsSums *to) {
  const double n = double(chunk.size()), total = double(sum);
  if (!may_stand(squares)) {
    add_wide_sums(chunk, squares < 1, to);
  } else if (total * total > 0.5 * n * double(squares)) {
    add_centered_sums(chunk, T(total / n), to);
  } else {
    to->sum += total;
    to->sumsq += double(squares);
  }
}

// Adds the exponents of a chunk with `nonzero` nonzero elements, the largest of which has this exponent field.
template <class T>
void add_exponents(const Block<T> &chunk, int field, index nonzero, StatsSums *to, Histogram<T> *histogram) {
  index left = nonzero;
  for (int first = field + 1; left > 0 && first > 1;) {
    first -= kWindow<T>;
    const BinaryCounts<T> binary = count_exponents(chunk, first);
    const int skipped = first < 1 ? 1 - first : 0;  // those of zeros and subnormals
    const BitCounts<T> counts = binary.counts(skipped);
    add_window(counts, first + skipped, to, histogram);
    left -= counts.sum_below(kWindow<T>);
  }
  to->subnormals += left;
  if (left > 0) add_subnormals(chunk, to, histogram);
}

// Adds the results that all scans have in common. Returns the number of nonzero elements; -1, with nothing added, if an
// element is not finite.
template <class T, class Scan>
index add_scan(const Block<T> &chunk, index replaced, const Scan &scan, StatsSums *to) {
  const T largest = reduce_max<T>(scan.largest), squares = reduce_add<T>(scan.squares[0] + scan.squares[1]);
  if (squares != squares || bits_of(largest) == kInfinityBits<T>) return -1;
  const index n = chunk.size(), nonzero = scan.num_nonzero();
  to->count += n;
  to->zeros += n - nonzero - replaced;
  to->nonfinite += replaced;
  if (nonzero == 0) return 0;
  to->max_abs = double(largest) > to->max_abs ? double(largest) : to->max_abs;
  if (largest >= T(kOverflowTie[kE4m3])) add_overflows(chunk, to);
  add_sums(chunk, reduce_add<T>(scan.sum[0] + scan.sum[1]), squares, to);
  return nonzero;
}

// Adds a chunk in which `replaced` non-finite elements were replaced by zeros. Returns false, with nothing added, if an
// element is not finite.
template <class T>
bool add_chunk(const Block<T> &chunk, index replaced, StatsSums *to) {
  ScanWithLimits<T> scan{};
  for_block_vectors(chunk, scan);
  const index nonzero = add_scan(chunk, replaced, scan, to);
  if (nonzero <= 0) return nonzero == 0;
  const index beyond_e5m2 = nonzero - add_lanes<T>(scan.above_e5m2);
  to->flushed[kE4m3] += nonzero - add_lanes<T>(scan.above_e4m3);
  to->flushed[kE5m2] += beyond_e5m2;
  if (beyond_e5m2 > 0 && scan.least() <= T(kFlushed[kFp16])) add_tiny(chunk, nonzero, to);
  return true;
}
#if GRADCORE_VECTOR_BYTES == 64
template <class T>
bool add_chunk(const Block<T> &chunk, index replaced, StatsSums *to, Histogram<T> *histogram) {
  constexpr int kMantissaBits = VecTraits<T>::kMantissaBits;
  ScanAtOnce<T> scan{};
  const BitCounts<T> counts = count_bits<T>(chunk, [&](Vec<T> x, int v) { return scan.add(x, v & 1); }).counts();
  scan.nonzero = counts.sum_below(kWindow<T>);
  const index nonzero = add_scan(chunk, replaced, scan, to);
  if (nonzero <= 0) return nonzero == 0;
  if (scan.powers) add_flush_limits(chunk, to);
  const int field = int(bits_of(reduce_max<T>(scan.largest)) >> kMantissaBits);
  const int first = field > kWindow<T> ? field + 1 - kWindow<T> : 1;
  if (int(bits_of(scan.least()) >> kMantissaBits) < first)
    add_exponents(chunk, field, nonzero, to, histogram);
  else
    add_window(counts.rotated(first), first, to, histogram);
  return true;
}
#else
template <class T>
bool add_chunk(const Block<T> &chunk, index replaced, StatsSums *to, Histogram<T> *histogram) {
  ScanWithPowers<T> scan{};
  for_block_vectors(chunk, scan);
  const index nonzero = add_scan(chunk, replaced, scan, to);
  if (nonzero <= 0) return nonzero == 0;
  if (any_set<T>(scan.missing_mantissa == kSmallestNormalBits<T> - 1)) add_flush_limits(chunk, to);
  const int field = int(bits_of(reduce_max<T>(scan.largest)) >> VecTraits<T>::kMantissaBits);
  add_exponents(chunk, field, nonzero, to, histogram);
  return true;
}
#endif

// Adds a chunk with non-finite elements, with zeros in their place.
template <class T, class... Histogram>
__attribute__((noinline)) void add_non_finite_chunk(const Block<T> &chunk, StatsSums *to, Histogram... histogram) {
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
  add_chunk<T>(Block<T>{finite, chunk.rows, chunk.cols, chunk.cols}, replaced, to, histogram...);
}

template <class T>
struct BlockStats {
  StatsSums *sums;
  Histogram<T> *histogram;
  GRADCORE_INLINE_MEMBER void operator()(const Block<T> &chunk) const {
    if (histogram && !add_chunk<T>(chunk, 0, sums, histogram)) add_non_finite_chunk<T>(chunk, sums, histogram);
    if (!histogram && !add_chunk<T>(chunk, 0, sums)) add_non_finite_chunk<T>(chunk, sums);
  }
};

template <class T>
void block_stats(index rows, index cols, const T *x, index ldx, StatsSums *sums, Histogram<T> *histogram) {
  const BlockStats<T> op{sums, histogram};
  for_chunks(Block<T>{x, rows, cols, ldx}, op);
}

template <class T>
constexpr void fill_stats(KernelSet<T> &set) {
  set.block_stats = block_stats<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
