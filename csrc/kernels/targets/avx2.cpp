// Haswell and newer, Zen: 256-bit vectors with FMA.
#include "kernels/kernel_table.hpp"
#include "kernels/target_region.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define GRADCORE_TARGET avx2
#define GRADCORE_VECTOR_BYTES 32
#define GRADCORE_ACCUMULATORS 12
#define GRADCORE_TILE_VECTORS 3
#define GRADCORE_PARAMS_VECTORS 2

GRADCORE_TARGET_BEGIN("avx2,fma,bmi,bmi2,popcnt,prfchw")
#include "kernels/all-inl.h"
GRADCORE_TARGET_END
#endif
