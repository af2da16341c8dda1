#include "io/net_file.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "error.hpp"
#include "io/json.hpp"

namespace gradcore {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "files are little-endian; this reads and writes them as they are");

namespace {

constexpr uint64_t kMaxHeader = 100000000;  // the limit of the reference implementation of safetensors
constexpr int64_t kFormatVersion = 1;
constexpr const char *kNormalizationNames[] = {nullptr, "batch", "layer", "rms"};

struct Dtype {
  const char *name, *tag;
  index bytes;
};
constexpr Dtype kDtypes[] = {{"float32", "F32", 4}, {"float64", "F64", 8}, {"bfloat16", "F32", 4}};

// Keys of the metadata under which a file has its description.
constexpr const char *kNetKey = "gradcore", *kOptimizerKey = "gradcore_optimizer";

// A tensor of the net, and the place of its bytes in memory and in the file.
struct Place {
  const TensorInfo *tensor;
  char *flat;  // the flat buffer that holds it; null if the net does not exist yet
  index begin, bytes;
};

// Places the tensors in the file, one after the other, sorted by name.
void arrange(std::vector<Place> *all) {
  std::sort(all->begin(), all->end(), [](const Place &a, const Place &b) { return a.tensor->name < b.tensor->name; });
  index end = 0;
  for (Place &place : *all) end += (place.begin = end, place.bytes);
}

// The places of parameters and buffers.
std::vector<Place> places(const Architecture &net, char *parameters, char *buffers) {
  std::vector<Place> all;
  const index bytes = kDtypes[net.dtype].bytes;
  for (const TensorInfo &tensor : net.parameters) all.push_back({&tensor, parameters, 0, tensor.size() * bytes});
  for (const TensorInfo &tensor : net.buffers) all.push_back({&tensor, buffers, 0, tensor.size() * bytes});
  arrange(&all);
  return all;
}

std::vector<Place> places(const Network &net) {
  return places(net.architecture(), static_cast<char *>(net.parameters()), static_cast<char *>(net.buffers()));
}

char *bytes_of(const Place &place, gradcore_dtype dtype) noexcept {
  return place.flat + place.tensor->offset * kDtypes[dtype].bytes;
}

// ---- writing ----

template <class Values, class Text>
std::string listed(const Values &values, const char *separator, Text &&text) {
  std::string list = "[";
  for (const auto &value : values) {
    if (list.size() > 1) list += separator;
    list += text(value);
  }
  return list + "]";
}

// Formatted as by Python's json.dumps, which wrote the first of these files.
std::string architecture_text(const Network &net) {
  const gradcore_net_config config = net.config();
  const std::vector<int64_t> widths(config.widths, config.widths + config.num_widths);
  const std::vector<int32_t> activations(config.activations, config.activations + (config.num_widths - 2));
  const auto flag = [](int32_t value) { return value ? "true" : "false"; };
  const char *normalization = kNormalizationNames[config.normalization];
  std::string text = "{\"version\": " + std::to_string(kFormatVersion);
  text += ", \"widths\": " + listed(widths, ", ", [](int64_t width) { return std::to_string(width); });
  text += ", \"activation\": " +
          listed(activations, ", ", [](int32_t code) { return json::quoted(gradcore_activation_name(code)); });
  text += ", \"normalization\": " + (normalization ? json::quoted(normalization) : std::string("null"));
  text += std::string(", \"residual\": ") + flag(config.residual) + ", \"bias\": " + flag(config.bias);
  text += ", \"dtype\": " + json::quoted(kDtypes[config.dtype].name);
  text += ", \"init\": " + json::quoted(net.origin.init);
  return text + ", \"seed\": " + (net.origin.seed.empty() ? "null" : net.origin.seed) + "}";
}

std::string head_of(const char *key, const std::string &metadata, const std::vector<Place> &places,
                    gradcore_dtype dtype) {
  std::string text = "{\"__metadata__\":{\"" + std::string(key) + "\":" + json::quoted(metadata) + "}";
  for (const Place &place : places) {
    const TensorInfo &tensor = *place.tensor;
    text += "," + json::quoted(tensor.name) + ":{\"dtype\":\"" + kDtypes[dtype].tag;
    text +=
        "\",\"shape\":[" + (tensor.rank == 2 ? std::to_string(tensor.rows) + "," : "") + std::to_string(tensor.cols);
    text +=
        "],\"data_offsets\":[" + std::to_string(place.begin) + "," + std::to_string(place.begin + place.bytes) + "]}";
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');  // so that the tensors start aligned
  const uint64_t length = text.size();
  std::string head(sizeof length, '\0');
  std::memcpy(head.data(), &length, sizeof length);
  return head + text;
}

}  // namespace

std::string net_file_head(const Network &net) {
  return head_of(kNetKey, architecture_text(net), places(net), net.architecture().dtype);
}

index net_file_size(const Network &net, const std::string &head) {
  const Architecture &architecture = net.architecture();
  index elements = 0;
  for (const auto *tensors : {&architecture.parameters, &architecture.buffers})
    for (const TensorInfo &tensor : *tensors) elements += tensor.size();
  return index(head.size()) + elements * kDtypes[architecture.dtype].bytes;
}

gradcore_status write_net(const Network &net, const std::string &head, WriteBytes write) {
  const std::vector<Place> parts = places(net);  // may throw bad_alloc, so before anything is written
  GRADCORE_TRY(write(head.data(), head.size()));
  for (const Place &place : parts)
    GRADCORE_TRY(write(bytes_of(place, net.architecture().dtype), std::size_t(place.bytes)));
  return GRADCORE_OK;
}

// ---- reading ----

namespace {

// A tensor as the header describes it.
struct Entry {
  std::string name, dtype;
  std::vector<int64_t> shape, offsets;
};

struct Header {
  const char *key;  // of the description in the metadata
  std::vector<Entry> entries;
  std::string text;  // the description
  bool has_metadata = false, has_text = false;
};

// An architecture as a file describes it.
struct Described {
  std::vector<int64_t> widths;
  std::vector<int32_t> activations;
  int32_t normalization = 0, residual = 0, bias = 0, dtype = 0;
  Network::Origin origin;

