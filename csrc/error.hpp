// The calling thread's last failure, behind gradcore_last_error().
#ifndef GRADCORE_ERROR_HPP
#define GRADCORE_ERROR_HPP

#include <cstdarg>
#include <cstddef>

#include "float_mode.hpp"
#include "gradcore/gradcore.h"

namespace gradcore {

// As std::vsnprintf, but with a decimal point, whatever the locale that the host has set.
void format_text(char *to, std::size_t size, const char *format, std::va_list arguments) noexcept;

// Stores the text (printf style: which argument, what was expected, what came) and returns `status`.
__attribute__((format(printf, 2, 3))) gradcore_status fail(gradcore_status status, const char *format, ...) noexcept;

const char *last_error() noexcept;

inline gradcore_status null_argument(const char *name) noexcept {
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", name);
}

// The text of a wrong argument begins with this argument, of which the failed call knew only a part.
gradcore_status in_argument(const char *name, gradcore_status status) noexcept;

// Checks the eps of a normalization or an optimizer. An eps that rounds to zero gives 0 / 0 for constant inputs or zero
// gradients.
gradcore_status check_eps(int32_t dtype, double eps) noexcept;

gradcore_status check_loss(int32_t loss) noexcept;

// The most elements of an array: no memory holds as many, and their size in bytes does not overflow.
inline constexpr int64_t kMostElements = int64_t(1) << 56;
gradcore_status check_count(const char *name, int64_t count) noexcept;
// The distance between the rows of a caller's matrix; that of a single row may be any number.
template <class Matrix>
int64_t stride_of(const Matrix &matrix) noexcept {
  return matrix.rows > 1 ? matrix.stride : matrix.cols;
}
gradcore_status check_labels(const int64_t *labels, int64_t rows, int64_t classes) noexcept;

// In the handler of an exception: what it means to the caller of the library.
gradcore_status caught() noexcept;

// Runs a call that may throw; the only exception the core lets through is std::bad_alloc. Meanwhile, no floating-point
// operation traps.
template <class F>
gradcore_status guarded(F &&call) noexcept {
  const TrapsMasked masked;
  try {
    return call();
  } catch (...) {
    return caught();
  }
}

}  // namespace gradcore

// Returns from the enclosing function if `expression` is not GRADCORE_OK.
#define GRADCORE_TRY(expression)                                                              \
  do {                                                                                        \
    if (const gradcore_status status_ = (expression); status_ != GRADCORE_OK) return status_; \
  } while (0)

#endif
