#include "mini_engine/hf_config.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "mini_engine/error.hpp"
#include "mini_engine/json_document.hpp"
#include "mini_engine/mapped_file.hpp"

namespace mini_engine {
namespace {

using nlohmann::json;

/// The members of one object of the file, read with their types and complained about with their places.
class Fields {
 public:
  explicit Fields(const JsonDocument& document) : document_(document), object_(document.root()) {
    if (!object_.is_object()) throw file_error(document.source(), "JSON", 0, "is not an object");
  }

  [[nodiscard]] std::optional<Fields> object(std::string_view name) const {
    const json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) fail(name, "is not an object");
    return Fields(document_, *value, name);
  }

  [[nodiscard]] bool has(std::string_view name) const { return find(name) != nullptr; }

  /// An absent member and null are the same here, as they are to the library that writes these files.
  [[nodiscard]] const json* find(std::string_view name) const {
    const auto found = object_.find(std::string(name));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  [[nodiscard]] int positive_int(std::string_view name) const {
    const json& value = required(name);
    if (!value.is_number_unsigned()) fail(name, "is not a positive whole number");
    const auto number = value.get<std::uint64_t>();
    if (number == 0 || number > std::numeric_limits<int>::max()) fail(name, "is not within 1 and 2147483647");
    return static_cast<int>(number);
  }

  [[nodiscard]] double positive_number(std::string_view name) const {
    const json& value = required(name);
    if (!value.is_number()) fail(name, "is not a number");
    const auto number = value.get<double>();
    if (!std::isfinite(number) || number <= 0) fail(name, "is not a positive finite number");
    return number;
  }

  [[nodiscard]] std::string string(std::string_view name) const {
    const json& value = required(name);
    if (!value.is_string()) fail(name, "is not a string");
    return value.get<std::string>();
  }

  [[nodiscard]] bool boolean(std::string_view name, bool fallback) const {
    const json* value = find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail(name, "is neither true nor false");
    return value->get<bool>();
  }

  [[noreturn]] void fail(std::string_view name, std::string_view what) const {
    if (prefix_.empty()) throw file_error(document_.source(), name, document_.offset_of({name}), what);
    throw file_error(document_.source(), prefix_ + "." + std::string(name), document_.offset_of({prefix_, name}), what);
  }

 private:
  Fields(const JsonDocument& document, const json& object, std::string_view prefix)
      : document_(document), object_(object), prefix_(prefix) {}

  [[nodiscard]] const json& required(std::string_view name) const {
    const json* value = find(name);
    if (value == nullptr) {
      const std::string field = prefix_.empty() ? std::string(name) : prefix_ + "." + std::string(name);
      throw file_error(document_.source(), field, prefix_.empty() ? 0 : document_.offset_of({prefix_}), "is missing");
    }
    return *value;
  }

  const JsonDocument& document_;
  const json& object_;
  std::string prefix_;
};

void refuse_what_is_not_llama(const Fields& fields) {
  if (const std::string type = fields.string("model_type"); type != "llama") {
    fields.fail("model_type", in_quotes(type) + " is not supported, only 'llama' is");
  }
  if (const json* names = fields.find("architectures")) {
    if (*names != json::array({"LlamaForCausalLM"})) {
      fields.fail("architectures", "is " + names->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 200) +
                                       ", only [\"LlamaForCausalLM\"] is supported");
    }
  }
  if (fields.has("hidden_act") && fields.string("hidden_act") != "silu") {
    fields.fail("hidden_act", in_quotes(fields.string("hidden_act")) + " is not supported, only 'silu' is");
  }
  for (const std::string_view name : {"attention_bias", "mlp_bias", "rope_interleaved"}) {
    if (fields.boolean(name, false)) fields.fail(name, "true is not supported");
  }
  if (fields.has("quantization_config")) fields.fail("quantization_config", "quantized folders are not supported");
  if (fields.has("partial_rotary_factor") && fields.positive_number("partial_rotary_factor") != 1.0) {
    fields.fail("partial_rotary_factor", "rotating a part of the head is not supported");
  }
}

void read_scaling(const Fields& fields, RopeParameters& rope) {
  // Older files say `type`, newer ones `rope_type`, some say both.
  const bool has_new_name = fields.has("rope_type");
  const std::string_view type_name = has_new_name || !fields.has("type") ? "rope_type" : "type";
  const std::string type = fields.string(type_name);
  if (has_new_name && fields.has("type") && fields.string("type") != type) fields.fail("type", "contradicts rope_type");
  if (fields.has("rope_theta")) rope.theta = fields.positive_number("rope_theta");
  if (fields.has("partial_rotary_factor") && fields.positive_number("partial_rotary_factor") != 1.0) {
    fields.fail("partial_rotary_factor", "rotating a part of the head is not supported");
  }
  if (type == "default") return;
  if (type != "linear" && type != "llama3") {
    fields.fail(type_name, in_quotes(type) + " is not supported, only default, linear and llama3 are");
  }
  rope.factor = fields.positive_number("factor");
  rope.scaling = RopeScaling::kLinear;
  if (type == "linear") return;
  rope.scaling = RopeScaling::kLlama3;
  rope.low_freq_factor = fields.positive_number("low_freq_factor");
  rope.high_freq_factor = fields.positive_number("high_freq_factor");
  rope.original_max_positions = fields.positive_int("original_max_position_embeddings");
}

RopeParameters read_rope(const Fields& fields) {
  RopeParameters rope;
  if (fields.has("rope_theta")) rope.theta = fields.positive_number("rope_theta");
  const auto older = fields.object("rope_scaling");
  const auto newer = fields.object("rope_parameters");
  if (older && newer && *fields.find("rope_scaling") != *fields.find("rope_parameters")) {
    fields.fail("rope_scaling", "contradicts rope_parameters");
  }
  if (newer) {
    read_scaling(*newer, rope);
  } else if (older) {
    read_scaling(*older, rope);
  }
  return rope;
}

std::vector<TokenId> read_eos_ids(const Fields& fields, int vocab_size) {
  std::vector<TokenId> ids;
  const auto add = [&](const json& value) {
    if (!value.is_number_unsigned()) fields.fail("eos_token_id", "is neither a token id nor a list of them");
    const auto id = value.get<std::uint64_t>();
    if (id >= static_cast<std::uint64_t>(vocab_size)) fields.fail("eos_token_id", "is outside the vocabulary");
    ids.push_back(static_cast<TokenId>(id));
  };
  const json* value = fields.find("eos_token_id");
  if (value == nullptr) return ids;
  if (value->is_array()) {
    for (const json& element : *value) add(element);
  } else {
    add(*value);
  }
  return ids;
}

}  // namespace

