// Zen 4 and newer: products of pairs of bfloat16. Everything else of such a CPU is avx512.cpp.
#include "kernels/kernel_table.hpp"
#include "kernels/target_region.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define GRADCORE_TARGET avx512_bf16
#define GRADCORE_VECTOR_BYTES 64
#define GRADCORE_ACCUMULATORS 24
#define GRADCORE_TILE_VECTORS 4
#define GRADCORE_PARAMS_VECTORS 4

GRADCORE_TARGET_BEGIN("avx512bf16,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,bmi,bmi2,popcnt,prfchw")
// clang-format off: the order matters.
#include "kernels/vec.hpp"
#include "kernels/gemm-inl.h"
#include "kernels/pairs-inl.h"
// clang-format on
GRADCORE_TARGET_END
#endif
