#include "error.hpp"

#include <locale.h>

#include <cctype>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

namespace gradcore {

namespace {
thread_local char text[512] = "";
}

// The C library formats with the locale of the calling thread. This one exists without an allocation.
void format_text(char *to, std::size_t size, const char *format, std::va_list arguments) noexcept {
  const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr), before = uselocale(plain);
  std::vsnprintf(to, size, format, arguments);
  uselocale(before);
  if (plain) freelocale(plain);
}

gradcore_status fail(gradcore_status status, const char *format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  format_text(text, sizeof text, format, arguments);
  va_end(arguments);
  // The C library prints the sign that arithmetic left on a NaN; it means nothing to a reader.
  for (char *nan = text; (nan = std::strstr(nan, " -nan")); nan++)
    if (!std::isalnum(static_cast<unsigned char>(nan[5]))) std::memmove(nan + 1, nan + 2, std::strlen(nan + 1));
  return status;
}

gradcore_status in_argument(const char *name, gradcore_status status) noexcept {
  if (status != GRADCORE_INVALID_ARGUMENT) return status;
  char part[sizeof text];
  std::memcpy(part, text, sizeof text);
  return fail(status, "%s: %s", name, part);
}

gradcore_status check_eps(int32_t dtype, double eps) noexcept {
  const double least = dtype == GRADCORE_FLOAT64 ? DBL_MIN : double(FLT_MIN);
  if (std::isfinite(eps) && eps >= least) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT,
              "eps: expected a finite number >= %g, the smallest normal number of the dtype, got %g", least, eps);
}

gradcore_status check_loss(int32_t loss) noexcept {
  if (loss >= 0 && loss < GRADCORE_NUM_LOSSES) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT, "loss: expected 0 to %d, got %d", GRADCORE_NUM_LOSSES - 1, loss);
}

gradcore_status check_count(const char *name, int64_t count) noexcept {
  if (count >= 0 && count <= kMostElements) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected 0 to 2^56 elements, got %lld", name, (long long)count);
}

gradcore_status check_labels(const int64_t *labels, int64_t rows, int64_t classes) noexcept {
  for (int64_t r = 0; r < rows; r++)
    if (labels[r] < 0 || labels[r] >= classes)
      return fail(GRADCORE_INVALID_ARGUMENT, "target[%lld]: expected a label in [0, %lld), got %lld", (long long)r,
                  (long long)classes, (long long)labels[r]);
  return GRADCORE_OK;
}

const char *last_error() noexcept { return text; }

gradcore_status caught() noexcept {
  try {
    throw;
  } catch (const std::bad_alloc &) {
    return fail(GRADCORE_OUT_OF_MEMORY, "out of memory; nothing was changed");
  } catch (...) {
    return fail(GRADCORE_INTERNAL, "internal error");
  }
}

TrapsMasked::TrapsMasked() noexcept {
  if (!before_.traps()) return;
  FloatMode masked = before_;
  masked.mask_traps();
  masked.set();
}
TrapsMasked::~TrapsMasked() {
  if (before_.traps()) before_.set();
}

}  // namespace gradcore
