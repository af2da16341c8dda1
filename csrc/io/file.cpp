#include "io/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <system_error>

#include "error.hpp"

namespace gradcore {

namespace {

// Fails with the reason in errno, and leaves errno unchanged.
gradcore_status fail_io(const char *expected) {
  const int reason = errno;
  fail(GRADCORE_IO_ERROR, "path: expected %s, got: %s", expected, std::generic_category().message(reason).c_str());
  errno = reason;
  return GRADCORE_IO_ERROR;
}

// Fails for what is no regular file. Of pipes and devices errno can only say EINVAL, whose text says nothing.
gradcore_status fail_irregular(const struct stat &there) {
  errno = EISDIR;
  if (S_ISDIR(there.st_mode)) return fail_io("a regular file");
  fail(GRADCORE_IO_ERROR, "path: expected a regular file, got a pipe or a device");
  errno = EINVAL;
  return GRADCORE_IO_ERROR;
}

// A name that no other call of any process is likely to use; O_EXCL of open() guarantees it.
std::string draft_name() {
  static std::atomic<unsigned> calls{0};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  char name[80];
  std::snprintf(name, sizeof name, ".gradcore-%lx-%llx-%lx-%x", long(getpid()), (unsigned long long)now.tv_sec,
                long(now.tv_nsec), calls.fetch_add(1));
  return name;
}

// Writes the new name to the disk. Some file systems cannot do this; the content of the file is safe nevertheless.
void sync_folder(const std::string &folder) noexcept {
  Descriptor descriptor;
  descriptor.open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (descriptor.number >= 0) fsync(descriptor.number);
}

}  // namespace

// As ::open. Opening is slow on some file systems, and then a signal may interrupt it, as it may any other call.
void Descriptor::open(const char *path, int flags) noexcept {
  do number = ::open(path, flags | O_CLOEXEC, 0666);
  while (number < 0 && errno == EINTR);
}

void Descriptor::close() noexcept {
  if (number < 0) return;
  const int reason = errno;
  ::close(number);
  errno = reason;
  number = -1;
}

gradcore_status FileReader::open(const char *path, int64_t *size) {
  struct stat status{};
  file_.open(path, O_RDONLY | O_NONBLOCK);  // must not block on a pipe without a writer
  if (file_.number < 0 || fstat(file_.number, &status) != 0) return fail_io("a file that can be read");
  if (!S_ISREG(status.st_mode)) return fail_irregular(status);
  *size = int64_t(status.st_size);
  return GRADCORE_OK;
}

gradcore_status FileReader::read(void *data, std::size_t size) {
  for (char *to = static_cast<char *>(data); size > 0;) {
    const ssize_t got = ::read(file_.number, to, size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_io("a file that can be read");
    if (got == 0)
      return fail(GRADCORE_INVALID_ARGUMENT, "expected %zu more bytes, got the file's end: truncated", size);
    to += got;
    size -= std::size_t(got);
  }
  return GRADCORE_OK;
}

FileDraft::~FileDraft() {
  if (draft_.empty()) return;
  const int reason = errno;
  file_.close();
  unlink(draft_.c_str());
  errno = reason;
}

// An existing path must be a regular file, possibly behind links. Renaming the draft over a pipe, a device or a link
// would replace it.
gradcore_status FileDraft::open(const char *path) {
  constexpr int kMostLinks = 40;  // the limit of Linux
  struct stat there{};
  path_ = path;
  const auto folder_of_path = [&] {
    const std::size_t slash = path_.rfind('/');
    return slash == std::string::npos ? std::string() : path_.substr(0, slash + 1);
  };
  bool exists;
  for (int links = 0; (exists = lstat(path_.c_str(), &there) == 0) && S_ISLNK(there.st_mode); links++) {
    char target[4096];
    const ssize_t length = readlink(path_.c_str(), target, sizeof target);
    if (links == kMostLinks) errno = ELOOP;
    if (length < 0 || links == kMostLinks) return fail_io("a file that can be replaced");
    path_ = (target[0] == '/' ? std::string() : folder_of_path()) + std::string(target, std::size_t(length));
  }
  if (exists && !S_ISREG(there.st_mode)) return fail_irregular(there);
  // A rename asks for permission on the folder alone, and would replace what its owner has protected.
  if (exists && faccessat(AT_FDCWD, path_.c_str(), W_OK, AT_EACCESS) != 0) return fail_io("a file that can be written");
  folder_ = folder_of_path();
  if (folder_.empty()) folder_ = ".";
  std::string draft = folder_ + "/" + draft_name();
  file_.open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL);
  if (file_.number < 0) return fail_io("a file that can be written");
  draft_ = std::move(draft);
  if (!exists) return GRADCORE_OK;
  // Before anything is written, which not everyone may be allowed to read. A process of root must not take the file
  // from its owner.
  (void)!fchown(file_.number, there.st_uid, there.st_gid);
  (void)!fchmod(file_.number, there.st_mode & 0777);
  return GRADCORE_OK;
}

gradcore_status FileDraft::write(const void *data, std::size_t size) {
  for (const char *from = static_cast<const char *>(data); size > 0;) {
    const ssize_t written = ::write(file_.number, from, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_io("a file that can be written");
    from += written;
    size -= std::size_t(written);
  }
  return GRADCORE_OK;
}

gradcore_status FileDraft::commit() {
  while (fsync(file_.number) != 0)
    if (errno != EINTR) return fail_io("a file that can be written");
  file_.close();
  if (rename(draft_.c_str(), path_.c_str()) != 0) return fail_io("a file that can be replaced");
  draft_.clear();
  sync_folder(folder_);
  return GRADCORE_OK;
}

}  // namespace gradcore
