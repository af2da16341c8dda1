// Skylake-X and newer, Zen 4 and newer: 512-bit vectors, 32 registers.
#include "kernels/kernel_table.hpp"
#include "kernels/target_region.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define GRADCORE_TARGET avx512
#define GRADCORE_VECTOR_BYTES 64
#define GRADCORE_ACCUMULATORS 24
#define GRADCORE_TILE_VECTORS 4
#define GRADCORE_PARAMS_VECTORS 4

GRADCORE_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2,popcnt,prfchw")
#include "kernels/all-inl.h"
GRADCORE_TARGET_END
#endif
