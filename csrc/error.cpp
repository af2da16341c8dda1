#include "error.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace gradcore {

namespace {
thread_local char text[512] = "";
}

gradcore_status fail(gradcore_status status, const char *format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  // The C library prints the sign that arithmetic left on a NaN; it means nothing to a reader.
  while (char *nan = std::strstr(text, "-nan")) std::memmove(nan, nan + 1, std::strlen(nan));
  return status;
}

const char *last_error() noexcept { return text; }

}  // namespace gradcore
