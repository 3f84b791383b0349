#include "mini_engine/gguf_parse.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "mini_engine/gguf_reader.hpp"
#include "mini_engine/gguf_tensor_types.hpp"

namespace mini_engine {
namespace {

constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMaxTensorNameBytes = 64;
constexpr std::uint32_t kMaxDims = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;
// The least that a metadata entry (empty key, one-byte value) and a tensor (empty name, one axis) take.
constexpr std::uint64_t kMinValueBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

/// Bytes of a scalar; 0 for strings and arrays.
std::uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& file) : reader_(bytes, file) {
    contents_.file = file;
    contents_.bytes = bytes;
  }

  GgufContents parse() {
    read_magic_and_version();
    const std::uint64_t num_tensors = reader_.read_count(kMinTensorBytes, "tensor count");
    const std::uint64_t num_values = reader_.read_count(kMinValueBytes, "metadata count");
    for (std::uint64_t i = 0; i < num_values; ++i) read_entry(i);
    contents_.values_end = reader_.position();
    const std::uint64_t alignment = read_alignment();
    for (std::uint64_t i = 0; i < num_tensors; ++i) read_tensor(i, alignment);
    contents_.tensors_end = reader_.position();
    place_tensors(alignment);
    return std::move(contents_);
  }

 private:
  void read_magic_and_version() {
    const auto magic = reader_.read_bytes(4, "magic");
    constexpr char kMagic[] = {'G', 'G', 'U', 'F'};
    if (!std::equal(magic.begin(), magic.end(), std::as_bytes(std::span(kMagic)).begin())) {
      reader_.fail("magic", 0, "is not 'GGUF'");
    }
    const auto version = reader_.read<std::uint32_t>("version");
    if (version == 0x02000000U || version == 0x03000000U) {
      reader_.fail("version", 4, "big-endian files are not supported");
    }
    if (version != 2 && version != 3) {
      reader_.fail("version", 4, std::to_string(version) + " is not supported, only 2 and 3 are");
    }
  }

  void read_entry(std::uint64_t entry_index) {
    const std::uint64_t start = reader_.position();
    const auto key = reader_.read_string(kMaxKeyBytes, "key of metadata entry " + std::to_string(entry_index));
    if (key.empty()) reader_.fail("key of metadata entry " + std::to_string(entry_index), start, "is empty");
    const GgufType type = read_type(key);
    GgufValue value = read_value(type, key);
    if (!contents_.values.emplace(key, std::move(value)).second) reader_.fail(key, start, "duplicate key");
  }

  GgufType read_type(std::string_view key) {
    const std::uint64_t start = reader_.position();
    const auto number = reader_.read<std::uint32_t>(key);
    if (number > static_cast<std::uint32_t>(GgufType::kFloat64)) {
      reader_.fail(key, start, "unknown value type " + std::to_string(number));
    }
    return static_cast<GgufType>(number);
  }

  GgufValue read_value(GgufType type, std::string_view key) {
    GgufValue value;
    value.type = type;
    value.offset = reader_.position();
    if (type == GgufType::kString) {
      value.strings.push_back(read_text(key));
    } else if (type == GgufType::kArray) {
      read_array(key, value);
    } else {
      value.bytes = reader_.read_bytes(scalar_bytes(type), key);
      check_booleans(type, key, value);
    }
    return value;
  }

  void read_array(std::string_view key, GgufValue& value) {
    const std::uint64_t type_offset = reader_.position();
    value.element_type = read_type(key);
    if (value.element_type == GgufType::kArray) reader_.fail(key, type_offset, "arrays of arrays are not supported");
    const bool holds_strings = value.element_type == GgufType::kString;
    const std::uint64_t element_bytes = holds_strings ? sizeof(std::uint64_t) : scalar_bytes(value.element_type);
    const std::uint64_t count = reader_.read_count(element_bytes, key);
    if (holds_strings) {
      value.strings.reserve(count);
      for (std::uint64_t i = 0; i < count; ++i) value.strings.push_back(read_text(key));
    } else {
      value.bytes = reader_.read_bytes(count * element_bytes, key);  // read_count has bounded the product
      check_booleans(value.element_type, key, value);
    }
  }

  std::string_view read_text(std::string_view key) {
    return reader_.read_string(std::numeric_limits<std::uint64_t>::max(), key);
  }

  void check_booleans(GgufType type, std::string_view key, const GgufValue& value) const {
    if (type != GgufType::kBool) return;
    for (const std::byte byte : value.bytes) {
      if (byte > std::byte{1}) reader_.fail(key, value.offset, "holds a boolean that is neither 0 nor 1");
    }
  }

