// The C interface of files. No exception passes.
#include <cstring>
#include <memory>

#include "cancellation.hpp"
#include "handles.hpp"
#include "io/file.hpp"
#include "io/net_file.hpp"

using namespace gradcore;

namespace {

// write(sink) writes the whole content, read(size, source) reads it.
gradcore_status save_to(const char *path, FunctionRef<gradcore_status(WriteBytes)> write) noexcept {
  if (!path) return null_argument("path");
  const CancellationPutOff put_off;
  return guarded([&] {
    FileDraft draft;
    GRADCORE_TRY(draft.open(path));
    GRADCORE_TRY(write([&](const void *data, std::size_t size) { return draft.write(data, size); }));
    return draft.commit();
  });
}

gradcore_status load_from(const char *path, FunctionRef<gradcore_status(int64_t, ReadBytes)> read) noexcept {
  if (!path) return null_argument("path");
  const CancellationPutOff put_off;
  return guarded([&] {
    FileReader file;
    int64_t size = 0;
    GRADCORE_TRY(file.open(path, &size));
    return in_argument("path", read(size, [&](void *data, std::size_t bytes) { return file.read(data, bytes); }));
  });
}

gradcore_status load(int64_t size, ReadBytes read, gradcore_net **net) {
  std::unique_ptr<gradcore_net> made;
  GRADCORE_TRY(read_net(size, read, [&](const gradcore_net_config &config) -> Network * {
    made = std::make_unique<gradcore_net>(config);
    return made.get();
  }));
  *net = made.release();
  return GRADCORE_OK;
}

}  // namespace

gradcore_status gradcore_net_save(const gradcore_net *net, const char *path) {
  if (!net) return null_argument("net");
  return save_to(path, [&](WriteBytes sink) { return write_net(*net, net_file_head(*net), sink); });
}

gradcore_status gradcore_net_load(const char *path, gradcore_net **net) {
  if (!net) return null_argument("net");
  *net = nullptr;
  return load_from(path, [&](int64_t size, ReadBytes source) { return load(size, source, net); });
}

gradcore_status gradcore_optimizer_save(const gradcore_optimizer *optimizer, const char *path) {
  if (!optimizer) return null_argument("optimizer");
  return save_to(path, [&](WriteBytes sink) { return write_optimizer(*optimizer, sink); });
}

gradcore_status gradcore_optimizer_load(gradcore_optimizer *optimizer, const char *path) {
  if (!optimizer) return null_argument("optimizer");
  return load_from(path, [&](int64_t size, ReadBytes source) { return read_optimizer(size, source, *optimizer); });
}

gradcore_status gradcore_net_save_to_memory(const gradcore_net *net, void *data, int64_t capacity, int64_t *size) {
  if (!net) return null_argument("net");
  if (!size) return null_argument("size");
  return guarded([&] {
    const std::string head = net_file_head(*net);
    *size = net_file_size(*net, head);
    if (!data) return GRADCORE_OK;
    if (capacity < *size)
      return fail(GRADCORE_INVALID_ARGUMENT, "capacity: expected at least %lld bytes, got %lld", (long long)*size,
                  (long long)capacity);
    char *to = static_cast<char *>(data);
    return write_net(*net, head, [&](const void *piece, std::size_t bytes) {
      std::memcpy(to, piece, bytes);
      to += bytes;
      return GRADCORE_OK;
    });
  });
}

gradcore_status gradcore_net_load_from_memory(const void *data, int64_t size, gradcore_net **net) {
  if (!net) return null_argument("net");
  *net = nullptr;
  if (!data) return null_argument("data");
  if (size < 0)
    return fail(GRADCORE_INVALID_ARGUMENT, "size: expected a number of bytes >= 0, got %lld", (long long)size);
  return guarded([&] {
    const char *from = static_cast<const char *>(data);
    const auto copy = [&](void *to, std::size_t bytes) {  // read_net never reads more than `size` in total
      std::memcpy(to, from, bytes);
      from += bytes;
      return GRADCORE_OK;
    };
    return in_argument("data", load(size, copy, net));
  });
}
