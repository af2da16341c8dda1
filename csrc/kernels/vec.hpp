// The vector layer: about thirty functions over the compiler's vector extensions. No include guard: each file in
// targets/ includes it once, inside its target region, after defining
//   GRADCORE_TARGET        the namespace of this target (baseline, avx2, avx512, avx512_bf16, neon)
//   GRADCORE_VECTOR_BYTES  16, 32 or 64
// Kernels are templates over the element type T (float or double) and use only these names. They call no
// standard-library function, because that would be compiled for the baseline CPU.
//
// A comparison of vectors (a < b) gives an integer vector whose lanes are all ones or all zeros.

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace gradcore::GRADCORE_TARGET {

#define GRADCORE_INLINE static inline __attribute__((always_inline))

using std::int32_t;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

// U is a vector at any address. By typedef: Clang drops `aligned` from an alias written with `using`.
template <class T>
struct VecTraits;

template <>
struct VecTraits<float> {
  using V = float __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  typedef float U __attribute__((vector_size(GRADCORE_VECTOR_BYTES), aligned(4), may_alias));
  using I = int32_t __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using Unsigned = uint32_t __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using Int = int32_t;
  using UnsignedInt = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kExponentBias = 127;
};

template <>
struct VecTraits<double> {
  using V = double __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  typedef double U __attribute__((vector_size(GRADCORE_VECTOR_BYTES), aligned(8), may_alias));
  using I = int64_t __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using Unsigned = uint64_t __attribute__((vector_size(GRADCORE_VECTOR_BYTES)));
  using Int = int64_t;
  using UnsignedInt = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr int kExponentBias = 1023;
};

static_assert(alignof(VecTraits<float>::U) == 4 && alignof(VecTraits<double>::U) == 8);

template <class T>
using Vec = typename VecTraits<T>::V;
template <class T>
using IVec = typename VecTraits<T>::I;

template <class T>
inline constexpr int kLanes = GRADCORE_VECTOR_BYTES / int(sizeof(T));

// Vectors of fewer lanes. The types are written out, because GCC ignores a vector_size that depends on a template
// argument.
template <class T, int kCount>
struct Part;
template <class T>
struct Part<T, 1> {
  using V = T;
};
#define GRADCORE_PART(T, kCount)                                  \
  template <>                                                     \
  struct Part<T, kCount> {                                        \
    using V = T __attribute__((vector_size(kCount * sizeof(T)))); \
  }
GRADCORE_PART(float, 2);
GRADCORE_PART(float, 4);
GRADCORE_PART(float, 8);
GRADCORE_PART(float, 16);
GRADCORE_PART(double, 2);
GRADCORE_PART(double, 4);
GRADCORE_PART(double, 8);
GRADCORE_PART(int32_t, 2);
GRADCORE_PART(int32_t, 4);
GRADCORE_PART(int32_t, 8);
GRADCORE_PART(int32_t, 16);
GRADCORE_PART(int64_t, 2);
GRADCORE_PART(int64_t, 4);
GRADCORE_PART(int64_t, 8);
GRADCORE_PART(uint8_t, 2);
GRADCORE_PART(uint8_t, 4);
GRADCORE_PART(uint8_t, 8);
GRADCORE_PART(uint8_t, 16);
#undef GRADCORE_PART
template <class T>
using HalfVec = typename Part<T, kLanes<T> / 2>::V;

// ---- making and moving ----

template <class T>
GRADCORE_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};  // folded into one broadcast: x - 0 is x, also for -0.0 (0 + x is not)
}
template <class T>
GRADCORE_INLINE IVec<T> splat_int(typename VecTraits<T>::Int x) {
  return IVec<T>{} + x;
}
// Any alignment.
template <class T>
GRADCORE_INLINE Vec<T> load(const T *p) {
  return *reinterpret_cast<const typename VecTraits<T>::U *>(p);
}
template <class T>
GRADCORE_INLINE void store(T *p, Vec<T> v) {
  *reinterpret_cast<typename VecTraits<T>::U *>(p) = v;
}

