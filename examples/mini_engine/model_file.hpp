// A model on disk, whatever its container: configuration, tokenizer data and named tensors, all memory-mapped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "config.hpp"

namespace mini_engine {

struct TokenizerData;

/// How a tensor's elements are stored.
enum class Encoding : std::uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ6_K };

/// A tensor inside a mapped file. Row-major: `rows` rows of `columns` elements, the last axis contiguous. The bytes
/// stay valid for the life of the ModelFile.
struct TensorView {
  Encoding encoding = Encoding::kF32;
  std::int64_t rows = 0;  ///< 1 for a vector
  std::int64_t columns = 0;
  std::span<const std::byte> bytes;
};

/// Which tensor of the llama architecture; containers map their own names to these.
enum class TensorRole : std::uint8_t {
  kTokenEmbedding, kOutputNorm, kOutputHead,  // without a layer
  kAttentionNorm, kQuery, kKey, kValue, kAttentionOutput, kFfnNorm, kFfnGate, kFfnUp, kFfnDown
};

/// A model on disk. Immutable once open; every const member may be called from several threads.
class ModelFile {
 public:
  virtual ~ModelFile() = default;

  [[nodiscard]] virtual const ModelConfig& config() const = 0;
  /// `layer` is ignored for the three roles without one. Throws Error when the tensor is missing or its shape is not
  /// the one that config() calls for. kOutputHead of a tied model yields the embedding.
  [[nodiscard]] virtual TensorView tensor(TensorRole role, int layer) const = 0;
  /// True when query and key rows are stored for interleaved pairs (2i, 2i+1), as GGUF does, and have to be
  /// un-permuted for half-split rotation.
  [[nodiscard]] virtual bool has_interleaved_rope_rows() const = 0;
  [[nodiscard]] virtual const TokenizerData& tokenizer() const = 0;
  /// 32 bytes that change when any weight or the configuration changes (SHA-256 over both); computed once, on
  /// request, since it reads the whole file.
  [[nodiscard]] virtual std::array<std::byte, 32> fingerprint() const = 0;
};

/// Opens a GGUF file, or a Hugging Face folder holding `config.json`, `*.safetensors` and `tokenizer.json`.
/// Throws Error with file, field and offset for anything malformed.
[[nodiscard]] std::unique_ptr<ModelFile> open_model(const std::string& path);

/// Elements per block and bytes per block of an encoding ({1, 4} for F32, {32, 34} for Q8_0, ...).
struct BlockSize {
  int elements;
  int bytes;
};
[[nodiscard]] BlockSize block_size(Encoding encoding);

/// Decodes elements [begin, begin + out.size()) of row `row`; begin and size are whole blocks.
void dequantize(const TensorView& tensor, std::int64_t row, std::int64_t begin, std::span<float> out);

}  // namespace mini_engine
