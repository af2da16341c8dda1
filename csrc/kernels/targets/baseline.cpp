// Every x86-64: SSE2, 128-bit vectors, 16 registers, no FMA.
#include "kernels/kernel_table.hpp"

#if defined(__x86_64__)
#define GRADCORE_TARGET baseline
#define GRADCORE_VECTOR_BYTES 16
#define GRADCORE_ACCUMULATORS 12
#define GRADCORE_TILE_VECTORS 3
#define GRADCORE_PARAMS_VECTORS 2

#include "kernels/all-inl.h"
#endif
