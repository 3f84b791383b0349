#include "support/safetensors_writer.hpp"

#include <nlohmann/json.hpp>

#include "support/byte_writer.hpp"

namespace test_support {

std::vector<std::byte> write_safetensors(const std::vector<SafetensorsTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::uint64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    const std::uint64_t end = offset + tensor.bytes.size();
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  ByteWriter writer;
  const std::string text = header.dump();
  writer.add(std::uint64_t{text.size()});
  writer.add_text(text);
  for (const SafetensorsTensor& tensor : tensors) writer.add_bytes(tensor.bytes);
  return writer.bytes();
}

std::vector<std::byte> write_safetensors_raw(std::string_view header, std::size_t data_bytes) {
  ByteWriter writer;
  writer.add(std::uint64_t{header.size()});
  writer.add_text(header);
  writer.add_bytes(std::vector<std::byte>(data_bytes));
  return writer.bytes();
}

}  // namespace test_support