ModelConfig parse_hf_config_text(std::string_view text, const std::string& source) {
  const JsonDocument document(text, source);
  const Fields fields(document);
  refuse_what_is_not_llama(fields);
  ModelConfig config;
  config.num_layers = fields.positive_int("num_hidden_layers");
  config.hidden_size = fields.positive_int("hidden_size");
  config.num_heads = fields.positive_int("num_attention_heads");
  config.num_kv_heads =
      fields.has("num_key_value_heads") ? fields.positive_int("num_key_value_heads") : config.num_heads;
  if (fields.has("head_dim")) {
    config.head_dim = fields.positive_int("head_dim");
  } else if (config.hidden_size % config.num_heads == 0) {
    config.head_dim = config.hidden_size / config.num_heads;
  } else {
    fields.fail("hidden_size", "is no multiple of num_attention_heads, and there is no head_dim");
  }
  config.ffn_size = fields.positive_int("intermediate_size");
  config.vocab_size = fields.positive_int("vocab_size");
  config.max_positions = fields.positive_int("max_position_embeddings");
  config.rms_eps = static_cast<float>(fields.positive_number("rms_norm_eps"));
  config.tied_embeddings = fields.boolean("tie_word_embeddings", false);
  config.rope = read_rope(fields);
  config.eos_ids = read_eos_ids(fields, config.vocab_size);
  if (fields.has("_name_or_path")) config.name = fields.string("_name_or_path");
  validate(config, source);
  return config;
}

ModelConfig parse_hf_config(const std::string& path) {
  constexpr std::size_t kMaxBytes = std::size_t{1} << 20;
  const MappedFile file(path);
  if (file.bytes().size() > kMaxBytes) throw file_error(path, "size", "more than 1 MiB, which no config.json needs");
  return parse_hf_config_text({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
}

}  // namespace mini_engine
