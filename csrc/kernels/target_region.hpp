// Target regions: code between GRADCORE_TARGET_BEGIN and GRADCORE_TARGET_END is compiled for more
// than the baseline CPU. Regions, not per-file flags: with flags, inline functions of standard
// headers would be emitted for the wide CPU and could be the copy the linker keeps for everyone.
// GCC and Clang spell it differently, and Clang ignores GCC's pragma without a word.
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