#if GRADCORE_VECTOR_BYTES == 64
// Half vectors; with 256-bit vectors a half takes as long as the whole.
GRADCORE_INLINE HalfVec<float> load_half(const float *p) { return HalfVec<float>(_mm256_loadu_ps(p)); }
GRADCORE_INLINE HalfVec<double> load_half(const double *p) { return HalfVec<double>(_mm256_loadu_pd(p)); }
GRADCORE_INLINE HalfVec<float> lower_half(Vec<float> v) { return HalfVec<float>(_mm512_castps512_ps256(__m512(v))); }
GRADCORE_INLINE HalfVec<double> lower_half(Vec<double> v) {
  return HalfVec<double>(_mm512_castpd512_pd256(__m512d(v)));
}
// The upper half is undefined.
GRADCORE_INLINE Vec<float> with_lower_half(HalfVec<float> v) { return Vec<float>(_mm512_castps256_ps512(__m256(v))); }
GRADCORE_INLINE Vec<double> with_lower_half(HalfVec<double> v) {
  return Vec<double>(_mm512_castpd256_pd512(__m256d(v)));
}
#endif

// Stores to memory past the caches, if the CPU can. p must be vector-aligned; call stream_fence before others read.
#if defined(__x86_64__)
#if GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE void stream(float *p, Vec<float> v) { _mm512_stream_ps(p, __m512(v)); }
GRADCORE_INLINE void stream(double *p, Vec<double> v) { _mm512_stream_pd(p, __m512d(v)); }
#elif GRADCORE_VECTOR_BYTES == 32
GRADCORE_INLINE void stream(float *p, Vec<float> v) { _mm256_stream_ps(p, __m256(v)); }
GRADCORE_INLINE void stream(double *p, Vec<double> v) { _mm256_stream_pd(p, __m256d(v)); }
#else
GRADCORE_INLINE void stream(float *p, Vec<float> v) { _mm_stream_ps(p, __m128(v)); }
GRADCORE_INLINE void stream(double *p, Vec<double> v) { _mm_stream_pd(p, __m128d(v)); }
#endif
GRADCORE_INLINE void stream_fence() { _mm_sfence(); }
#else
template <class T>
GRADCORE_INLINE void stream(T *p, Vec<T> v) {
  store(p, v);
}
GRADCORE_INLINE void stream_fence() {}
#endif

// Prefetches the cache line at p, which need not be mapped: into the L2 cache, or for writing.
template <class T>
GRADCORE_INLINE void prefetch(const T *p) {
  __builtin_prefetch(p, 0, 2);
}
template <class T>
GRADCORE_INLINE void prefetch_to_write(const T *p) {
  __builtin_prefetch(p, 1, 3);
}

#if GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE Vec<float> load_partial(const float *p, int n) {
  return Vec<float>(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1u), p));
}
GRADCORE_INLINE Vec<double> load_partial(const double *p, int n) {
  return Vec<double>(_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1u), p));
}
GRADCORE_INLINE void store_partial(float *p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1u), __m512(v));
}
GRADCORE_INLINE void store_partial(double *p, Vec<double> v, int n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1u), __m512d(v));
}
#else
// The first n lanes, 0 <= n < lanes; the others read as zero, or are not written. Works lane by lane in registers: a
// loop over v[i] goes through the stack, where the load of the vector waits for all of the small stores (a gradient of
// width 63 took 1.15 times that of width 64, one of width 7 2.2 times that of width 8).
#if GRADCORE_VECTOR_BYTES == 32
inline constexpr int32_t kFirstLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
GRADCORE_INLINE Vec<float> load_partial(const float *p, int n) {
  return Vec<float>(_mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(kFirstLanes + 8 - n))));
}
GRADCORE_INLINE Vec<double> load_partial(const double *p, int n) {
  return Vec<double>(
      _mm256_maskload_pd(p, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(kFirstLanes + 8 - 2 * n))));
}
#else
template <class T>
GRADCORE_INLINE Vec<T> load_partial(const T *p, int n) {
  Vec<T> v{};
#pragma GCC unroll 4
  for (int i = 0; i + 1 < kLanes<T>; i++)
    if (i < n) v[i] = p[i];
  return v;
}
#endif
// No masked store: AVX2's takes about 42 micro-ops on Zen 4. Out of line, because inlined among these branches the
// compiler would fuse products in another order than for full vectors.
template <class T>
static __attribute__((noinline)) void store_partial(T *p, Vec<T> v, int n) {
#pragma GCC unroll 8
  for (int i = 0; i + 1 < kLanes<T>; i++)
    if (i < n) p[i] = v[i];
}
#endif

