// Small models of random weights, written to disk as GGUF files and as Hugging Face folders.
//
// The same TinyModel gives the same weights in either container: they are drawn once, in half-split row order, and are
// short enough to be exact in fp32, fp16 and bf16. (Block encodings hold random blocks instead, drawn row by row.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mini_engine/config.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/tokenizer.hpp"
#include "support/gguf_image.hpp"

namespace test_support {

struct TinyModel {
  mini_engine::ModelConfig config;
  mini_engine::TokenizerData tokenizer;
  std::uint64_t seed = 1;
  /// Of the matrices. Vectors are fp32 in GGUF and of this type in a folder, which allows F32, F16 and BF16 alone.
  mini_engine::Encoding matrices = mini_engine::Encoding::kF32;
};

/// 2 layers, hidden size 32, 4 query and 2 KV heads of 8, feed-forward 64, 256 positions, with tiny_tokenizer().
[[nodiscard]] TinyModel tiny_model(mini_engine::PreSplit pre_split = mini_engine::PreSplit::kSmolLm);

/// 1 layer, hidden size 4, one head of 4, and eight tokens: a whole model in about 2 KB. Its vocabulary cannot encode
/// text.
[[nodiscard]] TinyModel minimal_model();

/// All 256 bytes, the merges of " the" and the special tokens of SmolLM2 (ids from 0) or Llama 3 (ids at the end).
[[nodiscard]] mini_engine::TokenizerData tiny_tokenizer(mini_engine::PreSplit pre_split);

/// The weights in half-split row order, [rows][columns]. Not for block encodings.
[[nodiscard]] std::vector<float> tiny_weights(const TinyModel& model, mini_engine::TensorRole role, int layer);

/// Random blocks whose scales are finite and small.
[[nodiscard]] std::vector<std::byte> random_blocks(mini_engine::Encoding encoding, std::int64_t num_elements,
                                                   std::uint64_t seed);

/// Throws std::invalid_argument for scaling of type llama3, which GGUF expresses by frequency_divisors.
[[nodiscard]] GgufImage to_gguf(const TinyModel& model);
void write_gguf(const TinyModel& model, const std::filesystem::path& path);

/// Creates the folder. With more than one shard the tensors are dealt out in turn and an index is written.
/// Throws std::invalid_argument for block encodings and frequency_divisors, which such a folder cannot hold.
void write_hf_folder(const TinyModel& model, const std::filesystem::path& folder, int num_shards = 1);

[[nodiscard]] std::string hf_config_json(const mini_engine::ModelConfig& config);
[[nodiscard]] std::string hf_tokenizer_json(const mini_engine::TokenizerData& tokenizer);

}  // namespace test_support
