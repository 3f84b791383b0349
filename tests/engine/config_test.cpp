// config.json of a Hugging Face folder: what is read, and that everything else is refused by name.
#include "mini_engine/config.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "mini_engine/error.hpp"
#include "mini_engine/hf_config.hpp"
#include "support/tiny_model.hpp"

namespace {

using mini_engine::ModelConfig;
using mini_engine::parse_hf_config_text;
using mini_engine::RopeScaling;
using nlohmann::json;

json sound() { return json::parse(test_support::hf_config_json(test_support::tiny_model().config)); }

std::string complaint(const std::string& text) {
  try {
    static_cast<void>(parse_hf_config_text(text, "folder/config.json"));
  } catch (const mini_engine::Error& error) {
    return error.what();
  }
  return "accepted";
}

const json kLlama3Scaling = {{"rope_type", "llama3"},
                             {"factor", 8.0},
                             {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0},
                             {"original_max_position_embeddings", 8192}};

}  // namespace

TEST_CASE("a config.json comes back as it was written") {
  const ModelConfig written = test_support::tiny_model().config;
  const ModelConfig read = parse_hf_config_text(test_support::hf_config_json(written), "config.json");
  CHECK(read.num_layers == 2);
  CHECK(read.hidden_size == 32);
  CHECK(read.num_heads == 4);
  CHECK(read.num_kv_heads == 2);
  CHECK(read.head_dim == 8);
  CHECK(read.ffn_size == 64);
  CHECK(read.vocab_size == written.vocab_size);
  CHECK(read.max_positions == 256);
  CHECK(read.rms_eps == 1e-5F);
  CHECK_FALSE(read.tied_embeddings);
  CHECK(read.rope.theta == 10000.0);
  CHECK(read.rope.scaling == RopeScaling::kNone);
  CHECK(read.eos_ids == std::vector<mini_engine::TokenId>{2});
  CHECK(read.name == "tiny");
}

TEST_CASE("optional members have the defaults of the architecture") {
  json config = sound();
  for (const char* name : {"head_dim", "num_key_value_heads", "tie_word_embeddings", "rope_theta", "rope_scaling",
                           "eos_token_id", "hidden_act", "architectures"}) {
    config.erase(name);
  }
  const ModelConfig read = parse_hf_config_text(config.dump(), "config.json");
  CHECK(read.head_dim == 8);
  CHECK(read.num_kv_heads == 4);
  CHECK_FALSE(read.tied_embeddings);
  CHECK(read.rope.theta == 10000.0);
  CHECK(read.eos_ids.empty());
}

