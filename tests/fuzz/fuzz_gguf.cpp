// Any bytes as a GGUF file: a model that can be read, or an Error, and nothing else.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf.hpp"
#include "mini_engine/gguf_parse.hpp"

namespace {

using mini_engine::TensorRole;

/// Decodes the first and the last row: a tensor accepted must be there in full.
void read_ends(const mini_engine::TensorView& view) {
  std::vector<float> row(static_cast<std::size_t>(view.columns));
  mini_engine::dequantize(view, 0, 0, row);
  mini_engine::dequantize(view, view.rows - 1, 0, row);
}

void read_tensors(std::span<const std::byte> bytes) {
  for (const auto& tensor : mini_engine::parse_gguf(bytes, "input").tensors) {
    const std::int64_t columns = tensor.shape.back();
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
    read_ends({tensor.encoding, rows, columns, tensor.bytes});
  }
}

void open(std::span<const std::byte> bytes) {
  const mini_engine::GgufFile file(bytes, "input");
  for (int layer = 0; layer < file.config().num_layers; ++layer) {
    for (const TensorRole role : {TensorRole::kTokenEmbedding, TensorRole::kOutputHead, TensorRole::kQuery,
                                  TensorRole::kFfnNorm, TensorRole::kFfnDown}) {
      read_ends(file.tensor(role, layer));
    }
  }
  static_cast<void>(file.fingerprint());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const auto attempt : {read_tensors, open}) {
    try {
      attempt(bytes);
    } catch (const mini_engine::Error&) {
    }
  }
  return 0;
}
