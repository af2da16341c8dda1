// Every AArch64: 128-bit vectors, 32 registers, FMA.
#include "kernels/kernel_table.hpp"

#if defined(__aarch64__)
#define GRADCORE_TARGET neon
#define GRADCORE_VECTOR_BYTES 16
#define GRADCORE_ACCUMULATORS 24
#define GRADCORE_TILE_VECTORS 4
#define GRADCORE_PARAMS_VECTORS 4

#include "kernels/all-inl.h"
#endif
