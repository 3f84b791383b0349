// The containers of tiny_model.hpp.
#include <array>
#include <bit>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/gguf_tensor_types.hpp"
#include "mini_engine/stored_model.hpp"
#include "support/byte_writer.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temp_directory.hpp"
#include "support/tiny_model.hpp"

namespace test_support {

using mini_engine::Encoding;
using mini_engine::ModelConfig;
using mini_engine::PreSplit;
using mini_engine::TensorRole;
using mini_engine::TokenizerData;

namespace {

struct RoleName {
  TensorRole role;
  const char* gguf;
  const char* hf;
};
constexpr RoleName kModelNames[] = {
    {TensorRole::kTokenEmbedding, "token_embd.weight", "model.embed_tokens.weight"},
    {TensorRole::kOutputNorm, "output_norm.weight", "model.norm.weight"},
    {TensorRole::kOutputHead, "output.weight", "lm_head.weight"},
};
constexpr RoleName kLayerNames[] = {
    {TensorRole::kAttentionNorm, "attn_norm", "input_layernorm"},
    {TensorRole::kQuery, "attn_q", "self_attn.q_proj"},
    {TensorRole::kKey, "attn_k", "self_attn.k_proj"},
    {TensorRole::kValue, "attn_v", "self_attn.v_proj"},
    {TensorRole::kAttentionOutput, "attn_output", "self_attn.o_proj"},
    {TensorRole::kFfnNorm, "ffn_norm", "post_attention_layernorm"},
    {TensorRole::kFfnGate, "ffn_gate", "mlp.gate_proj"},
    {TensorRole::kFfnUp, "ffn_up", "mlp.up_proj"},
    {TensorRole::kFfnDown, "ffn_down", "mlp.down_proj"},
};

/// Calls visit(role, layer, GGUF name, folder name) for every tensor that the model stores.
template <class Visit>
void for_each_tensor(const TinyModel& model, Visit visit) {
  for (const RoleName& name : kModelNames) {
    if (name.role == TensorRole::kOutputHead && model.config.tied_embeddings) continue;
    visit(name.role, 0, std::string(name.gguf), std::string(name.hf));
  }
  for (int layer = 0; layer < model.config.num_layers; ++layer) {
    const std::string number = std::to_string(layer);
    for (const RoleName& name : kLayerNames) {
      visit(name.role, layer, "blk." + number + "." + name.gguf + ".weight",
            "model.layers." + number + "." + name.hf + ".weight");
    }
  }
}

bool is_vector(const ModelConfig& config, TensorRole role) {
  return mini_engine::expected_shape(config, role).rows == 1;
}

/// Exact for the numbers that tiny_weights() yields.
std::uint16_t to_half(float value) {
  if (value == 0) return 0;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>(((bits >> 16) & 0x8000U) | (((bits & 0x7FFFFFFFU) - (112U << 23)) >> 13));
}

std::vector<std::byte> encode(const std::vector<float>& weights, Encoding encoding) {
  ByteWriter writer;
  for (const float weight : weights) {
    switch (encoding) {
      case Encoding::kF32:
        writer.add(weight);
        break;
      case Encoding::kF16:
        writer.add(to_half(weight));
        break;
      case Encoding::kBF16:
        writer.add(mini_engine::to_bfloat16(weight));
        break;
      default:
        throw std::invalid_argument("tiny models have no encoder for blocks");
    }
  }
  return writer.bytes();
}

/// From half-split to interleaved rows: row s * D/2 + i of a head becomes row 2 * i + s.
std::vector<float> interleave_rows(const std::vector<float>& weights, int head_dim, std::int64_t columns) {
  std::vector<float> interleaved(weights.size());
  const auto num_rows = static_cast<std::int64_t>(weights.size()) / columns;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int64_t in_head = row % head_dim;
    const std::int64_t target = row - in_head + 2 * (in_head % (head_dim / 2)) + in_head / (head_dim / 2);
    std::copy_n(weights.begin() + row * columns, columns, interleaved.begin() + target * columns);
  }
  return interleaved;
}

void add_tokenizer(const TokenizerData& tokenizer, GgufImage& image) {
  const bool is_llama3 = tokenizer.pre_split == PreSplit::kLlama3;
  image.add_string("tokenizer.ggml.model", "gpt2");
  image.add_string("tokenizer.ggml.pre", is_llama3 ? "llama-bpe" : "smollm");
  image.add_strings("tokenizer.ggml.tokens", tokenizer.pieces);
  constexpr std::int32_t kNormal = 1, kControl = 3;
  std::vector<std::int32_t> types;
  for (const bool is_special : tokenizer.is_special) types.push_back(is_special ? kControl : kNormal);
  image.add_int32s("tokenizer.ggml.token_type", types);
  std::vector<std::string> merges;
  for (const auto& [left, right] : tokenizer.merges) merges.push_back(left + " " + right);
  image.add_strings("tokenizer.ggml.merges", merges);
  image.add_uint32("tokenizer.ggml.bos_token_id", tokenizer.bos_id);
  image.add_bool("tokenizer.ggml.add_bos_token", tokenizer.adds_bos);
  if (tokenizer.chat_template != mini_engine::ChatTemplate::kNone) {
    image.add_string("tokenizer.chat_template", is_llama3 ? "{{ '<|start_header_id|>' }}" : "{{ '<|im_start|>' }}");
  }
}

}  // namespace

