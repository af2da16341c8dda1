// The calling thread's last failure, behind gradcore_last_error().
#ifndef GRADCORE_ERROR_HPP
#define GRADCORE_ERROR_HPP

#include "gradcore/gradcore.h"

namespace gradcore {

// Stores the text (printf style: which argument, what was expected, what came) and returns `status`.
__attribute__((format(printf, 2, 3))) gradcore_status fail(gradcore_status status, const char *format, ...) noexcept;

const char *last_error() noexcept;

}  // namespace gradcore

// Returns from the enclosing function when `expression` is not GRADCORE_OK.
#define GRADCORE_TRY(expression)                                                              \
  do {                                                                                        \
    if (const gradcore_status status_ = (expression); status_ != GRADCORE_OK) return status_; \
  } while (0)

#endif
