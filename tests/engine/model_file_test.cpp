// Models opened from disk: the same weights whatever the container, every encoding, fingerprints, folders with parts
// that do not fit each other, and a real file.
#include "mini_engine/model_file.hpp"

#include <doctest/doctest.h>
#include <openssl/evp.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf.hpp"
#include "mini_engine/tokenizer.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temp_directory.hpp"
#include "support/tiny_model.hpp"

namespace {

using mini_engine::Encoding;
using mini_engine::ModelFile;
using mini_engine::open_model;
using mini_engine::PreSplit;
using mini_engine::TensorRole;
using test_support::TempDirectory;
using test_support::tiny_model;
using test_support::TinyModel;

constexpr TensorRole kRoles[] = {TensorRole::kTokenEmbedding, TensorRole::kOutputNorm,      TensorRole::kOutputHead,
                                 TensorRole::kAttentionNorm,  TensorRole::kQuery,           TensorRole::kKey,
                                 TensorRole::kValue,          TensorRole::kAttentionOutput, TensorRole::kFfnNorm,
                                 TensorRole::kFfnGate,        TensorRole::kFfnUp,           TensorRole::kFfnDown};

/// All elements, in half-split row order whatever the file holds.
std::vector<float> read_weights(const ModelFile& file, TensorRole role, int layer) {
  const auto view = file.tensor(role, layer);
  const bool is_rotated = role == TensorRole::kQuery || role == TensorRole::kKey;
  const std::int64_t head_dim = file.config().head_dim;
  std::vector<float> weights(static_cast<std::size_t>(view.rows * view.columns));
  for (std::int64_t row = 0; row < view.rows; ++row) {
    std::int64_t target = row;
    if (is_rotated && file.has_interleaved_rope_rows()) {
      const std::int64_t in_head = row % head_dim;
      target = row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
    }
    mini_engine::dequantize(view, row, 0, std::span(weights).subspan(target * view.columns, view.columns));
  }
  return weights;
}

void check_weights(const ModelFile& file, const TinyModel& model) {
  for (int layer = 0; layer < model.config.num_layers; ++layer) {
    for (const TensorRole role : kRoles) {
      CAPTURE(static_cast<int>(role));
      const bool is_tied_head = role == TensorRole::kOutputHead && model.config.tied_embeddings;
      const bool has_layer = role >= TensorRole::kAttentionNorm;
      const auto expected =
          test_support::tiny_weights(model, is_tied_head ? TensorRole::kTokenEmbedding : role, has_layer ? layer : 0);
      CHECK(read_weights(file, role, layer) == expected);
    }
  }
}

void check_config(const mini_engine::ModelConfig& read, const mini_engine::ModelConfig& written) {
  CHECK(read.num_layers == written.num_layers);
  CHECK(read.hidden_size == written.hidden_size);
  CHECK(read.num_heads == written.num_heads);
  CHECK(read.num_kv_heads == written.num_kv_heads);
  CHECK(read.head_dim == written.head_dim);
  CHECK(read.ffn_size == written.ffn_size);
  CHECK(read.vocab_size == written.vocab_size);
  CHECK(read.max_positions == written.max_positions);
  CHECK(read.rms_eps == written.rms_eps);
  CHECK(read.tied_embeddings == written.tied_embeddings);
  CHECK(read.rope.theta == written.rope.theta);
  CHECK(read.rope.scaling == written.rope.scaling);
  CHECK(read.rope.factor == written.rope.factor);
  CHECK(read.rope.frequency_divisors == written.rope.frequency_divisors);
  CHECK(read.eos_ids == written.eos_ids);
  CHECK(read.name == written.name);
}

void check_tokenizer(const mini_engine::TokenizerData& read, const mini_engine::TokenizerData& written) {
  CHECK(read.pieces == written.pieces);
  CHECK(read.is_special == written.is_special);
  CHECK(read.merges == written.merges);
  CHECK(read.pre_split == written.pre_split);
  CHECK(read.chat_template == written.chat_template);
  CHECK(read.bos_id == written.bos_id);
  CHECK(read.adds_bos == written.adds_bos);
  CHECK(read.ignore_merges == written.ignore_merges);
}

template <class Open>
std::string complaint(Open open) {
  try {
    static_cast<void>(open());
  } catch (const mini_engine::Error& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string sha256_hex(std::span<const std::byte> bytes) {
  std::array<unsigned char, 32> digest{};
  unsigned size_bytes = 0;
  REQUIRE(EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size_bytes, EVP_sha256(), nullptr) == 1);
  std::string hex;
  for (const unsigned char byte : digest) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

}  // namespace

TEST_CASE("a model comes back from GGUF and from folders with the weights it was made of") {
  const TempDirectory directory;
  for (const Encoding encoding : {Encoding::kF32, Encoding::kF16, Encoding::kBF16}) {
    for (const bool tied : {false, true}) {
      for (const PreSplit pre_split : {PreSplit::kSmolLm, PreSplit::kLlama3}) {
        CAPTURE(static_cast<int>(encoding));
        CAPTURE(tied);
        TinyModel model = tiny_model(pre_split);
        model.matrices = encoding;
        model.config.tied_embeddings = tied;
        model.config.rope.scaling = mini_engine::RopeScaling::kLinear;
        model.config.rope.factor = 4.0;
        const auto path = directory.path() / "model.gguf";
        test_support::write_gguf(model, path);
        const auto gguf = open_model(path.string());
        CHECK(gguf->has_interleaved_rope_rows());
        check_config(gguf->config(), model.config);
        check_weights(*gguf, model);
        check_tokenizer(gguf->tokenizer(), model.tokenizer);

        for (const int num_shards : {1, 3}) {
          const auto folder = directory.path() / ("folder" + std::to_string(num_shards));
          std::filesystem::remove_all(folder);
          test_support::write_hf_folder(model, folder, num_shards);
          const auto hf = open_model(folder.string());
          CHECK_FALSE(hf->has_interleaved_rope_rows());
          check_config(hf->config(), model.config);
          check_weights(*hf, model);
          check_tokenizer(hf->tokenizer(), model.tokenizer);
        }
      }
    }
  }
}

TEST_CASE("frequency divisors come from rope_freqs.weight") {
  const TempDirectory directory;
  TinyModel model = tiny_model(PreSplit::kLlama3);
  model.config.rope.frequency_divisors = {1.0F, 1.5F, 4.0F, 8.0F};
  const auto path = (directory.path() / "model.gguf").string();
  test_support::write_gguf(model, path);
  CHECK(open_model(path)->config().rope.frequency_divisors == model.config.rope.frequency_divisors);

  model.config.rope.scaling = mini_engine::RopeScaling::kLinear;
  model.config.rope.factor = 2.0;
  test_support::write_gguf(model, path);
  CHECK(contains(complaint([&] { return open_model(path); }), "llama.rope.scaling.factor at byte"));
}

TEST_CASE("every block encoding is found in a GGUF file, byte for byte") {
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0, Encoding::kQ5_1,
                                  Encoding::kQ4_K, Encoding::kQ6_K}) {
    CAPTURE(static_cast<int>(encoding));
    TinyModel model = tiny_model();
    model.matrices = encoding;
    model.config.hidden_size = model.config.ffn_size = 256;
    model.config.head_dim = 64;
    const auto image = test_support::to_gguf(model);
    const auto file = image.write();
    const mini_engine::GgufFile opened(file.bytes, "memory");
    const auto view = opened.tensor(TensorRole::kFfnUp, 1);
    CHECK(view.encoding == encoding);
    CHECK(view.rows == 256);
    CHECK(view.columns == 256);
    const auto* written = &image.tensors.front();
    for (const auto& tensor : image.tensors) {
      if (tensor.name == "blk.1.ffn_up.weight") written = &tensor;
    }
    REQUIRE(view.bytes.size() == written->bytes.size());
    CHECK(std::memcmp(view.bytes.data(), written->bytes.data(), view.bytes.size()) == 0);
  }
}