  gradcore_net_config config() const noexcept {
    return {sizeof(gradcore_net_config),
            widths.data(),
            int32_t(widths.size()),
            activations.data(),
            normalization,
            residual,
            bias,
            dtype};
  }
};

gradcore_status twice(const char *where, const std::string &name) noexcept {
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected each name once, got '%s' twice", where,
              json::Excerpt(name).text());
}

gradcore_status read_entry(json::Reader &reader, Entry *entry) {
  const auto integers = [&](std::vector<int64_t> *to) {
    return reader.array([&] { return reader.integer(&to->emplace_back()); });
  };
  unsigned found = 0;
  GRADCORE_TRY(reader.object([&](const std::string &key) {
    const unsigned bit = key == "dtype" ? 1 : key == "shape" ? 2 : key == "data_offsets" ? 4 : 0;
    if (bit == 0 || (found & bit))
      return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected dtype, shape and data_offsets once each, got '%s'",
                  json::Excerpt(entry->name).text(), json::Excerpt(key).text());
    found |= bit;
    return bit == 1 ? reader.string(&entry->dtype) : integers(bit == 2 ? &entry->shape : &entry->offsets);
  }));
  if (found != 7 || entry->offsets.size() != 2)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected dtype, shape and two data_offsets, got fewer or more",
                json::Excerpt(entry->name).text());
  return GRADCORE_OK;
}

gradcore_status read_metadata(json::Reader &reader, Header *header) {
  if (header->has_metadata) return twice("header", "__metadata__");
  header->has_metadata = true;
  std::string other;
  return reader.object([&](const std::string &key) {
    const bool ours = key == header->key;
    if (ours && header->has_text) return twice("metadata", key);
    header->has_text |= ours;
    return reader.string(ours ? &header->text : &other);
  });
}

gradcore_status read_header(std::string_view text, Header *header) {
  json::Reader reader("header", text);
  GRADCORE_TRY(reader.object([&](const std::string &key) {
    if (key == "__metadata__") return read_metadata(reader, header);
    Entry &entry = header->entries.emplace_back();
    entry.name = key;
    return read_entry(reader, &entry);
  }));
  GRADCORE_TRY(reader.end());
  if (!header->has_text)
    return fail(GRADCORE_INVALID_ARGUMENT,
                header->key == kNetKey
                    ? "expected an architecture under 'gradcore' in the metadata, got none: not a gradcore file"
                    : "expected 'gradcore_optimizer' in the metadata, got none: not the file of an optimizer");
  std::sort(header->entries.begin(), header->entries.end(),
            [](const Entry &a, const Entry &b) { return a.name < b.name; });
  for (std::size_t i = 1; i < header->entries.size(); i++)
    if (header->entries[i - 1].name == header->entries[i].name) return twice("header", header->entries[i].name);
  return GRADCORE_OK;
}

