// The loops of the roof, compiled for each target like the kernels.
#include "roof.hpp"

#include <cstring>

#include "kernels/target_region.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define GRADCORE_TARGET baseline
#define GRADCORE_VECTOR_BYTES 16
#include "roof-inl.h"
#undef GRADCORE_TARGET
#undef GRADCORE_VECTOR_BYTES

#define GRADCORE_TARGET avx2
#define GRADCORE_VECTOR_BYTES 32
GRADCORE_TARGET_BEGIN("avx2,fma")
#include "roof-inl.h"
GRADCORE_TARGET_END
#undef GRADCORE_TARGET
#undef GRADCORE_VECTOR_BYTES

#define GRADCORE_TARGET avx512
#define GRADCORE_VECTOR_BYTES 64
GRADCORE_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "roof-inl.h"
GRADCORE_TARGET_END
#else
#define GRADCORE_TARGET neon
#define GRADCORE_VECTOR_BYTES 16
#include "roof-inl.h"
#endif

namespace gradcore::bench {

#define GRADCORE_LOOPS(target) \
  RoofLoops<T> { target::kChains *target::kLanes<T>, target::fma_chains<T>, target::read_all<T>, target::negate_all<T> }

template <class T>
RoofLoops<T> roof_loops() {
#if defined(__x86_64__)
  const char *name = current_target().name;
  if (std::strcmp(name, "avx512") == 0) return GRADCORE_LOOPS(avx512);
  if (std::strcmp(name, "avx2") == 0) return GRADCORE_LOOPS(avx2);
  return GRADCORE_LOOPS(baseline);
#else
  return GRADCORE_LOOPS(neon);
#endif
}

template RoofLoops<float> roof_loops<float>();
template RoofLoops<double> roof_loops<double>();

}  // namespace gradcore::bench
