// Files through the C interface: the same bytes from memory and file, and the state after a failure of the system at
// any moment of a save.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdlib>

#include "check.hpp"
#include "gradcore/gradcore.h"

// Replaces system calls for the library in this program: a chosen call fails, or signals interrupt every other call and
// little is written at a time.
namespace {
enum class Failing { nothing, write, fsync, rename };
Failing failing = Failing::nothing;
int calls_before = 0;  // calls of the failing function that succeed first
bool interrupts = false;
int calls = 0;
mode_t mode_written = 0;  // of the file that the last write went to

bool fails(Failing what) {
  if (failing != what || calls_before-- > 0) return false;
  errno = ENOSPC;
  return true;
}
bool is_interrupted() {
  if (!interrupts || calls++ % 2 != 0) return false;
  errno = EINTR;
  return true;
}
}  // namespace

extern "C" {
ssize_t write(int file, const void *data, size_t size) {
  if (fails(Failing::write)) return -1;
  if (is_interrupted()) return -1;
  struct stat status{};
  if (fstat(file, &status) == 0) mode_written = status.st_mode & 0777;
  return syscall(SYS_write, file, data, interrupts && size > 7 ? 7 : size);
}
ssize_t read(int file, void *data, size_t size) {
  return is_interrupted() ? -1 : syscall(SYS_read, file, data, interrupts && size > 7 ? 7 : size);
}
int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return is_interrupted() ? -1 : int(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int fsync(int file) { return fails(Failing::fsync) || is_interrupted() ? -1 : int(syscall(SYS_fsync, file)); }
int rename(const char *from, const char *to) noexcept {
  return fails(Failing::rename) ? -1 : int(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
}

namespace {

std::string folder;

gradcore_net *make_net(int64_t hidden, int32_t dtype) {
  const int64_t widths[] = {5, hidden, hidden, 3};
  const int32_t activations[] = {GRADCORE_GELU_TANH, GRADCORE_RELU};
  const gradcore_net_config config{sizeof config, widths, 4, activations, GRADCORE_NORM_BATCH, 1, 1, dtype};
  gradcore_net *net = nullptr;
  CHECK(gradcore_net_create(&config, &net) == GRADCORE_OK);
  const int64_t size = gradcore_net_flat_size(net);
  for (int32_t i = 0; i < gradcore_net_num_parameters(net); i++) {
    gradcore_tensor tensor{};
    CHECK(gradcore_net_parameter(net, i, &tensor) == GRADCORE_OK && tensor.offset < size);
    for (int64_t j = tensor.offset; j < tensor.offset + tensor.rows * tensor.cols; j++) {
      const double value = 0.01 * double(j % 89) - 0.3;
      if (dtype == GRADCORE_FLOAT64)
        static_cast<double *>(gradcore_net_parameters(net))[j] = value;
      else
        static_cast<float *>(gradcore_net_parameters(net))[j] = float(value);
    }
  }
  gradcore_net_parameters_changed(net);
  return net;
}

std::string bytes_of(const gradcore_net *net) {
  int64_t size = 0;
  CHECK(gradcore_net_save_to_memory(net, nullptr, 0, &size) == GRADCORE_OK);
  std::string bytes(std::size_t(size), '\0');
  CHECK(gradcore_net_save_to_memory(net, bytes.data(), size - 1, &size) == GRADCORE_INVALID_ARGUMENT);
  CHECK(gradcore_net_save_to_memory(net, bytes.data(), size, &size) == GRADCORE_OK);
  return bytes;
}

std::string content(const std::string &path) {
  std::string bytes;
  std::FILE *file = std::fopen(path.c_str(), "rb");
  if (!CHECK(file)) return bytes;
  char piece[4096];
  for (std::size_t n; (n = std::fread(piece, 1, sizeof piece, file)) > 0;) bytes.append(piece, n);
  std::fclose(file);
  return bytes;
}

int files_in_folder() {
  int count = 0;
  DIR *directory = opendir(folder.c_str());
  while (const dirent *entry = readdir(directory)) count += entry->d_type == DT_REG;
  closedir(directory);
  return count;
}

void check_round_trip(int32_t dtype) {
  const std::string path = folder + "/net";
  gradcore_net *net = make_net(9, dtype), *loaded = nullptr;
  CHECK(gradcore_net_set_origin(net, "he_normal", "12345678901234567890123") == GRADCORE_OK);
  const std::string bytes = bytes_of(net);
  CHECK(gradcore_net_save(net, path.c_str()) == GRADCORE_OK);
  CHECK(content(path) == bytes);
  CHECK(gradcore_net_load(path.c_str(), &loaded) == GRADCORE_OK);
  CHECK(bytes_of(loaded) == bytes);
  gradcore_net_destroy(loaded);
  CHECK(gradcore_net_load_from_memory(bytes.data(), int64_t(bytes.size()), &loaded) == GRADCORE_OK);
  CHECK(bytes_of(loaded) == bytes);
  CHECK(std::string(gradcore_net_seed(loaded)) == "12345678901234567890123");
  const std::size_t element = dtype == GRADCORE_FLOAT64 ? 8 : 4;
  CHECK(std::memcmp(gradcore_net_parameters(net), gradcore_net_parameters(loaded),
                    std::size_t(gradcore_net_flat_size(net)) * element) == 0);
  gradcore_net_destroy(loaded);
  gradcore_net_destroy(net);
}

// A file that is cut anywhere gives no net, and no read goes beyond the memory (under sanitizers).
void check_truncations() {
  gradcore_net *net = make_net(2, GRADCORE_FLOAT32), *loaded = nullptr;
  const std::string bytes = bytes_of(net);
  for (std::size_t length = 0; length < bytes.size(); length++) {
    const std::vector<char> cut(bytes.begin(), bytes.begin() + std::ptrdiff_t(length));  // its own block
    CHECK(gradcore_net_load_from_memory(length ? cut.data() : "", int64_t(length), &loaded) ==
          GRADCORE_INVALID_ARGUMENT);
    CHECK(!loaded);
  }
  gradcore_net_destroy(net);
}

void check_failing_system() {
  const std::string path = folder + "/net";
  gradcore_net *old = make_net(9, GRADCORE_FLOAT32), *other = make_net(20, GRADCORE_FLOAT32);
  CHECK(gradcore_net_save(old, path.c_str()) == GRADCORE_OK);
  const std::string before = bytes_of(old);
  const auto check_failure = [&](Failing what, int after) {
    failing = what, calls_before = after, errno = 0;
    CHECK(gradcore_net_save(other, path.c_str()) == GRADCORE_IO_ERROR);
    CHECK(errno == ENOSPC && std::strstr(gradcore_last_error(), "No space left"));
    failing = Failing::nothing;
    CHECK(content(path) == before && files_in_folder() == 1);
  };
  for (const int after : {0, 1, 5, 12}) check_failure(Failing::write, after);
  check_failure(Failing::fsync, 0);
  check_failure(Failing::rename, 0);
  failing = Failing::fsync, calls_before = 1;  // the fsync of the folder; the file itself is safe
  CHECK(gradcore_net_save(other, path.c_str()) == GRADCORE_OK);
  failing = Failing::nothing;
  gradcore_net *loaded = nullptr;
  interrupts = true;
  CHECK(gradcore_net_save(old, path.c_str()) == GRADCORE_OK);
  CHECK(gradcore_net_load(path.c_str(), &loaded) == GRADCORE_OK);
  interrupts = false;
  CHECK(content(path) == before && files_in_folder() == 1 && bytes_of(loaded) == before);
  gradcore_net_destroy(loaded);
  gradcore_net_destroy(old);
  gradcore_net_destroy(other);
}

// What only the owner may read, nobody else can read while it is written either.
void check_permissions() {
  const std::string path = folder + "/net";
  gradcore_net *net = make_net(2, GRADCORE_FLOAT32);
  CHECK(gradcore_net_save(net, path.c_str()) == GRADCORE_OK);
  CHECK(chmod(path.c_str(), 0600) == 0 && gradcore_net_save(net, path.c_str()) == GRADCORE_OK);
  CHECK(mode_written == 0600);
  gradcore_net_destroy(net);
}

// A thread that is cancelled in a call goes on to its end and can be cancelled after it. Unwinding from within would
// end the process. (The thread ends without unwinding: AddressSanitizer of GCC 12 takes that for an error of the
// program.)
void check_cancellation() {
  static gradcore_status saved, loaded;
  static int after;
  static gradcore_net *net;
  saved = loaded = GRADCORE_INTERNAL;
  net = make_net(2, GRADCORE_FLOAT32);
  pthread_t thread;
  void *result = nullptr;
  const auto run = [](void *) -> void * {
    gradcore_net *other = nullptr;
    pthread_cancel(pthread_self());
    gradcore_get_num_threads();  // the first call reads files
    saved = gradcore_net_save(net, (folder + "/net").c_str());
    loaded = gradcore_net_load((folder + "/net").c_str(), &other);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &after);
    gradcore_net_destroy(other);
    return net;
  };
  CHECK(pthread_create(&thread, nullptr, run, nullptr) == 0 && pthread_join(thread, &result) == 0);
  CHECK(result == net && saved == GRADCORE_OK && loaded == GRADCORE_OK && after == PTHREAD_CANCEL_ENABLE);
  gradcore_net_destroy(net);
}

void check_paths() {
  gradcore_net *net = make_net(2, GRADCORE_FLOAT32), *loaded = nullptr;
  const auto refused = [&](gradcore_status status, int reason) {
    return status == GRADCORE_IO_ERROR && errno == reason && gradcore_last_error()[0] != '\0';
  };
  CHECK(refused(gradcore_net_load((folder + "/absent").c_str(), &loaded), ENOENT));
  CHECK(refused(gradcore_net_load(folder.c_str(), &loaded), EISDIR));
  CHECK(refused(gradcore_net_load("/dev/zero", &loaded), EINVAL));
  CHECK(refused(gradcore_net_save(net, (folder + "/absent/net").c_str()), ENOENT));
  CHECK(refused(gradcore_net_save(net, ""), ENOENT));
  CHECK(chdir(folder.c_str()) == 0 && gradcore_net_save(net, "net") == GRADCORE_OK);
  CHECK(gradcore_net_load("net", &loaded) == GRADCORE_OK);
  gradcore_net_destroy(loaded);
  gradcore_net_destroy(net);
}

}  // namespace

int main() {
  folder = "/tmp/gradcore-test-" + std::string(6, 'X');  // which mkdtemp replaces
  if (!mkdtemp(folder.data())) return 1;
  check_cancellation();
  check_round_trip(GRADCORE_FLOAT32);
  check_round_trip(GRADCORE_FLOAT64);
  check_round_trip(GRADCORE_BFLOAT16);
  check_truncations();
  check_failing_system();
  check_permissions();
  check_paths();
  unlink((folder + "/net").c_str());
  rmdir(folder.c_str());
  return gradcore::testing::report();
}