// ---- arithmetic ----

// a * b + c, with one rounding if the target has FMA. Explicit, because compilers fuse the expression only in places:
// GCC within a basic block, Clang without optimization even less often. The end of a row, or a recorded step, would
// then round differently from the rest.
template <class V>
GRADCORE_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
#if defined(__aarch64__)
GRADCORE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
}
GRADCORE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return Vec<double>(vfmaq_f64(float64x2_t(c), float64x2_t(a), float64x2_t(b)));
}
#elif GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
}
GRADCORE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return Vec<double>(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#endif
#if GRADCORE_VECTOR_BYTES >= 32  // the vectors of AVX2, and AVX-512's halves
GRADCORE_INLINE Part<float, 8>::V fma(Part<float, 8>::V a, Part<float, 8>::V b, Part<float, 8>::V c) {
  return Part<float, 8>::V(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
}
GRADCORE_INLINE Part<double, 4>::V fma(Part<double, 4>::V a, Part<double, 4>::V b, Part<double, 4>::V c) {
  return Part<double, 4>::V(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#endif
// Like the x86 instructions: the second operand if either is NaN.
template <class V>
GRADCORE_INLINE V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
GRADCORE_INLINE V max(V a, V b) {
  return a > b ? a : b;
}
#if GRADCORE_VECTOR_BYTES == 64  // GCC 12 makes a comparison and a blend of the above
GRADCORE_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return Vec<float>(_mm512_min_ps(__m512(a), __m512(b))); }
GRADCORE_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return Vec<float>(_mm512_max_ps(__m512(a), __m512(b))); }
GRADCORE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  return Vec<double>(_mm512_min_pd(__m512d(a), __m512d(b)));
}
GRADCORE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  return Vec<double>(_mm512_max_pd(__m512d(a), __m512d(b)));
}
#endif
template <class I, class V>
GRADCORE_INLINE V select(I mask, V if_set, V if_clear) {
  return mask ? if_set : if_clear;
}

// ---- bits ----

GRADCORE_INLINE IVec<float> to_bits(Vec<float> v) { return reinterpret_cast<IVec<float>>(v); }
GRADCORE_INLINE IVec<double> to_bits(Vec<double> v) { return reinterpret_cast<IVec<double>>(v); }
GRADCORE_INLINE Vec<float> from_bits(IVec<float> v) { return reinterpret_cast<Vec<float>>(v); }
GRADCORE_INLINE Vec<double> from_bits(IVec<double> v) { return reinterpret_cast<Vec<double>>(v); }

template <class T>
inline constexpr typename VecTraits<T>::Int kSignBit = typename VecTraits<T>::Int(1) << (sizeof(T) * 8 - 1);

template <class T>
GRADCORE_INLINE Vec<T> abs(Vec<T> v) {
  return from_bits(to_bits(v) & ~kSignBit<T>);
}
template <class T>
GRADCORE_INLINE Vec<T> copy_sign(Vec<T> magnitude, Vec<T> sign) {
  return from_bits((to_bits(magnitude) & ~kSignBit<T>) | (to_bits(sign) & kSignBit<T>));
}
template <class T>
GRADCORE_INLINE IVec<T> shift_right_logical(IVec<T> v, int bits) {
  return IVec<T>(typename VecTraits<T>::Unsigned(v) >> bits);
}

