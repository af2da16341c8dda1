// What the fuzz targets share.
#ifndef GRADCORE_FUZZ_INPUT_HPP
#define GRADCORE_FUZZ_INPUT_HPP

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "gradcore/gradcore.h"

// Ends the program, which is a finding.
inline void require(bool condition) {
  if (!condition) std::abort();
}

// A sentence, of printable ASCII: whatever the input, it must not break a terminal or a log.
inline void require_text(const char *text) {
  require(text && *text);
  for (; *text; text++) require(*text >= ' ' && *text <= '~');
}

// Takes its values from the input, zeros after its end.
class Input {
 public:
  Input(const uint8_t *data, std::size_t size) : data_(data), size_(size) {}
  template <class T>
  T take() {
    T value{};
    const std::size_t n = size_ < sizeof value ? size_ : sizeof value;
    if (n) std::memcpy(&value, data_, n);
    data_ += n, size_ -= n;
    return value;
  }
  // One of `count`.
  int choose(int count) { return take<uint8_t>() % count; }

  const uint8_t *rest() const { return data_; }
  std::size_t rest_size() const { return size_; }

 private:
  const uint8_t *data_;
  std::size_t size_;
};

#endif
