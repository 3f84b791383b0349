#include <algorithm>
#include <cmath>
#include <string>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf_model.hpp"

namespace mini_engine {
namespace {

constexpr std::string_view kArchitecturePrefix = "llama.";

// All that this file reads, or that cannot change what a dense llama model computes.
constexpr std::string_view kKnownKeys[] = {
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.vocab_size",
    "llama.tensor_data_layout",
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.finetuned",
};

void refuse_what_is_not_llama(const GgufFields& fields, const GgufContents& contents) {
  if (const auto architecture = fields.string("general.architecture"); architecture != "llama") {
    fields.fail("general.architecture", in_quotes(architecture) + " is not supported, only 'llama' is");
  }
  for (const auto& [key, value] : contents.values) {
    if (key.starts_with(kArchitecturePrefix) &&
        std::find(std::begin(kKnownKeys), std::end(kKnownKeys), key) == std::end(kKnownKeys)) {
      fields.fail(key, "key is not supported, and ignoring it could change what the model computes");
    }
  }
  for (const std::string_view key : {"llama.expert_count", "llama.expert_used_count"}) {
    if (fields.find(key) != nullptr && fields.unsigned_integer(key) != 0) {
      fields.fail(key, "mixtures of experts are not supported");
    }
  }
  if (fields.find("split.count") != nullptr && fields.unsigned_integer("split.count") > 1) {
    fields.fail("split.count", "models split over several files are not supported; merge them first");
  }
}

int head_size(const GgufFields& fields, const ModelConfig& config) {
  int head_dim = 0;
  if (fields.find("llama.attention.key_length") != nullptr) {
    head_dim = fields.positive_int("llama.attention.key_length");
  } else if (config.hidden_size % config.num_heads == 0) {
    head_dim = config.hidden_size / config.num_heads;
  } else {
    fields.fail("llama.attention.head_count", "does not divide the embedding length, and there is no key length");
  }
  for (const std::string_view key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    if (fields.find(key) != nullptr && fields.positive_int(key) != head_dim) {
      fields.fail(key, "differs from the head size of " + std::to_string(head_dim) + ", which is not supported");
    }
  }
  return head_dim;
}

std::vector<float> frequency_divisors(const GgufFields& fields, const GgufContents& contents, int head_dim) {
  const auto found = std::find_if(contents.tensors.begin(), contents.tensors.end(),
                                  [](const StoredTensor& tensor) { return tensor.name == "rope_freqs.weight"; });
  if (found == contents.tensors.end()) return {};
  const TensorView view = view_as(*found, 1, head_dim / 2);
  if (view.encoding != Encoding::kF32) fields.fail(found->name, found->offset, "is not stored as F32");
  std::vector<float> divisors(static_cast<std::size_t>(view.columns));
  dequantize(view, 0, 0, divisors);
  for (const float divisor : divisors) {
    if (!std::isfinite(divisor) || divisor <= 0) {
      fields.fail(found->name, found->offset, "holds a divisor that is not a positive finite number");
    }
  }
  return divisors;
}

RopeParameters read_rope(const GgufFields& fields, const GgufContents& contents, int head_dim) {
  RopeParameters rope;
  if (fields.find("llama.rope.freq_base") != nullptr) rope.theta = fields.positive_number("llama.rope.freq_base");
  const bool has_type = fields.find("llama.rope.scaling.type") != nullptr;
  const std::string_view type = has_type ? fields.string("llama.rope.scaling.type") : "none";
  if (type != "none" && type != "linear") {
    fields.fail("llama.rope.scaling.type", in_quotes(type) + " is not supported, only none and linear are");
  }
  // Files from before `rope.scaling.*` have one number, which implies the linear type.
  const bool is_older = !has_type && fields.find("llama.rope.scale_linear") != nullptr;
  if (type == "linear" || is_older) {
    rope.factor = fields.positive_number(is_older ? "llama.rope.scale_linear" : "llama.rope.scaling.factor");
    if (rope.factor != 1.0) rope.scaling = RopeScaling::kLinear;
  }
  rope.frequency_divisors = frequency_divisors(fields, contents, head_dim);
  if (!rope.frequency_divisors.empty() && rope.scaling != RopeScaling::kNone) {
    fields.fail(is_older ? "llama.rope.scale_linear" : "llama.rope.scaling.factor",
                "linear scaling together with rope_freqs.weight is not supported");
  }
  return rope;
}

std::vector<TokenId> read_eos_ids(const GgufFields& fields, std::size_t vocab_size) {
  std::vector<TokenId> ids;
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const auto id = fields.token_id(key, vocab_size);
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

}  // namespace

ModelConfig gguf_config(const GgufContents& contents) {
  const GgufFields fields(contents);
  refuse_what_is_not_llama(fields, contents);
  ModelConfig config;
  config.num_layers = fields.positive_int("llama.block_count");
  config.hidden_size = fields.positive_int("llama.embedding_length");
  config.num_heads = fields.positive_int("llama.attention.head_count");
  config.num_kv_heads = fields.find("llama.attention.head_count_kv") == nullptr
                            ? config.num_heads
                            : fields.positive_int("llama.attention.head_count_kv");
  config.head_dim = head_size(fields, config);
  config.ffn_size = fields.positive_int("llama.feed_forward_length");
  config.max_positions = fields.positive_int("llama.context_length");
  config.rms_eps = static_cast<float>(fields.positive_number("llama.attention.layer_norm_rms_epsilon"));

  const std::size_t num_pieces = fields.strings("tokenizer.ggml.tokens").size();
  if (num_pieces == 0 || num_pieces > INT32_MAX) {
    fields.fail("tokenizer.ggml.tokens", std::to_string(num_pieces) + " tokens, 1 to 2147483647 are allowed");
  }
  config.vocab_size = fields.find("llama.vocab_size") == nullptr ? static_cast<int>(num_pieces)
                                                                 : fields.positive_int("llama.vocab_size");
  config.tied_embeddings = std::none_of(contents.tensors.begin(), contents.tensors.end(),
                                        [](const StoredTensor& tensor) { return tensor.name == "output.weight"; });
  config.rope = read_rope(fields, contents, config.head_dim);
  config.eos_ids = read_eos_ids(fields, num_pieces);
  if (fields.find("general.name") != nullptr) config.name = fields.string("general.name");
  validate(config, contents.file);
  return config;
}

}  // namespace mini_engine