// The position of a name in a list of names; null names match nothing.
template <class Name>
gradcore_status choice(json::Reader &reader, const char *what, int32_t count, Name name, int32_t *value) {
  std::string text;
  GRADCORE_TRY(reader.string(&text));
  for (*value = 0; *value < count; ++*value)
    if (const char *candidate = name(*value); candidate && text == candidate) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected the name of a known %s, got '%s'", what,
              json::Excerpt(text).text());
}

// One member of the architecture.
gradcore_status read_member(json::Reader &reader, int member, Described *to) {
  int64_t version = 0;
  switch (member) {
    case 0:
      GRADCORE_TRY(reader.integer(&version));
      if (version == kFormatVersion) return GRADCORE_OK;
      return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected format version %lld, got %lld",
                  (long long)kFormatVersion, (long long)version);
    case 1:
      return reader.array([&] { return reader.integer(&to->widths.emplace_back()); });
    case 2:
      return reader.array([&] {
        return choice(reader, "activation", GRADCORE_NUM_ACTIVATIONS, gradcore_activation_name,
                      &to->activations.emplace_back());
      });
    case 3:
      if (reader.take("null")) return GRADCORE_OK;
      return choice(reader, "normalization", 4, [](int32_t i) { return kNormalizationNames[i]; }, &to->normalization);
    case 4:
      return reader.boolean(&to->residual);
    case 5:
      return reader.boolean(&to->bias);
    case 6:
      return choice(
          reader, "dtype", int32_t(std::size(kDtypes)), [](int32_t i) { return kDtypes[i].name; }, &to->dtype);
    case 7:
      return reader.string(&to->origin.init);
    default:
      return reader.take("null") ? GRADCORE_OK : reader.digits(&to->origin.seed, Network::Origin::kMaxSeed);
  }
}

gradcore_status read_architecture(const std::string &text, Described *to) {
  constexpr const char *kMembers[] = {"version", "widths", "activation", "normalization", "residual",
                                      "bias",    "dtype",  "init",       "seed"};
  constexpr int kNumMembers = sizeof kMembers / sizeof *kMembers;
  json::Reader reader("metadata", text);
  unsigned found = 0;
  GRADCORE_TRY(reader.object([&](const std::string &key) {
    const int member = int(std::find(kMembers, kMembers + kNumMembers, key) - kMembers);
    if (member == kNumMembers || (found & (1u << member)))
      return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected each entry of an architecture once, got '%s'",
                  json::Excerpt(key).text());
    found |= 1u << member;
    return read_member(reader, member, to);
  }));
  GRADCORE_TRY(reader.end());
  for (int member = 0; member < kNumMembers; member++)
    if (!(found & (1u << member)))
      return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected an entry '%s', got none", kMembers[member]);
  if (to->activations.size() + 2 != to->widths.size())
    return fail(GRADCORE_INVALID_ARGUMENT,
                "metadata: expected an activation for each hidden layer, got %zu for %zu widths",
                to->activations.size(), to->widths.size());
  return GRADCORE_OK;
}

// Checks an entry against the tensor of the same name.
gradcore_status check_entry(const Entry &entry, const TensorInfo &tensor, const Dtype &dtype) noexcept {
  const char *name = tensor.name.c_str();
  if (entry.dtype != dtype.tag)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected dtype %s, got '%s'", name, dtype.tag,
                json::Excerpt(entry.dtype).text());
  const auto &shape = entry.shape;
  const bool fits = tensor.rank == 2 ? shape.size() == 2 && shape[0] == tensor.rows && shape[1] == tensor.cols
                                     : shape.size() == 1 && shape[0] == tensor.cols;
  if (!fits)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected shape [%lld, %lld] (a vector: its length), got another", name,
                (long long)tensor.rows, (long long)tensor.cols);
  const index bytes = tensor.size() * dtype.bytes, begin = entry.offsets[0], end = entry.offsets[1];
  if (begin < 0 || end < begin || end - begin != bytes)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected %lld bytes of data, got data_offsets [%lld, %lld]", name,
                (long long)bytes, (long long)begin, (long long)end);
  return GRADCORE_OK;
}