TEST_CASE("rope scaling is read under either name and in either spelling") {
  json config = sound();
  config["rope_theta"] = 500000.0;
  config["rope_scaling"] = kLlama3Scaling;
  const auto check_llama3 = [](const ModelConfig& read) {
    CHECK(read.rope.theta == 500000.0);
    CHECK(read.rope.scaling == RopeScaling::kLlama3);
    CHECK(read.rope.factor == 8.0);
    CHECK(read.rope.low_freq_factor == 1.0);
    CHECK(read.rope.high_freq_factor == 4.0);
    CHECK(read.rope.original_max_positions == 8192);
  };
  check_llama3(parse_hf_config_text(config.dump(), "config.json"));

  json newer = sound();
  newer.erase("rope_theta");
  newer.erase("rope_scaling");
  newer["rope_parameters"] = kLlama3Scaling;
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  check_llama3(parse_hf_config_text(newer.dump(), "config.json"));

  newer["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1234.5}};
  const ModelConfig plain = parse_hf_config_text(newer.dump(), "config.json");
  CHECK(plain.rope.theta == 1234.5);
  CHECK(plain.rope.scaling == RopeScaling::kNone);

  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  const ModelConfig linear = parse_hf_config_text(config.dump(), "config.json");
  CHECK(linear.rope.scaling == RopeScaling::kLinear);
  CHECK(linear.rope.factor == 2.5);
}

TEST_CASE("several end-of-sequence ids") {
  json config = sound();
  config["eos_token_id"] = {1, 2, 5};
  CHECK(parse_hf_config_text(config.dump(), "config.json").eos_ids == std::vector<mini_engine::TokenId>{1, 2, 5});
}

TEST_CASE("every bad member is refused with its file, name and place") {
  const struct {
    const char* member;
    json value;
    const char* reason;
  } cases[] = {
      {"model_type", "qwen2", "'qwen2' is not supported"},
      {"model_type", 1, "is not a string"},
      {"architectures", {"MistralForCausalLM"}, "MistralForCausalLM"},
      {"attention_bias", true, "true is not supported"},
      {"mlp_bias", true, "true is not supported"},
      {"attention_bias", 1, "neither true nor false"},
      {"hidden_act", "gelu", "'gelu' is not supported"},
      {"quantization_config", json::object(), "not supported"},
      {"partial_rotary_factor", 0.5, "not supported"},
      {"rope_interleaved", true, "not supported"},
      {"num_hidden_layers", 0, "not within 1"},
      {"num_hidden_layers", -1, "not a positive whole number"},
      {"num_hidden_layers", 2.0, "not a positive whole number"},
      {"num_hidden_layers", "2", "not a positive whole number"},
      {"num_hidden_layers", 2147483648U, "not within 1"},
      {"hidden_size", 18446744073709551615U, "not within 1"},
      {"rms_norm_eps", 0.0, "not a positive finite number"},
      {"rms_norm_eps", "1e-5", "not a number"},
      {"rope_theta", -1.0, "not a positive finite number"},
      {"eos_token_id", 100000, "outside the vocabulary"},
      {"eos_token_id", -1, "neither a token id nor a list"},
      {"eos_token_id", {1, "2"}, "neither a token id nor a list"},
      {"rope_scaling", 1, "is not an object"},
      {"tie_word_embeddings", "yes", "neither true nor false"},
  };
  for (const auto& item : cases) {
    CAPTURE(item.member);
    json config = sound();
    config[item.member] = item.value;
    const std::string text = config.dump();
    const std::string message = complaint(text);
    CAPTURE(message);
    const std::string name = json(item.member).dump();
    const std::size_t offset = text.find(name) + name.size();
    CHECK(message.rfind("folder/config.json: " + std::string(item.member) + " at byte " + std::to_string(offset), 0) ==
          0);
    CHECK(message.find(item.reason) != std::string::npos);
  }
}

TEST_CASE("bad rope scaling is refused") {
  const struct {
    const char* member;
    json value;
    const char* reason;
  } cases[] = {
      {"rope_type", "yarn", "'yarn' is not supported"},
      {"rope_type", "dynamic", "'dynamic' is not supported"},
      {"rope_type", nullptr, "is missing"},
      {"type", "linear", "contradicts rope_type"},
      {"factor", nullptr, "is missing"},
      {"factor", 0, "not a positive finite number"},
      {"low_freq_factor", nullptr, "is missing"},
      {"original_max_position_embeddings", 0, "not within 1"},
      {"partial_rotary_factor", 0.25, "not supported"},
  };
  for (const auto& item : cases) {
    CAPTURE(item.member);
    json config = sound();
    config["rope_scaling"] = kLlama3Scaling;
    config["rope_scaling"][item.member] = item.value;
    const std::string message = complaint(config.dump());
    CAPTURE(message);
    CHECK(message.rfind("folder/config.json: rope_scaling." + std::string(item.member) + " at byte ", 0) == 0);
    CHECK(message.find(item.reason) != std::string::npos);
  }
  json config = sound();
  config["rope_scaling"] = kLlama3Scaling;
  config["rope_scaling"]["high_freq_factor"] = 1.0;
  CHECK(complaint(config.dump()).find("high_freq_factor: is not above low_freq_factor") != std::string::npos);
  config["rope_scaling"] = kLlama3Scaling;
  config["rope_parameters"] = {{"rope_type", "default"}};
  CHECK(complaint(config.dump()).find("rope_scaling at byte") != std::string::npos);
}

TEST_CASE("missing members are named") {
  for (const char* member : {"model_type", "num_hidden_layers", "hidden_size", "num_attention_heads",
                             "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    json config = sound();
    config.erase(member);
    CHECK(complaint(config.dump()) == "folder/config.json: " + std::string(member) + " at byte 0: is missing");
  }
}

TEST_CASE("malformed JSON is refused with its place") {
  CHECK(complaint("").find("JSON at byte 0") != std::string::npos);
  CHECK(complaint("[]").find("is not an object") != std::string::npos);
  CHECK(complaint(R"({"a": 1,})").find("JSON at byte 9") != std::string::npos);
  CHECK(complaint(R"({"a": 1, "b": {"a": 1, "a": 2}})").find("a at byte 26: duplicate key") != std::string::npos);
  CHECK(complaint(std::string(100000, '[')).find("JSON at byte 65: nested deeper") != std::string::npos);
}

TEST_CASE("truncated at any byte, config.json is refused") {
  const std::string text = sound().dump();
  for (std::size_t length = 0; length < text.size(); ++length) {
    CHECK_THROWS_AS(static_cast<void>(parse_hf_config_text(text.substr(0, length), "c")), mini_engine::Error);
  }
}

TEST_CASE("validate names the field that is out of its domain") {
  const ModelConfig sound_config = test_support::tiny_model().config;
  CHECK_NOTHROW(mini_engine::validate(sound_config, "file"));
  const auto complaint_about = [&](auto change) -> std::string {
    ModelConfig config = sound_config;
    change(config);
    try {
      mini_engine::validate(config, "file");
    } catch (const mini_engine::Error& error) {
      return error.what();
    }
    return "accepted";
  };
  constexpr int kHuge = std::numeric_limits<int>::max();
  CHECK(complaint_about([](ModelConfig& c) { c.num_layers = 0; }) == "file: number of layers: is not positive");
  CHECK(complaint_about([](ModelConfig& c) { c.ffn_size = -1; }) == "file: feed-forward size: is not positive");
  CHECK(complaint_about([](ModelConfig& c) { c.num_kv_heads = 3; }).find("no multiple of the KV heads") !=
        std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.head_dim = 7; }).find("head size: is odd") != std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.head_dim = kHuge - 1; }).find("31 bits") != std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.vocab_size = c.hidden_size = kHuge; }).find("overflows 63 bits") !=
        std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.num_layers = c.max_positions = kHuge; }).find("KV of all layers") !=
        std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) {
          c.rms_eps = std::numeric_limits<float>::infinity();
        }).find("RMS epsilon") != std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.rope.theta = 0; }).find("rope theta") != std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.rope.frequency_divisors = {1.0F}; }).find("one for each pair") !=
        std::string::npos);
  CHECK(complaint_about([](ModelConfig& c) { c.eos_ids.push_back(1U << 20); }).find("outside the vocabulary") !=
        std::string::npos);
}