TEST_CASE("asking for a layer that does not exist is an error") {
  const auto file = test_support::to_gguf(tiny_model()).write();
  const mini_engine::GgufFile opened(file.bytes, "memory");
  for (const int layer : {-1, 2})
    CHECK_THROWS_AS(static_cast<void>(opened.tensor(TensorRole::kKey, layer)), mini_engine::Error);
  CHECK_NOTHROW(static_cast<void>(opened.tensor(TensorRole::kOutputNorm, -1)));
}

TEST_CASE("the fingerprint changes with any weight and any setting, and with nothing else") {
  const TempDirectory directory;
  const TinyModel model = tiny_model();
  const auto path = (directory.path() / "a.gguf").string();
  const auto fingerprint_of = [&](const TinyModel& changed) {
    test_support::write_gguf(changed, path);
    return open_model(path)->fingerprint();
  };
  std::set<std::array<std::byte, 32>> seen;
  seen.insert(fingerprint_of(model));
  CHECK(seen.contains(fingerprint_of(model)));
  const auto check_new = [&](const TinyModel& changed) { CHECK(seen.insert(fingerprint_of(changed)).second); };
  TinyModel changed = model;
  changed.seed = 2;
  check_new(changed);
  changed = model;
  changed.matrices = Encoding::kF16;
  check_new(changed);
  changed = model;
  changed.config.rope.theta = 10001;
  check_new(changed);
  changed = model;
  changed.config.rms_eps = 2e-5F;
  check_new(changed);
  changed = model;
  changed.config.max_positions = 255;
  check_new(changed);
  changed = model;
  changed.config.rope.frequency_divisors = {1, 1, 1, 1};
  check_new(changed);

  // Any one byte of any tensor.
  auto image = test_support::to_gguf(model);
  for (auto& tensor : image.tensors) {
    tensor.bytes.back() ^= std::byte{1};
    const auto file = image.write();
    CHECK(seen.insert(mini_engine::GgufFile(file.bytes, "memory").fingerprint()).second);
    tensor.bytes.back() ^= std::byte{1};
  }

  // In how many files the tensors lie does not matter.
  test_support::write_hf_folder(model, directory.path() / "one", 1);
  test_support::write_hf_folder(model, directory.path() / "four", 4);
  CHECK(open_model((directory.path() / "one").string())->fingerprint() ==
        open_model((directory.path() / "four").string())->fingerprint());
}

