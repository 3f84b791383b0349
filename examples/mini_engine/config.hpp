// What a llama-architecture model is made of. Read from `config.json` of a Hugging Face folder or from GGUF metadata;
// everything this engine cannot compute faithfully is refused with the field's name rather than ignored.
#pragma once

#include <string>
#include <vector>

#include "types.hpp"

namespace mini_engine {

enum class RopeScaling : std::uint8_t { kNone, kLinear, kLlama3 };

/// Rotary parameters. The engine always rotates half-split pairs (i, i + D/2); loaders un-permute what a file holds
/// in interleaved order.
struct RopeParameters {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                   ///< linear and llama3
  double low_freq_factor = 1.0;          ///< llama3
  double high_freq_factor = 4.0;         ///< llama3
  int original_max_positions = 8192;     ///< llama3
  std::vector<float> frequency_divisors;  ///< [D/2] or empty; GGUF's `rope_freqs.weight`, replaces `scaling`
};

struct ModelConfig {
  int num_layers = 0;
  int hidden_size = 0;
  int num_heads = 0;     ///< query heads
  int num_kv_heads = 0;  ///< divides num_heads
  int head_dim = 0;
  int ffn_size = 0;
  int vocab_size = 0;
  int max_positions = 0;
  float rms_eps = 1e-5F;
  bool tied_embeddings = false;
  RopeParameters rope;
  std::vector<TokenId> eos_ids;  ///< generation stops at any of these
  std::string name;              ///< for messages and fingerprints; may be empty
};

/// Throws Error naming the field when a value is absent from its domain (sizes not positive, heads that do not
/// divide, odd head size, products that overflow 63 bits). `source` is the file named in the message.
void validate(const ModelConfig& config, const std::string& source);

/// Parses a Hugging Face `config.json`. Understands `rope_scaling` (and its newer name `rope_parameters`) of types
/// default, linear and llama3. Throws Error naming file and field for anything missing, mistyped or not supported
/// (architectures other than llama, biases, unknown activations, other rope types).
[[nodiscard]] ModelConfig parse_hf_config(const std::string& path);

}  // namespace mini_engine