  [[nodiscard]] std::uint64_t read_alignment() const {
    constexpr std::string_view kKey = "general.alignment";
    const auto found = contents_.values.find(kKey);
    if (found == contents_.values.end()) return kDefaultAlignment;
    const GgufValue& value = found->second;
    if (value.type != GgufType::kUint32) reader_.fail(kKey, value.offset, "is not a 32-bit unsigned integer");
    std::uint32_t alignment = 0;
    std::memcpy(&alignment, value.bytes.data(), sizeof(alignment));
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
      reader_.fail(kKey, value.offset, std::to_string(alignment) + " is not a power of two up to 1 MiB");
    }
    return alignment;
  }

  /// Reads one entry of the table; `offset` stays relative to the start of the data until place_tensors().
  void read_tensor(std::uint64_t tensor_index, std::uint64_t alignment) {
    StoredTensor tensor;
    tensor.file = contents_.file;
    const std::string entry = "name of tensor " + std::to_string(tensor_index);
    const std::uint64_t start = reader_.position();
    tensor.name = reader_.read_string(kMaxTensorNameBytes, entry);
    if (tensor.name.empty()) reader_.fail(entry, start, "is empty");
    if (!names_.insert(tensor.name).second) reader_.fail(tensor.name, start, "duplicate tensor");
    read_shape(tensor);

    const std::uint64_t type_offset = reader_.position();
    const auto type = reader_.read<std::uint32_t>(tensor.name);
    const std::optional<Encoding> encoding = encoding_of_gguf_type(type);
    if (!encoding) {
      reader_.fail(tensor.name, type_offset,
                   "tensor type " + std::string(gguf_type_name(type)) + " (number " + std::to_string(type) +
                       ") is not supported");
    }
    tensor.encoding = *encoding;

    const std::uint64_t offset_at = reader_.position();
    tensor.offset = reader_.read<std::uint64_t>(tensor.name);
    if (tensor.offset != data_bytes_) {
      reader_.fail(tensor.name, offset_at,
                   "data offset " + std::to_string(tensor.offset) + " where the tensors before it end at " +
                       std::to_string(data_bytes_) + ": tensors overlap or leave a gap");
    }
    std::uint64_t end = 0;
    if (__builtin_add_overflow(data_bytes_, size_bytes(tensor, start), &end) ||
        __builtin_add_overflow(end, alignment - 1, &end)) {
      reader_.fail(tensor.name, start, "the sizes of the tensors up to here overflow 64 bits");
    }
    data_bytes_ = end & ~(alignment - 1);
    contents_.tensors.push_back(std::move(tensor));
  }

  void read_shape(StoredTensor& tensor) {
    const std::uint64_t start = reader_.position();
    const auto num_dims = reader_.read<std::uint32_t>(tensor.name);
    if (num_dims == 0 || num_dims > kMaxDims) {
      reader_.fail(tensor.name, start, std::to_string(num_dims) + " dimensions, 1 to 4 are allowed");
    }
    std::int64_t num_elements = 1;
    for (std::uint32_t i = 0; i < num_dims; ++i) {
      const std::uint64_t at = reader_.position();
      const auto length = reader_.read<std::uint64_t>(tensor.name);
      if (length == 0) reader_.fail(tensor.name, at, "a dimension is 0");
      if (__builtin_mul_overflow(num_elements, length, &num_elements)) {
        reader_.fail(tensor.name, at, "the product of the dimensions overflows 63 bits");
      }
      // The file lists the fastest axis first.
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(length));
    }
  }

  [[nodiscard]] std::uint64_t size_bytes(const StoredTensor& tensor, std::uint64_t start) const {
    const BlockSize block = block_size(tensor.encoding);
    if (tensor.shape.back() % block.elements != 0) {
      reader_.fail(tensor.name, start,
                   "rows of " + std::to_string(tensor.shape.back()) + " elements are no multiple of the " +
                       std::to_string(block.elements) + " in a block");
    }
    std::uint64_t bytes = 1;
    for (const std::int64_t length : tensor.shape) bytes *= static_cast<std::uint64_t>(length);  // read_shape checked
    if (__builtin_mul_overflow(bytes / static_cast<std::uint64_t>(block.elements),
                               static_cast<std::uint64_t>(block.bytes), &bytes)) {
      reader_.fail(tensor.name, start, "the size in bytes overflows 64 bits");
    }
    return bytes;
  }

  void place_tensors(std::uint64_t alignment) {
    if (contents_.tensors.empty()) return;
    const std::uint64_t file_bytes = contents_.bytes.size();
    // No overflow: a file is far smaller than 2^63 bytes, and the alignment at most 1 MiB.
    const std::uint64_t data_start = (contents_.tensors_end + alignment - 1) & ~(alignment - 1);
    const std::uint64_t available = file_bytes > data_start ? file_bytes - data_start : 0;
    for (StoredTensor& tensor : contents_.tensors) {
      const std::uint64_t bytes = size_bytes(tensor, data_start);
      if (tensor.offset > available || bytes > available - tensor.offset) {
        reader_.fail(tensor.name, data_start,
                     "its " + std::to_string(bytes) + " bytes at offset " + std::to_string(tensor.offset) +
                         " of the tensor data run past the end of the file, which is " + std::to_string(file_bytes) +
                         " bytes long");
      }
      tensor.offset += data_start;
      tensor.bytes = contents_.bytes.subspan(tensor.offset, bytes);
    }
    // Some writers leave out the padding behind the last tensor.
    if (available > data_bytes_) {
      reader_.fail("end of tensor data", data_start + data_bytes_, "the file goes on where its last tensor ends");
    }
  }

  GgufReader reader_;
  GgufContents contents_;
  std::set<std::string, std::less<>> names_;
  std::uint64_t data_bytes_ = 0;  ///< of the tensors read so far, each padded
};

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& file) {
  return Parser(bytes, file).parse();
}

}  // namespace mini_engine