TEST_CASE("paths that are no model") {
  const TempDirectory directory;
  const auto path = (directory.path() / "x").string();
  CHECK(contains(complaint([&] { return open_model(path); }), path + ": cannot open"));
  test_support::write_file(path, std::string_view());
  CHECK(contains(complaint([&] { return open_model(path); }), path + ": magic at byte 0"));
  CHECK(contains(complaint([&] { return open_model(directory.path().string()); }), "config.json: cannot open"));
  CHECK(contains(complaint([&] { return open_model("/dev/null"); }), "not a regular file"));
  const auto part = (directory.path() / "model.safetensors").string();
  test_support::write_file(part, std::string_view("{}"));
  CHECK(contains(complaint([&] { return open_model(part); }), "give the folder"));
}

TEST_CASE("folders whose parts do not fit each other are refused") {
  const TempDirectory directory;
  const TinyModel model = tiny_model();
  const auto folder = directory.path() / "model";
  const auto index_path = folder / "model.safetensors.index.json";
  const auto fresh = [&](int num_shards) {
    std::filesystem::remove_all(folder);
    test_support::write_hf_folder(model, folder, num_shards);
  };
  const auto open_complaint = [&] { return complaint([&] { return open_model(folder.string()); }); };
  const auto change_index = [&](auto change) {
    std::ifstream file(index_path);
    auto index = nlohmann::json::parse(file);
    change(index["weight_map"]);
    test_support::write_file(index_path, index.dump());
  };

  fresh(1);
  CHECK(open_complaint() == "accepted");
  std::filesystem::remove(folder / "model.safetensors");
  CHECK(contains(open_complaint(), "the folder holds no such file"));

  fresh(2);
  std::filesystem::remove(folder / "model-1.safetensors");
  CHECK(contains(open_complaint(), "shard model-1.safetensors is missing"));
  // Without the index the files there are taken for all there is.
  std::filesystem::remove(index_path);
  CHECK(contains(open_complaint(), ": tensor is in none of the files"));

  fresh(1);
  std::filesystem::copy(folder / "model.safetensors", folder / "copy.safetensors");
  CHECK(contains(open_complaint(), "duplicate tensor, also at byte"));

  fresh(2);
  change_index([](nlohmann::json& map) { map["model.norm.weight"] = "model-0.safetensors"; });
  CHECK(contains(open_complaint(), "model.norm.weight: shard model-0.safetensors does not hold this tensor"));
  fresh(2);
  change_index([](nlohmann::json& map) { map["nowhere"] = "model-0.safetensors"; });
  CHECK(contains(open_complaint(), "nowhere: shard model-0.safetensors does not hold this tensor"));
  fresh(2);
  change_index([](nlohmann::json& map) { map.erase("model.norm.weight"); });
  CHECK(contains(open_complaint(), "tensor is not in the index"));
  fresh(2);
  change_index([](nlohmann::json& map) { map["model.norm.weight"] = "absent.safetensors"; });
  CHECK(contains(open_complaint(), "shard absent.safetensors is missing"));
  for (const char* shard : {"../model.safetensors", "/etc/passwd", ".safetensors", "model.bin"}) {
    fresh(2);
    change_index([&](nlohmann::json& map) { map["model.norm.weight"] = shard; });
    CHECK(contains(open_complaint(), "model.norm.weight at byte"));
  }

  fresh(1);
  TinyModel wider = model;
  wider.config.ffn_size = 96;
  test_support::write_file(folder / "config.json", test_support::hf_config_json(wider.config));
  CHECK(contains(open_complaint(), "model.layers.0.mlp.gate_proj.weight at byte"));
  TinyModel smaller = model;
  smaller.config.num_layers = 1;
  test_support::write_file(folder / "config.json", test_support::hf_config_json(smaller.config));
  CHECK(contains(open_complaint(), "has no use for"));
}