GgufImage to_gguf(const TinyModel& model) {
  const ModelConfig& config = model.config;
  if (config.rope.scaling == mini_engine::RopeScaling::kLlama3) throw std::invalid_argument("GGUF has no llama3 type");
  GgufImage image;
  image.add_string("general.architecture", "llama");
  image.add_string("general.name", config.name);
  image.add_uint32("general.alignment", static_cast<std::uint32_t>(image.alignment));
  image.add_uint32("llama.block_count", static_cast<std::uint32_t>(config.num_layers));
  image.add_uint32("llama.context_length", static_cast<std::uint32_t>(config.max_positions));
  image.add_uint32("llama.embedding_length", static_cast<std::uint32_t>(config.hidden_size));
  image.add_uint32("llama.feed_forward_length", static_cast<std::uint32_t>(config.ffn_size));
  image.add_uint32("llama.attention.head_count", static_cast<std::uint32_t>(config.num_heads));
  image.add_uint32("llama.attention.head_count_kv", static_cast<std::uint32_t>(config.num_kv_heads));
  image.add_uint32("llama.attention.key_length", static_cast<std::uint32_t>(config.head_dim));
  image.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_eps);
  image.add_uint32("llama.vocab_size", static_cast<std::uint32_t>(config.vocab_size));
  image.add_float32("llama.rope.freq_base", static_cast<float>(config.rope.theta));
  if (config.rope.scaling == mini_engine::RopeScaling::kLinear) {
    image.add_string("llama.rope.scaling.type", "linear");
    image.add_float32("llama.rope.scaling.factor", static_cast<float>(config.rope.factor));
  }
  add_tokenizer(model.tokenizer, image);
  if (!config.eos_ids.empty()) image.add_uint32("tokenizer.ggml.eos_token_id", config.eos_ids.front());

  for_each_tensor(model, [&](TensorRole role, int layer, const std::string& name, const std::string&) {
    const auto shape = mini_engine::expected_shape(config, role);
    GgufImage::Tensor tensor;
    tensor.name = name;
    tensor.dims.push_back(static_cast<std::uint64_t>(shape.columns));
    if (shape.rows > 1) tensor.dims.push_back(static_cast<std::uint64_t>(shape.rows));
    const Encoding encoding = is_vector(config, role) ? Encoding::kF32 : model.matrices;
    tensor.type = mini_engine::gguf_type_of(encoding);
    if (mini_engine::block_size(encoding).elements > 1) {
      const auto seed = model.seed + image.tensors.size() * 7919;
      tensor.bytes = random_blocks(encoding, shape.rows * shape.columns, seed);
    } else {
      auto weights = tiny_weights(model, role, layer);
      if (role == TensorRole::kQuery || role == TensorRole::kKey) {
        weights = interleave_rows(weights, config.head_dim, shape.columns);
      }
      tensor.bytes = encode(weights, encoding);
    }
    image.tensors.push_back(std::move(tensor));
  });
  if (!config.rope.frequency_divisors.empty()) {
    image.tensors.push_back({"rope_freqs.weight",
                             {config.rope.frequency_divisors.size()},
                             mini_engine::gguf_type_of(Encoding::kF32),
                             encode(config.rope.frequency_divisors, Encoding::kF32),
                             {},
                             {}});
  }
  return image;
}

void write_gguf(const TinyModel& model, const std::filesystem::path& path) {
  write_file(path, to_gguf(model).write().bytes);
}

std::string hf_config_json(const ModelConfig& config) {
  const auto& rope = config.rope;
  if (!rope.frequency_divisors.empty()) throw std::invalid_argument("config.json cannot hold frequency divisors");
  nlohmann::json json = {{"architectures", {"LlamaForCausalLM"}},
                         {"model_type", "llama"},
                         {"_name_or_path", config.name},
                         {"num_hidden_layers", config.num_layers},
                         {"hidden_size", config.hidden_size},
                         {"num_attention_heads", config.num_heads},
                         {"num_key_value_heads", config.num_kv_heads},
                         {"head_dim", config.head_dim},
                         {"intermediate_size", config.ffn_size},
                         {"vocab_size", config.vocab_size},
                         {"max_position_embeddings", config.max_positions},
                         {"rms_norm_eps", config.rms_eps},
                         {"tie_word_embeddings", config.tied_embeddings},
                         {"hidden_act", "silu"},
                         {"attention_bias", false},
                         {"mlp_bias", false},
                         {"rope_theta", rope.theta},
                         {"rope_scaling", nullptr},
                         {"eos_token_id", config.eos_ids}};
  if (rope.scaling == mini_engine::RopeScaling::kLinear) {
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", rope.factor}};
  } else if (rope.scaling == mini_engine::RopeScaling::kLlama3) {
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", rope.factor},
                            {"low_freq_factor", rope.low_freq_factor},
                            {"high_freq_factor", rope.high_freq_factor},
                            {"original_max_position_embeddings", rope.original_max_positions}};
  }
  return json.dump(2);
}

