#include "mini_engine/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/json_document.hpp"
#include "mini_engine/safetensors_header.hpp"

namespace mini_engine {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

std::optional<Encoding> encoding_of(std::string_view dtype) {
  if (dtype == "F32") return Encoding::kF32;
  if (dtype == "F16") return Encoding::kF16;
  if (dtype == "BF16") return Encoding::kBF16;
  return std::nullopt;
}

/// The tensor of an entry whose bytes start at `begin` of the data, which are `data`.
StoredTensor place(const SafetensorsEntry& entry, std::uint64_t begin, std::span<const std::byte> data,
                   std::uint64_t data_offset, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw file_error(file, entry.name, entry.offset, what); };
  StoredTensor tensor;
  tensor.name = entry.name;
  tensor.file = file;
  const auto encoding = encoding_of(entry.dtype);
  if (!encoding) fail("dtype " + in_quotes(entry.dtype) + " is not supported, only F32, F16 and BF16 are");
  tensor.encoding = *encoding;

  std::uint64_t size_bytes = static_cast<std::uint64_t>(block_size(*encoding).bytes);
  for (const std::uint64_t length : entry.shape) {
    if (length == 0) fail("an axis of the shape is 0");
    if (__builtin_mul_overflow(size_bytes, length, &size_bytes) ||
        size_bytes > std::numeric_limits<std::int64_t>::max()) {
      fail("the size in bytes overflows 63 bits");
    }
    tensor.shape.push_back(static_cast<std::int64_t>(length));
  }
  const std::uint64_t first = entry.data_offsets[0], last = entry.data_offsets[1];
  if (first != begin) {
    fail("data_offsets start at " + std::to_string(first) + " where the tensors before it end at " +
         std::to_string(begin) + ": tensors overlap or leave a gap");
  }
  if (last < first || last - first != size_bytes) {
    fail("data_offsets " + std::to_string(first) + " to " + std::to_string(last) + " are not the " +
         std::to_string(size_bytes) + " bytes of shape and dtype");
  }
  if (last > data.size()) {
    fail("data_offsets end at " + std::to_string(last) + ", but the file holds " + std::to_string(data.size()) +
         " bytes of data");
  }
  tensor.offset = data_offset + first;
  tensor.bytes = data.subspan(first, size_bytes);
  return tensor;
}

}  // namespace

SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < kLengthBytes) {
    throw file_error(file, "header length", 0, "the file of " + std::to_string(bytes.size()) + " bytes ends inside it");
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    throw file_error(file, "header length", 0, std::to_string(header_bytes) + " bytes, at most 100000000 are allowed");
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    throw file_error(file, "header length", 0,
                     std::to_string(header_bytes) + " bytes, but the file ends after " +
                         std::to_string(bytes.size() - kLengthBytes));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_bytes);
  auto entries = parse_safetensors_header(header, kLengthBytes, file);
  std::sort(entries.begin(), entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.data_offsets < b.data_offsets; });

  SafetensorsContents contents;
  contents.header_end = kLengthBytes + header_bytes;
  const auto data = bytes.subspan(contents.header_end);
  std::uint64_t end = 0;
  contents.tensors.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) {
    contents.tensors.push_back(place(entry, end, data, contents.header_end, file));
    end = entry.data_offsets[1];
  }
  if (end != data.size()) {
    throw file_error(file, "end of tensor data", contents.header_end + end,
                     std::to_string(data.size() - end) + " bytes follow that no tensor covers");
  }
  return contents;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, const std::string& file) {
  const JsonDocument document(text, file);
  const auto& root = document.root();
  const auto found = root.is_object() ? root.find("weight_map") : root.end();
  if (found == root.end() || !found->is_object()) {
    throw file_error(file, "weight_map", document.offset_of({"weight_map"}), "is missing or not an object");
  }
  constexpr std::string_view kEnding = ".safetensors";
  std::map<std::string, std::string> shards;
  for (const auto& [name, value] : found->items()) {
    const std::uint64_t offset = document.offset_of({"weight_map", name});
    if (!value.is_string()) throw file_error(file, name, offset, "the shard is not a string");
    const auto& shard = value.get_ref<const std::string&>();
    // A path could lead out of the model's folder.
    if (shard.size() <= kEnding.size() || !shard.ends_with(kEnding) || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos) {
      throw file_error(file, name, offset, "the shard is not the plain name of a .safetensors file");
    }
    shards.emplace(name, shard);
  }
  return shards;
}

}  // namespace mini_engine
