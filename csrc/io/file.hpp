// Files by path: read from the start, or replaced as a whole. System errors are GRADCORE_IO_ERROR with the reason in
// errno.
#ifndef GRADCORE_IO_FILE_HPP
#define GRADCORE_IO_FILE_HPP

#include <cstddef>
#include <string>

#include "gradcore/gradcore.h"

namespace gradcore {

// A file descriptor that is closed at the end of its scope.
class Descriptor {
 public:
  Descriptor() = default;
  Descriptor(const Descriptor &) = delete;
  Descriptor &operator=(const Descriptor &) = delete;
  ~Descriptor() { close(); }
  void open(const char *path, int flags) noexcept;
  void close() noexcept;  // keeps errno
  int number = -1;
};

class FileReader {
 public:
  gradcore_status open(const char *path, int64_t *size);
  // Exactly `size` bytes; fewer are "truncated", an invalid argument.
  gradcore_status read(void *data, std::size_t size);

 private:
  Descriptor file_;
};

// A new file next to `path` that is completed, flushed to disk and moved over it. A crash at any moment leaves either
// the old file or the new one. Without commit() nothing is left behind.
class FileDraft {
 public:
  ~FileDraft();
  gradcore_status open(const char *path);
  gradcore_status write(const void *data, std::size_t size);
  gradcore_status commit();

 private:
  std::string path_, folder_, draft_;  // draft_: empty unless there is a file to remove
  Descriptor file_;
};

}  // namespace gradcore

#endif
