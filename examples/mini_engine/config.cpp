#include "mini_engine/config.hpp"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

void require(bool holds, const std::string& source, std::string_view field, std::string_view what) {
  if (!holds) throw file_error(source, field, what);
}

void require_product(std::initializer_list<std::int64_t> factors, const std::string& source, std::string_view field) {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    require(!__builtin_mul_overflow(product, factor, &product), source, field, "the size in bytes overflows 63 bits");
  }
}

void validate_rope(const RopeParameters& rope, int head_dim, const std::string& source) {
  const auto is_positive = [](double value) { return std::isfinite(value) && value > 0; };
  require(is_positive(rope.theta), source, "rope theta", "is not a positive finite number");
  if (!rope.frequency_divisors.empty()) {
    require(rope.frequency_divisors.size() == static_cast<std::size_t>(head_dim / 2), source, "rope frequency divisors",
            "are not one for each pair of the head");
    for (const float divisor : rope.frequency_divisors) {
      require(is_positive(divisor), source, "rope frequency divisors", "hold one that is not a positive finite number");
    }
  }
  if (rope.scaling == RopeScaling::kNone) return;
  require(is_positive(rope.factor), source, "rope factor", "is not a positive finite number");
  if (rope.scaling == RopeScaling::kLinear) return;
  require(is_positive(rope.low_freq_factor), source, "rope low_freq_factor", "is not a positive finite number");
  require(is_positive(rope.high_freq_factor) && rope.high_freq_factor > rope.low_freq_factor, source,
          "rope high_freq_factor", "is not above low_freq_factor");
  require(rope.original_max_positions > 0, source, "rope original_max_position_embeddings", "is not positive");
}

}  // namespace

void validate(const ModelConfig& config, const std::string& source) {
  const struct {
    int value;
    const char* name;
  } sizes[] = {{config.num_layers, "number of layers"}, {config.hidden_size, "hidden size"},
               {config.num_heads, "number of heads"},   {config.num_kv_heads, "number of KV heads"},
               {config.head_dim, "head size"},          {config.ffn_size, "feed-forward size"},
               {config.vocab_size, "vocabulary size"},  {config.max_positions, "number of positions"}};
  for (const auto& size : sizes) require(size.value > 0, source, size.name, "is not positive");
  require(config.num_heads % config.num_kv_heads == 0, source, "number of heads", "is no multiple of the KV heads");
  require(config.head_dim % 2 == 0, source, "head size", "is odd, which rotary embedding does not allow");
  require(std::isfinite(config.rms_eps) && config.rms_eps > 0, source, "RMS epsilon",
          "is not a positive finite number");
  // Heads and columns are multiplied in `int` elsewhere; everything larger is computed in 64 bits.
  require(std::int64_t{config.num_heads} * config.head_dim <= INT32_MAX, source, "number of heads times head size",
          "does not fit 31 bits");
  require_product({config.vocab_size, config.hidden_size, 4}, source, "vocabulary times hidden size");
  require_product({config.ffn_size, config.hidden_size, 4}, source, "feed-forward times hidden size");
  require_product({config.num_heads, config.head_dim, config.hidden_size, 4}, source, "heads times hidden size");
  require_product({config.max_positions, config.head_dim, 4}, source, "positions times head size");
  require_product({config.num_layers, 2, config.num_kv_heads, config.head_dim, config.max_positions, 4}, source,
                  "KV of all layers and positions");
  validate_rope(config.rope, config.head_dim, source);
  for (const TokenId id : config.eos_ids) {
    require(id < static_cast<TokenId>(config.vocab_size), source, "end-of-sequence id", "is outside the vocabulary");
  }
}

}  // namespace mini_engine