TEST_CASE("a real model: SmolLM2-135M-Instruct, against what another implementation decodes") {
  const char* path = std::getenv("PIKV_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped: set PIKV_SMOLLM2 to the path of SmolLM2-135M-Instruct.Q4_1.gguf to run this test");
    return;
  }
  const auto file = open_model(path);
  const auto& config = file->config();
  CHECK(config.num_layers == 30);
  CHECK(config.hidden_size == 576);
  CHECK(config.num_heads == 9);
  CHECK(config.num_kv_heads == 3);
  CHECK(config.head_dim == 64);
  CHECK(config.ffn_size == 1536);
  CHECK(config.vocab_size == 49152);
  CHECK(config.max_positions == 8192);
  CHECK(config.rope.theta == 100000.0);
  CHECK(config.rope.scaling == mini_engine::RopeScaling::kNone);
  CHECK(config.tied_embeddings);
  CHECK(config.eos_ids == std::vector<mini_engine::TokenId>{2});
  const auto& tokenizer = file->tokenizer();
  CHECK(tokenizer.pieces.size() == 49152);
  CHECK(tokenizer.merges.size() == 48900);
  CHECK(tokenizer.is_special[16]);
  CHECK_FALSE(tokenizer.is_special[17]);
  CHECK(tokenizer.pieces[2] == "<|im_end|>");
  CHECK(tokenizer.bos_id == 1);
  CHECK_FALSE(tokenizer.adds_bos);
  CHECK(tokenizer.chat_template == mini_engine::ChatTemplate::kChatMl);

  const struct {
    const char* name;
    TensorRole role;
    int layer;
  } tensors[] = {{"token_embd.weight", TensorRole::kTokenEmbedding, 0},
                 {"token_embd.weight", TensorRole::kOutputHead, 0},
                 {"output_norm.weight", TensorRole::kOutputNorm, 0},
                 {"blk.0.attn_norm.weight", TensorRole::kAttentionNorm, 0},
                 {"blk.0.attn_q.weight", TensorRole::kQuery, 0},
                 {"blk.0.attn_k.weight", TensorRole::kKey, 0},
                 {"blk.13.attn_v.weight", TensorRole::kValue, 13},
                 {"blk.13.attn_output.weight", TensorRole::kAttentionOutput, 13},
                 {"blk.29.ffn_gate.weight", TensorRole::kFfnGate, 29},
                 {"blk.29.ffn_down.weight", TensorRole::kFfnDown, 29}};
  std::ifstream golden_file(PIKV_TEST_DATA "/golden/smollm2_tensors.json");
  const auto golden = nlohmann::json::parse(golden_file);
  for (const auto& item : tensors) {
    CAPTURE(item.name);
    const auto view = file->tensor(item.role, item.layer);
    std::vector<float> values(static_cast<std::size_t>(view.rows * view.columns));
    for (std::int64_t row = 0; row < view.rows; ++row) {
      mini_engine::dequantize(view, row, 0, std::span(values).subspan(row * view.columns, view.columns));
    }
    const auto& expected = golden.at(item.name);
    for (std::size_t i = 0; i < expected.at("first").size(); ++i) {
      CHECK(double{values[i]} == expected.at("first")[i].get<double>());
    }
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    const double magnitude = std::accumulate(values.begin(), values.end(), 1.0,
                                             [](double total, float value) { return total + std::fabs(value); });
    CHECK(std::fabs(sum - expected.at("sum").get<double>()) < 1e-12 * magnitude);
    CHECK(sha256_hex(std::as_bytes(std::span(values))) == expected.at("sha256").get<std::string>());
  }
}
