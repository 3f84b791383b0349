#include "support/gguf_image.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "support/byte_writer.hpp"

namespace test_support {
namespace {

void add_string_to(ByteWriter& writer, std::string_view text) {
  writer.add(std::uint64_t{text.size()});
  writer.add_text(text);
}

template <class T>
std::vector<std::byte> payload_of(T value) {
  ByteWriter writer;
  writer.add(value);
  return writer.bytes();
}

template <class Range>
auto& find_by(Range& range, std::string_view wanted, std::string std::remove_reference_t<decltype(range[0])>::*name) {
  const auto found = std::find_if(range.begin(), range.end(), [&](const auto& item) { return item.*name == wanted; });
  if (found == range.end()) throw std::out_of_range("no '" + std::string(wanted) + "' in this GGUF image");
  return *found;
}

}  // namespace

void GgufImage::add_uint32(std::string key, std::uint32_t number) {
  values.push_back({std::move(key), kUint32, payload_of(number), {}});
}

void GgufImage::add_float32(std::string key, float number) {
  values.push_back({std::move(key), kFloat32, payload_of(number), {}});
}

void GgufImage::add_bool(std::string key, bool flag) {
  values.push_back({std::move(key), kBool, payload_of(static_cast<std::uint8_t>(flag)), {}});
}

void GgufImage::add_string(std::string key, std::string_view text) {
  ByteWriter writer;
  add_string_to(writer, text);
  values.push_back({std::move(key), kString, writer.bytes(), {}});
}

void GgufImage::add_strings(std::string key, const std::vector<std::string>& elements) {
  ByteWriter writer;
  writer.add(kString);
  writer.add(std::uint64_t{elements.size()});
  for (const std::string& element : elements) add_string_to(writer, element);
  values.push_back({std::move(key), kArray, writer.bytes(), {}});
}

void GgufImage::add_int32s(std::string key, const std::vector<std::int32_t>& elements) {
  ByteWriter writer;
  writer.add(kInt32);
  writer.add(std::uint64_t{elements.size()});
  for (const std::int32_t element : elements) writer.add(element);
  values.push_back({std::move(key), kArray, writer.bytes(), {}});
}

GgufImage::Value& GgufImage::value(std::string_view key) { return find_by(values, key, &Value::key); }

GgufImage::Tensor& GgufImage::tensor(std::string_view name) { return find_by(tensors, name, &Tensor::name); }

void GgufImage::erase_value(std::string_view key) {
  std::erase_if(values, [&](const Value& item) { return item.key == key; });
}

void GgufImage::erase_tensor(std::string_view name) {
  std::erase_if(tensors, [&](const Tensor& item) { return item.name == name; });
}

GgufImage::Written GgufImage::write() const {
  ByteWriter writer;
  Written written;
  writer.add_text(magic);
  writer.add(version);
  writer.add(num_tensors.value_or(tensors.size()));
  writer.add(num_values.value_or(values.size()));
  for (const Value& item : values) {
    written.key_offsets[item.key] = writer.size();
    writer.add(item.key_length.value_or(item.key.size()));
    writer.add_text(item.key);
    writer.add(item.type);
    written.value_offsets[item.key] = writer.size();
    writer.add_bytes(item.payload);
  }
  written.values_end = writer.size();
  std::uint64_t offset = 0;
  for (const Tensor& item : tensors) {
    written.tensor_offsets[item.name] = writer.size();
    writer.add(item.name_length.value_or(item.name.size()));
    writer.add_text(item.name);
    writer.add(static_cast<std::uint32_t>(item.dims.size()));
    for (const std::uint64_t length : item.dims) writer.add(length);
    writer.add(item.type);
    writer.add(item.offset.value_or(offset));
    offset += (item.bytes.size() + alignment - 1) / alignment * alignment;
  }
  written.tensors_end = writer.size();
  writer.pad(alignment);
  written.data_start = writer.size();
  for (const Tensor& item : tensors) {
    writer.add_bytes(item.bytes);
    writer.pad(alignment);
  }
  written.bytes = writer.bytes();
  return written;
}

}  // namespace test_support