std::string hf_tokenizer_json(const TokenizerData& tokenizer) {
  using nlohmann::json;
  json vocab = json::object(), added = json::array(), merges = json::array();
  for (std::size_t i = 0; i < tokenizer.pieces.size(); ++i) {
    if (!tokenizer.is_special[i]) {
      vocab[tokenizer.pieces[i]] = i;
      continue;
    }
    added.push_back({{"id", i},
                     {"content", tokenizer.pieces[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  for (const auto& [left, right] : tokenizer.merges) merges.push_back(json::array({left, right}));
  const bool is_llama3 = tokenizer.pre_split == PreSplit::kLlama3;
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", !is_llama3}};
  const char* kLlama3Pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const json cut = is_llama3 ? json{{"type", "Split"},
                                    {"pattern", {{"Regex", kLlama3Pattern}}},
                                    {"behavior", "Isolated"},
                                    {"invert", false}}
                             : json{{"type", "Digits"}, {"individual_digits", true}};
  const json pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", json::array({cut, byte_level})}};
  const json model = {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", false},
                      {"ignore_merges", tokenizer.ignore_merges},
                      {"vocab", vocab},
                      {"merges", merges}};
  json file = {{"version", "1.0"},          {"truncation", nullptr}, {"padding", nullptr},
               {"added_tokens", added},     {"normalizer", nullptr}, {"pre_tokenizer", pre_tokenizer},
               {"post_processor", nullptr}, {"decoder", byte_level}, {"model", model}};
  if (tokenizer.adds_bos) {
    const std::string& bos = tokenizer.pieces.at(tokenizer.bos_id);
    file["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", json::array({{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}},
                                {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})},
        {"pair", json::array()},
        {"special_tokens", {{bos, {{"id", bos}, {"ids", {tokenizer.bos_id}}, {"tokens", {bos}}}}}}};
  }
  return file.dump(1);
}

void write_hf_folder(const TinyModel& model, const std::filesystem::path& folder, int num_shards) {
  std::vector<std::vector<SafetensorsTensor>> shards(static_cast<std::size_t>(num_shards));
  const auto shard_name = [&](std::size_t index) {
    return num_shards == 1 ? std::string("model.safetensors") : "model-" + std::to_string(index) + ".safetensors";
  };
  const char* dtype = model.matrices == Encoding::kF32 ? "F32" : model.matrices == Encoding::kF16 ? "F16" : "BF16";
  nlohmann::json weight_map = nlohmann::json::object();
  std::size_t num_tensors = 0;
  for_each_tensor(model, [&](TensorRole role, int layer, const std::string&, const std::string& name) {
    const auto shape = mini_engine::expected_shape(model.config, role);
    const std::size_t shard_index = num_tensors++ % shards.size();
    SafetensorsTensor tensor{name, dtype, {shape.rows, shape.columns}, {}};
    if (shape.rows == 1) tensor.shape = {shape.columns};
    tensor.bytes = encode(tiny_weights(model, role, layer), model.matrices);
    shards[shard_index].push_back(std::move(tensor));
    weight_map[name] = shard_name(shard_index);
  });

  std::filesystem::create_directories(folder);
  for (std::size_t i = 0; i < shards.size(); ++i) write_file(folder / shard_name(i), write_safetensors(shards[i]));
  if (num_shards > 1) {
    const nlohmann::json index = {{"metadata", nlohmann::json::object()}, {"weight_map", weight_map}};
    write_file(folder / "model.safetensors.index.json", index.dump(1));
  }
  write_file(folder / "config.json", hf_config_json(model.config));
  write_file(folder / "tokenizer.json", hf_tokenizer_json(model.tokenizer));
  const char* chat_template =
      model.tokenizer.pre_split == PreSplit::kLlama3 ? "{{ '<|start_header_id|>' }}" : "{{ '<|im_start|>' }}";
  nlohmann::json tokenizer_config = {{"bos_token", model.tokenizer.pieces.at(model.tokenizer.bos_id)},
                                     {"add_bos_token", model.tokenizer.adds_bos}};
  if (model.tokenizer.chat_template != mini_engine::ChatTemplate::kNone) {
    tokenizer_config["chat_template"] = chat_template;
  }
  write_file(folder / "tokenizer_config.json", tokenizer_config.dump(1));
}

}  // namespace test_support
