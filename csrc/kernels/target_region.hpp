// Target regions: code between GRADCORE_TARGET_BEGIN and GRADCORE_TARGET_END is compiled for more than the baseline
// CPU. Per-file compiler flags would also compile inline functions of standard headers for that CPU, and the linker
// might keep that copy for all callers. GCC and Clang spell the pragma differently, and Clang silently ignores GCC's.
#ifndef GRADCORE_KERNELS_TARGET_REGION_HPP
#define GRADCORE_KERNELS_TARGET_REGION_HPP

#define GRADCORE_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define GRADCORE_TARGET_BEGIN(features) \
  GRADCORE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define GRADCORE_TARGET_END GRADCORE_PRAGMA(clang attribute pop)
#else
#define GRADCORE_TARGET_BEGIN(features) GRADCORE_PRAGMA(GCC push_options) GRADCORE_PRAGMA(GCC target(features))
#define GRADCORE_TARGET_END GRADCORE_PRAGMA(GCC pop_options)
#endif

#endif