// count += 1 in the lanes where a < b.
template <class I>
GRADCORE_INLINE void tally_less(I &count, I a, I b) {
  count -= a < b;
}
// most = max(most, a) in the lanes where b > 0.
template <class I>
GRADCORE_INLINE void raise_where_positive(I &most, I a, I b) {
  most = max(a & (b > I{}), most);
}
#if GRADCORE_VECTOR_BYTES == 64
// GCC 12 would compile these to two to five instructions instead of one.
#define GRADCORE_TALLY_512(T, suffix, Mask)                                                                    \
  GRADCORE_INLINE void tally_less(IVec<T> &count, IVec<T> a, IVec<T> b) {                                      \
    const Mask less = _mm512_cmplt_##suffix##_mask(__m512i(a), __m512i(b));                                    \
    count = IVec<T>(_mm512_mask_sub_##suffix(__m512i(count), less, __m512i(count), _mm512_set1_##suffix(-1))); \
  }
GRADCORE_TALLY_512(float, epi32, __mmask16)
GRADCORE_TALLY_512(double, epi64, __mmask8)
#undef GRADCORE_TALLY_512

// Steps of a scan of magnitudes, each one instruction: the nonzero lanes of a vector, as a mask; the largest and
// smallest |v| of these so far; those without a mantissa; and a bit for the exponent field modulo the bits of a lane.
// NaN is skipped.
#define GRADCORE_MAGNITUDES_512(T, suffix, fsuffix, kMask, kMantissa)                                                \
  GRADCORE_INLINE kMask nonzero_lanes(Vec<T> v) {                                                                    \
    return _mm512_test_##suffix##_mask(__m512i(v), _mm512_set1_##suffix(~kSignBit<T>));                              \
  }                                                                                                                  \
  GRADCORE_INLINE Vec<T> larger_magnitude(Vec<T> a, Vec<T> b) { return Vec<T>(_mm512_range_##fsuffix(a, b, 0x0b)); } \
  GRADCORE_INLINE Vec<T> smaller_magnitude(Vec<T> a, Vec<T> b, kMask of) {                                           \
    return Vec<T>(_mm512_mask_range_##fsuffix(a, of, a, b, 0x0a));                                                   \
  }                                                                                                                  \
  GRADCORE_INLINE kMask powers_of_two(Vec<T> v, kMask of) {                                                          \
    return _mm512_mask_testn_##suffix##_mask(of, __m512i(v), _mm512_set1_##suffix(kMantissa));                       \
  }                                                                                                                  \
  GRADCORE_INLINE IVec<T> exponent_bit_modulo(Vec<T> v, kMask of) {                                                  \
    const __m512i field = _mm512_srli_##suffix(__m512i(v), VecTraits<T>::kMantissaBits);                             \
    return IVec<T>(_mm512_maskz_rolv_##suffix(of, _mm512_set1_##suffix(1), field));                                  \
  }
GRADCORE_MAGNITUDES_512(float, epi32, ps, __mmask16, 0x7fffff)
GRADCORE_MAGNITUDES_512(double, epi64, pd, __mmask8, 0xfffffffffffff)
#undef GRADCORE_MAGNITUDES_512
#endif

// Bit k of a lane, k >= 0; 0 where a lane has no such bit.
#if GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE IVec<float> one_hot(IVec<float> k) {
  return IVec<float>(_mm512_sllv_epi32(_mm512_set1_epi32(1), __m512i(k)));
}
GRADCORE_INLINE IVec<double> one_hot(IVec<double> k) {
  return IVec<double>(_mm512_sllv_epi64(_mm512_set1_epi64(1), __m512i(k)));
}
#elif GRADCORE_VECTOR_BYTES == 32
GRADCORE_INLINE IVec<float> one_hot(IVec<float> k) {
  return IVec<float>(_mm256_sllv_epi32(_mm256_set1_epi32(1), __m256i(k)));
}
GRADCORE_INLINE IVec<double> one_hot(IVec<double> k) {
  return IVec<double>(_mm256_sllv_epi64(_mm256_set1_epi64x(1), __m256i(k)));
}
#elif defined(__x86_64__)
// Without a shift per lane: 2^k as a float, converted to an integer. For 2^31 the conversion gives the wanted bits.
GRADCORE_INLINE IVec<float> one_hot(IVec<float> k) {
  const IVec<float> power = (k + VecTraits<float>::kExponentBias) << VecTraits<float>::kMantissaBits;
  return IVec<float>(_mm_cvttps_epi32(__m128(power))) & ((k & ~31) == 0);
}
GRADCORE_INLINE IVec<double> one_hot(IVec<double> k) {
  const __m128i twice = _mm_shuffle_epi32(__m128i(k), _MM_SHUFFLE(2, 2, 0, 0));
  return IVec<double>(one_hot(IVec<float>(twice) - IVec<float>{0, 32, 0, 32}));
}
#else
template <class I>
GRADCORE_INLINE I one_hot(I k) {
  constexpr int kBits = 8 * sizeof(k[0]);
  return ((I{} + 1) << (k & (kBits - 1))) & (k < kBits);
}
#endif

// ---- between lanes ----

// Lanes I... of a and, from kLanes on, of b. GCC knows Clang's builtin only since GCC 12.
template <int... I, class V>
GRADCORE_INLINE V shuffle(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){I...});
#endif
}

// ---- conversions ----

template <class T>
GRADCORE_INLINE Vec<T> to_float(IVec<T> v) {
  return __builtin_convertvector(v, Vec<T>);
}

#if GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE Vec<float> sqrt(Vec<float> v) { return Vec<float>(_mm512_sqrt_ps(__m512(v))); }
GRADCORE_INLINE Vec<double> sqrt(Vec<double> v) { return Vec<double>(_mm512_sqrt_pd(__m512d(v))); }
#elif GRADCORE_VECTOR_BYTES == 32
GRADCORE_INLINE Vec<float> sqrt(Vec<float> v) { return Vec<float>(_mm256_sqrt_ps(__m256(v))); }
GRADCORE_INLINE Vec<double> sqrt(Vec<double> v) { return Vec<double>(_mm256_sqrt_pd(__m256d(v))); }
#elif defined(__x86_64__)
GRADCORE_INLINE Vec<float> sqrt(Vec<float> v) { return Vec<float>(_mm_sqrt_ps(__m128(v))); }
GRADCORE_INLINE Vec<double> sqrt(Vec<double> v) { return Vec<double>(_mm_sqrt_pd(__m128d(v))); }
#else
template <class V>
GRADCORE_INLINE V sqrt(V v) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); i++)
    v[i] = sizeof(v[0]) == 4 ? __builtin_sqrtf(float(v[i])) : __builtin_sqrt(double(v[i]));
  return v;
}
#endif