// Turns places in the order of names into the order of their data, and checks them. Entries may come in any order, but
// together they must fill `num_bytes`.
gradcore_status match(const Header &header, gradcore_dtype dtype, index num_bytes, std::vector<Place> *matched) {
  const std::vector<Entry> &entries = header.entries;
  for (std::size_t i = 0; i < std::max(matched->size(), entries.size()); i++) {
    const std::string *expected = i < matched->size() ? &(*matched)[i].tensor->name : nullptr;
    const std::string *got = i < entries.size() ? &entries[i].name : nullptr;
    if (expected && got && *expected == *got) continue;
    if (!got || (expected && *expected < *got))
      return fail(GRADCORE_INVALID_ARGUMENT, "expected the tensors of its architecture, got none named '%s'",
                  expected->c_str());
    return fail(GRADCORE_INVALID_ARGUMENT, "expected the tensors of its architecture, got '%s' besides",
                json::Excerpt(*got).text());
  }
  for (std::size_t i = 0; i < matched->size(); i++) {
    GRADCORE_TRY(check_entry(entries[i], *(*matched)[i].tensor, kDtypes[dtype]));
    (*matched)[i].begin = entries[i].offsets[0];
  }
  std::sort(matched->begin(), matched->end(), [](const Place &a, const Place &b) { return a.begin < b.begin; });
  index end = 0;
  for (const Place &place : *matched) {
    if (place.begin != end)
      return fail(GRADCORE_INVALID_ARGUMENT,
                  "%s: expected its data to start at byte %lld, got %lld: a hole or an overlap",
                  place.tensor->name.c_str(), (long long)end, (long long)place.begin);
    end += place.bytes;
  }
  if (end != num_bytes)
    return fail(GRADCORE_INVALID_ARGUMENT,
                "expected %lld bytes of tensors, got %lld: truncated, or with something appended", (long long)end,
                (long long)num_bytes);
  return GRADCORE_OK;
}

// Reads the header of a file of *size bytes; *size is then the size of the tensors.
gradcore_status read_front(index *size, ReadBytes read, Header *header) {
  uint64_t length = 0;
  if (*size < index(sizeof length))
    return fail(GRADCORE_INVALID_ARGUMENT, "expected a safetensors file, got one of %lld bytes", (long long)*size);
  GRADCORE_TRY(read(&length, sizeof length));
  *size -= index(sizeof length);
  if (length > kMaxHeader || index(length) > *size)
    return fail(
        GRADCORE_INVALID_ARGUMENT,
        "expected a safetensors header within the file's %lld bytes, got one of %llu bytes: truncated, or not a "
        "safetensors file",
        (long long)*size, (unsigned long long)length);
  *size -= index(length);
  std::string text(std::size_t(length), '\0');
  GRADCORE_TRY(read(text.data(), text.size()));
  return read_header(text, header);
}

}  // namespace

gradcore_status read_net(index size, ReadBytes read, MakeNetwork make) {
  Header header{kNetKey, {}, {}};
  GRADCORE_TRY(read_front(&size, read, &header));
  Described described;
  GRADCORE_TRY(read_architecture(header.text, &described));
  const gradcore_net_config config = described.config();
  GRADCORE_TRY(Network::check_config(&config));
  // A short file must not cause a large allocation: layers are counted before they are created, and their tensors are
  // found in the file before memory is allocated for them.
  if (described.widths.size() > header.entries.size() + 1)
    return fail(GRADCORE_INVALID_ARGUMENT, "expected a tensor for each of %zu layers, got %zu",
                described.widths.size() - 1, header.entries.size());
  const Architecture architecture = make_architecture(config);
  std::vector<Place> in_order = places(architecture, nullptr, nullptr);
  GRADCORE_TRY(match(header, architecture.dtype, size, &in_order));
  Network &net = *make(config);
  GRADCORE_TRY(net.set_origin(described.origin.init, described.origin.seed));
  for (Place place : in_order) {
    const TensorInfo *buffers = architecture.buffers.data();
    const bool is_buffer = place.tensor >= buffers && place.tensor < buffers + architecture.buffers.size();
    place.flat = static_cast<char *>(is_buffer ? net.buffers() : net.parameters());
    GRADCORE_TRY(read(bytes_of(place, architecture.dtype), std::size_t(place.bytes)));
  }
  return GRADCORE_OK;
}

// ---- optimizers ----

