#include "support/tiny_model.hpp"

#include <bit>
#include <cmath>
#include <random>
#include <stdexcept>

#include "mini_engine/byte_alphabet.hpp"
#include "mini_engine/stored_model.hpp"
#include "support/byte_writer.hpp"

namespace test_support {

using mini_engine::Encoding;
using mini_engine::PreSplit;
using mini_engine::TensorRole;
using mini_engine::TokenizerData;

namespace {

bool is_vector(TensorRole role) {
  return role == TensorRole::kOutputNorm || role == TensorRole::kAttentionNorm || role == TensorRole::kFfnNorm;
}

/// Offsets of the 16-bit scales in a block.
std::vector<std::size_t> scale_offsets(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_1:
    case Encoding::kQ5_1:
    case Encoding::kQ4_K:
      return {0, 2};
    case Encoding::kQ6_K:
      return {208};
    default:
      return {0};
  }
}

}  // namespace

TokenizerData tiny_tokenizer(PreSplit pre_split) {
  TokenizerData data;
  data.source = "tiny tokenizer";
  data.pre_split = pre_split;
  const auto add_specials = [&](std::initializer_list<const char*> names) {
    data.pieces.insert(data.pieces.end(), names.begin(), names.end());
    data.is_special.resize(data.pieces.size(), true);
  };
  if (pre_split == PreSplit::kSmolLm) add_specials({"<|endoftext|>", "<|im_start|>", "<|im_end|>"});
  for (int byte = 0; byte < 256; ++byte) {
    data.pieces.push_back(mini_engine::piece_of_bytes(std::string(1, static_cast<char>(byte))));
  }
  const std::string space = mini_engine::piece_of_bytes(" ");
  data.merges = {{space, "t"}, {"h", "e"}, {space + "t", "he"}};
  for (const auto& [left, right] : data.merges) data.pieces.push_back(left + right);
  data.is_special.resize(data.pieces.size(), false);
  if (pre_split == PreSplit::kSmolLm) {
    data.chat_template = mini_engine::ChatTemplate::kChatMlPlain;
    data.bos_id = 1;
  } else {
    data.chat_template = mini_engine::ChatTemplate::kLlama3;
    data.bos_id = static_cast<mini_engine::TokenId>(data.pieces.size());
    data.adds_bos = true;
    data.ignore_merges = true;
    add_specials({"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
  }
  return data;
}

TinyModel tiny_model(PreSplit pre_split) {
  TinyModel model;
  model.tokenizer = tiny_tokenizer(pre_split);
  model.config = {.num_layers = 2,
                  .hidden_size = 32,
                  .num_heads = 4,
                  .num_kv_heads = 2,
                  .head_dim = 8,
                  .ffn_size = 64,
                  .vocab_size = static_cast<int>(model.tokenizer.pieces.size()),
                  .max_positions = 256,
                  .rms_eps = 1e-5F,
                  .tied_embeddings = false,
                  .rope = {},
                  .eos_ids = {pre_split == PreSplit::kSmolLm ? 2U : model.tokenizer.bos_id + 4},
                  .name = "tiny"};
  return model;
}

TinyModel minimal_model() {
  TinyModel model;
  model.tokenizer.source = "minimal tokenizer";
  model.tokenizer.pieces = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "abc"};
  model.tokenizer.is_special = {true, true, true, false, false, false, false, false};
  model.tokenizer.merges = {{"a", "b"}, {"ab", "c"}};
  model.tokenizer.chat_template = mini_engine::ChatTemplate::kChatMlPlain;
  model.tokenizer.bos_id = 1;
  model.config = {.num_layers = 1,
                  .hidden_size = 4,
                  .num_heads = 1,
                  .num_kv_heads = 1,
                  .head_dim = 4,
                  .ffn_size = 4,
                  .vocab_size = 8,
                  .max_positions = 16,
                  .rms_eps = 1e-5F,
                  .tied_embeddings = true,
                  .rope = {},
                  .eos_ids = {2},
                  .name = "minimal"};
  return model;
}

std::vector<float> tiny_weights(const TinyModel& model, TensorRole role, int layer) {
  const auto shape = mini_engine::expected_shape(model.config, role);
  const std::int64_t num_elements = shape.rows * shape.columns;
  std::mt19937_64 random(model.seed * 1'000'003 + static_cast<std::uint64_t>(layer) * 16 +
                         static_cast<std::uint64_t>(role));
  std::vector<float> weights(static_cast<std::size_t>(num_elements));
  // A power of two near 1 / sqrt(columns), so that seven bits and a sign are all a weight has.
  const float scale = std::exp2(-std::round(std::log2(static_cast<float>(shape.columns)) / 2));
  for (float& weight : weights) {
    const auto number = static_cast<float>(static_cast<std::int64_t>(random() >> 56) - 128) / 128.0F;
    weight = is_vector(role) ? 1.0F + std::round(number * 16) / 128.0F : number * scale;
  }
  return weights;
}

std::vector<std::byte> random_blocks(Encoding encoding, std::int64_t num_elements, std::uint64_t seed) {
  const auto block = mini_engine::block_size(encoding);
  const std::int64_t num_blocks = num_elements / block.elements;
  std::vector<std::byte> bytes(static_cast<std::size_t>(num_blocks * block.bytes));
  std::mt19937_64 random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() >> 56);
  for (std::int64_t i = 0; i < num_blocks; ++i) {
    for (const std::size_t offset : scale_offsets(encoding)) {
      // Exponent 5 of a half: magnitudes from 2^-10 to 2^-9.
      std::byte& high = bytes[static_cast<std::size_t>(i * block.bytes) + offset + 1];
      high = (high & std::byte{0x83}) | std::byte{5 << 2};
    }
  }
  return bytes;
}

}  // namespace test_support
