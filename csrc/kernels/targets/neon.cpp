// Every AArch64: 128-bit vectors, 32 registers, FMA.
#include "kernels/kernel_table.hpp"

#if defined(__aarch64__)
#define GRADCORE_TARGET neon
#define GRADCORE_VECTOR_BYTES 16
#define GRADCORE_TILE_ROWS 8
#define GRADCORE_TILE_VECTORS 3

#include "kernels/all-inl.h"
#endif
