#include "error.hpp"

#include <cstdarg>
#include <cstdio>

namespace gradcore {

namespace {
thread_local char text[512] = "";
}

gradcore_status fail(gradcore_status status, const char *format, ...) noexcept {
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status;
}

const char *last_error() noexcept { return text; }

}  // namespace gradcore