namespace {

constexpr const char *kKindNames[GRADCORE_NUM_OPTIMIZERS] = {"sgd", "rmsprop", "adam", "adamw"};

// "state0.dense0.weight", ...: one tensor for each parameter of the net and each state vector of the optimizer.
std::vector<TensorInfo> state_tensors(const NetOptimizer &optimizer) {
  std::vector<TensorInfo> tensors;
  const std::vector<TensorInfo> &parameters = optimizer.net.architecture().parameters;
  for (int i = 0; i < optimizer.num_states(); i++)
    for (TensorInfo tensor : parameters) {
      tensor.name = "state" + std::to_string(i) + "." + tensor.name;
      tensors.push_back(std::move(tensor));
    }
  return tensors;
}

// The places of these tensors: in vectors of the net's flat size, from `states` on, or in the optimizer's own vectors.
std::vector<Place> state_places(const NetOptimizer &optimizer, const std::vector<TensorInfo> &tensors, char *states) {
  const Architecture &net = optimizer.net.architecture();
  const index bytes = kDtypes[net.dtype].bytes, flat_bytes = net.flat_size * bytes;
  std::vector<Place> all;
  for (std::size_t i = 0; i < tensors.size(); i++) {
    const int state = int(i / net.parameters.size());
    char *flat = states ? states + state * flat_bytes : static_cast<char *>(optimizer.state(state));
    all.push_back({&tensors[i], flat, 0, tensors[i].size() * bytes});
  }
  arrange(&all);
  return all;
}

gradcore_status read_progress(const std::string &text, const char *kind, int64_t *step) {
  json::Reader reader("metadata", text);
  int64_t version = -1;
  std::string got;
  *step = -1;
  GRADCORE_TRY(reader.object([&](const std::string &key) {
    if (key == "version" && version < 0) return reader.integer(&version);
    if (key == "kind" && got.empty()) return reader.string(&got);
    if (key == "step" && *step < 0) return reader.integer(step);
    return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected version, kind and step once each, got '%s'",
                json::Excerpt(key).text());
  }));
  GRADCORE_TRY(reader.end());
  if (version != kFormatVersion)
    return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected format version %lld, got %lld",
                (long long)kFormatVersion, (long long)version);
  if (*step < 0 || *step > NetOptimizer::kMostSteps)
    return fail(GRADCORE_INVALID_ARGUMENT, "metadata: expected a step from 0 to 2^53, got %lld", (long long)*step);
  if (got == kind) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT, "expected the state of an optimizer of kind %s, got '%s'", kind,
              json::Excerpt(got).text());
}

}  // namespace

gradcore_status write_optimizer(const NetOptimizer &optimizer, WriteBytes write) {
  const gradcore_dtype dtype = optimizer.net.architecture().dtype;
  const std::vector<TensorInfo> tensors = state_tensors(optimizer);
  const std::vector<Place> places = state_places(optimizer, tensors, nullptr);
  const std::string text = "{\"version\": " + std::to_string(kFormatVersion) + ", \"kind\": \"" +
                           kKindNames[optimizer.config().kind] + "\", \"step\": " + std::to_string(optimizer.step()) +
                           "}";
  const std::string head = head_of(kOptimizerKey, text, places, dtype);
  GRADCORE_TRY(write(head.data(), head.size()));
  for (const Place &place : places) GRADCORE_TRY(write(bytes_of(place, dtype), std::size_t(place.bytes)));
  return GRADCORE_OK;
}

gradcore_status read_optimizer(index size, ReadBytes read, NetOptimizer &optimizer) {
  const Architecture &net = optimizer.net.architecture();
  Header header{kOptimizerKey, {}, {}};
  int64_t step = 0;
  GRADCORE_TRY(read_front(&size, read, &header));
  GRADCORE_TRY(read_progress(header.text, kKindNames[optimizer.config().kind], &step));
  const std::vector<TensorInfo> tensors = state_tensors(optimizer);
  const index flat_bytes = net.flat_size * kDtypes[net.dtype].bytes;
  // The optimizer changes only after everything has been read.
  std::string states(std::size_t(optimizer.num_states() * flat_bytes), '\0');
  std::vector<Place> in_order = state_places(optimizer, tensors, states.data());
  GRADCORE_TRY(match(header, net.dtype, size, &in_order));
  for (const Place &place : in_order) GRADCORE_TRY(read(bytes_of(place, net.dtype), std::size_t(place.bytes)));
  for (int i = 0; i < optimizer.num_states(); i++)
    std::memcpy(optimizer.state(i), states.data() + i * flat_bytes, std::size_t(flat_bytes));
  optimizer.step() = step;
  return GRADCORE_OK;
}

}  // namespace gradcore
