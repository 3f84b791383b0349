// Any bytes as each of the three files of a Hugging Face folder that hold no vocabulary: a safetensors file, the index
// of its shards, and config.json. Each is read or refused with an Error, and nothing else.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/hf_config.hpp"
#include "mini_engine/safetensors.hpp"

namespace {

void read_tensors(std::span<const std::byte> bytes) {
  const auto contents = mini_engine::parse_safetensors(bytes, "input");
  std::size_t covered = contents.header_end;
  for (const auto& tensor : contents.tensors) {
    if (tensor.offset != covered) std::abort();
    covered += tensor.bytes.size();
    const auto columns = static_cast<std::int64_t>(tensor.bytes.size()) / block_size(tensor.encoding).bytes;
    std::vector<float> values(static_cast<std::size_t>(columns));
    mini_engine::dequantize({tensor.encoding, 1, columns, tensor.bytes}, 0, 0, values);
  }
  if (covered != bytes.size()) std::abort();
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void read_index(std::span<const std::byte> bytes) {
  static_cast<void>(mini_engine::parse_safetensors_index(as_text(bytes), "input"));
}

void read_config(std::span<const std::byte> bytes) {
  mini_engine::validate(mini_engine::parse_hf_config_text(as_text(bytes), "input"), "input");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const auto attempt : {read_tensors, read_index, read_config}) {
    try {
      attempt(bytes);
    } catch (const mini_engine::Error&) {
    }
  }
  return 0;
}