// ---- across lanes ----

// Halves are combined down to one lane: a tree whose shape depends only on the number of lanes.
struct Sum {
  template <class V>
  static inline __attribute__((always_inline)) V of(V a, V b) {
    return a + b;
  }
};
struct Largest {
  template <class V>
  static inline __attribute__((always_inline)) V of(V a, V b) {
    return a > b ? a : b;
  }
};

template <class F, class T, int kCount>
GRADCORE_INLINE T fold(typename Part<T, kCount>::V v) {
  if constexpr (kCount == 2) {
    return F::of(T(v[0]), T(v[1]));
  } else if constexpr (kCount == 4 && sizeof(T) == 4) {  // GCC moves a half of 8 bytes by way of memory
    v = F::of(v, shuffle<2, 3, 0, 1>(v, v));
    return F::of(T(v[0]), T(v[1]));
  } else {
    typename Part<T, kCount / 2>::V half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return fold<F, T, kCount / 2>(F::of(half[0], half[1]));
  }
}

template <class T>
GRADCORE_INLINE T reduce_add(Vec<T> v) {
  return fold<Sum, T, kLanes<T>>(v);
}
template <class T>
GRADCORE_INLINE T reduce_max(Vec<T> v) {
  return fold<Largest, T, kLanes<T>>(v);
}
template <class T>
GRADCORE_INLINE bool any_set(IVec<T> mask) {
  typename VecTraits<T>::Int bits = 0;
  for (int i = 0; i < kLanes<T>; i++) bits |= mask[i];
  return bits != 0;
}

}  // namespace gradcore::GRADCORE_TARGET
