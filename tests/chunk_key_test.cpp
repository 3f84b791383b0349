#include "pikv/chunk_key.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using nlohmann::json;
using pikv::ChunkKeyer;
using pikv::ChunkKeyerOptions;
using pikv::ChunkRecipe;
using Tokens = std::vector<pikv::TokenId>;

std::vector<std::byte> from_hex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

template <class Digest>
Digest digest_from_hex(const std::string& text) {
  Digest digest;
  const std::vector<std::byte> bytes = from_hex(text);
  REQUIRE(bytes.size() == digest.bytes.size());
  std::copy(bytes.begin(), bytes.end(), digest.bytes.begin());
  return digest;
}

template <class Digest>
std::string hex(const Digest& digest) {
  return pikv::ChunkKey{digest.bytes}.to_hex();
}

/// Options that own their secret.
struct OwnedOptions {
  ChunkKeyerOptions options{.model = {},
                            .geometry = {},
                            .rope = pikv::RopeConfig(10000, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                            .name_space = "private:a",
                            .secret = {}};
  std::vector<std::byte> secret = std::vector<std::byte>(32, std::byte{7});

  OwnedOptions() {
    options.geometry = {
        .num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 8, .dtype = pikv::DType::kFloat16};
  }
  [[nodiscard]] ChunkKeyer keyer() const {
    ChunkKeyerOptions with_secret = options;
    with_secret.secret = secret;
    return std::move(ChunkKeyer::create(with_secret).value());
  }
};

pikv::RopeScaling scaling_of(const json& scaling) {
  const std::string kind = scaling.at("kind");
  if (kind == "linear") return pikv::LinearScaling{scaling.at("factor")};
  if (kind == "dynamic_ntk") return pikv::DynamicNtkScaling{scaling.at("factor"), scaling.at("original_max_positions")};
  if (kind == "yarn") {
    return pikv::YarnScaling{scaling.at("factor"),    scaling.at("original_max_positions"), scaling.at("beta_fast"),
                             scaling.at("beta_slow"), scaling.at("attention_factor"),       scaling.at("truncate")};
  }
  if (kind == "llama3") {
    return pikv::Llama3Scaling{scaling.at("factor"), scaling.at("low_freq_factor"), scaling.at("high_freq_factor"),
                               scaling.at("original_max_positions")};
  }
  if (kind == "long_rope") {
    return pikv::LongRopeScaling{
        scaling.at("short_factors").get<std::vector<float>>(), scaling.at("long_factors").get<std::vector<float>>(),
        scaling.at("original_max_positions"), scaling.at("factor"), scaling.at("attention_factor")};
  }
  REQUIRE(kind == "none");
  return pikv::NoScaling{};
}

OwnedOptions options_of(const json& from) {
  static const std::map<std::string, pikv::DType> kDTypes{
      {"float32", pikv::DType::kFloat32}, {"float16", pikv::DType::kFloat16}, {"bfloat16", pikv::DType::kBFloat16}};
  OwnedOptions owned;
  owned.secret = from_hex(from.at("secret"));
  owned.options.name_space = from.at("name_space");
  owned.options.model = digest_from_hex<pikv::ModelFingerprint>(from.at("model"));
  const json& geometry = from.at("geometry");
  owned.options.geometry = {.num_layers = geometry.at("num_layers"),
                            .num_kv_heads = geometry.at("num_kv_heads"),
                            .head_dim = geometry.at("head_dim"),
                            .rotary_dim = geometry.at("rotary_dim"),
                            .dtype = kDTypes.at(geometry.at("dtype"))};
  const json& rope = from.at("rope");
  owned.options.rope = pikv::RopeConfig(
      rope.at("theta"), rope.at("pairing") == "half_split" ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved,
      rope.at("angle_rule") == "exact" ? pikv::AngleRule::kExact : pikv::AngleRule::kFp32Product);
  owned.options.rope.scaling = scaling_of(rope.at("scaling"));
  return owned;
}

TEST_CASE("golden vectors, computed without pikv") {
  std::ifstream file(PIKV_TEST_DATA "/golden/chunk_key.json");
  REQUIRE(file.good());
  const json cases = json::parse(file).at("cases");
  REQUIRE(cases.size() >= 15);
  for (const json& golden : cases) {
    CAPTURE(golden.at("name").get<std::string>());
    const ChunkKeyer keyer = options_of(golden.at("options")).keyer();
    pikv::ContextDigest context = keyer.empty_context();
    for (const json& block : golden.at("context_blocks")) context = keyer.extend(context, block.get<Tokens>());
    CHECK(hex(context) == golden.at("expected").at("context").get<std::string>());
    const std::string kind = golden.at("recipe");
    const ChunkRecipe recipe = kind == "alone"           ? ChunkRecipe::alone()
                               : kind == "behind_prefix" ? ChunkRecipe::behind_prefix(context)
                                                         : ChunkRecipe::exact_context(context);
    CHECK(keyer.key(recipe, golden.at("tokens").get<Tokens>()).to_hex() ==
          golden.at("expected").at("key").get<std::string>());
  }
}

TEST_CASE("every option alone changes the key and the context") {
  using Change = std::function<void(OwnedOptions&)>;
  const auto scaled = [](pikv::RopeScaling scaling) -> Change {
    return [scaling = std::move(scaling)](OwnedOptions& o) { o.options.rope.scaling = scaling; };
  };
  const pikv::DynamicNtkScaling ntk{2, 4096};
  const pikv::YarnScaling yarn{.factor = 4, .original_max_positions = 4096};
  const pikv::Llama3Scaling llama3{8, 1, 4, 8192};
  const pikv::LongRopeScaling long_rope{{1, 1, 1, 2}, {1, 2, 3, 4}, 4096, 2, 1.5};
  const auto with = [&scaled](auto scaling, auto change) {
    change(scaling);
    return scaled(scaling);
  };
  const std::vector<Change> changes{
      [](OwnedOptions&) {},
      [](OwnedOptions& o) { o.secret[31] = std::byte{8}; },
      [](OwnedOptions& o) { o.secret.push_back(std::byte{0}); },
      [](OwnedOptions& o) { o.secret.pop_back(); },
      [](OwnedOptions& o) { o.options.name_space = "private:b"; },
      [](OwnedOptions& o) { o.options.name_space = "private:a "; },
      [](OwnedOptions& o) { o.options.model.bytes[0] = std::byte{1}; },
      [](OwnedOptions& o) { o.options.model.bytes[31] = std::byte{1}; },
      [](OwnedOptions& o) { o.options.geometry.num_layers = 3; },
      [](OwnedOptions& o) { o.options.geometry.num_kv_heads = 3; },
      [](OwnedOptions& o) { o.options.geometry.head_dim = 16; },
      [](OwnedOptions& o) { o.options.geometry.rotary_dim = 4; },
      [](OwnedOptions& o) { o.options.geometry.dtype = pikv::DType::kBFloat16; },
      [](OwnedOptions& o) { o.options.rope.theta = 10000.000001; },
      [](OwnedOptions& o) { o.options.rope.pairing = pikv::Pairing::kInterleaved; },
      [](OwnedOptions& o) { o.options.rope.angle_rule = pikv::AngleRule::kFp32Product; },
      scaled(pikv::LinearScaling{2}),
      scaled(pikv::LinearScaling{3}),
      scaled(ntk),
      with(ntk, [](auto& s) { s.factor = 3; }),
      with(ntk, [](auto& s) { s.original_max_positions = 8192; }),
      scaled(yarn),
      with(yarn, [](auto& s) { s.factor = 5; }),
      with(yarn, [](auto& s) { s.original_max_positions = 8192; }),
      with(yarn, [](auto& s) { s.beta_fast = 31; }),
      with(yarn, [](auto& s) { s.beta_slow = 2; }),
      with(yarn, [](auto& s) { s.attention_factor = 1; }),
      with(yarn, [](auto& s) { s.truncate = false; }),
      scaled(llama3),
      with(llama3, [](auto& s) { s.factor = 9; }),
      with(llama3, [](auto& s) { s.low_freq_factor = 2; }),
      with(llama3, [](auto& s) { s.high_freq_factor = 5; }),
      with(llama3, [](auto& s) { s.original_max_positions = 4096; }),
      scaled(long_rope),
      with(long_rope, [](auto& s) { s.short_factors[3] = 3; }),
      with(long_rope, [](auto& s) { s.long_factors[0] = 1.5F; }),
      with(long_rope, [](auto& s) { std::swap(s.short_factors, s.long_factors); }),
      with(long_rope, [](auto& s) { s.original_max_positions = 8192; }),
      with(long_rope, [](auto& s) { s.factor = 3; }),
      with(long_rope, [](auto& s) { s.attention_factor = 1.25; }),
  };
  std::map<std::string, std::size_t> seen;
  const auto expect_new = [&](const std::string& text, std::size_t i) {
    CAPTURE(i);
    const auto added = seen.emplace(text, i);
    CAPTURE(added.first->second);
    CHECK(added.second);
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    OwnedOptions owned;
    changes[i](owned);
    const ChunkKeyer keyer = owned.keyer();
    expect_new(keyer.key(ChunkRecipe::alone(), Tokens{1, 2, 3}).to_hex(), i);
    expect_new(hex(keyer.empty_context()), i);
    expect_new(hex(keyer.extend({}, Tokens{1, 2, 3})), i);
  }
}

TEST_CASE("recipe, context and tokens change the key") {
  const ChunkKeyer keyer = OwnedOptions().keyer();
  const pikv::ContextDigest some = keyer.extend(keyer.empty_context(), Tokens{9});
  std::map<std::string, int> keys;
  int num_keys = 0;
  for (const ChunkRecipe& recipe :
       {ChunkRecipe::alone(), ChunkRecipe::behind_prefix({}), ChunkRecipe::exact_context({}),
        ChunkRecipe::behind_prefix(some), ChunkRecipe::exact_context(some)}) {
    for (const Tokens& tokens : {Tokens{}, Tokens{0}, Tokens{0, 0}, Tokens{1, 2}, Tokens{2, 1}, Tokens{1, 2, 0},
                                 Tokens{0x01000000}, Tokens{0x00000001}}) {
      keys.emplace(keyer.key(recipe, tokens).to_hex(), 0);
      ++num_keys;
    }
  }
  CHECK(static_cast<int>(keys.size()) == num_keys);
}

TEST_CASE("context digests chain, and blocks matter") {
  const ChunkKeyer keyer = OwnedOptions().keyer();
  const pikv::ContextDigest empty = keyer.empty_context();
  const pikv::ContextDigest a = keyer.extend(empty, Tokens{1, 2});
  CHECK(keyer.extend(a, Tokens{3, 4}) == keyer.extend(keyer.extend(empty, Tokens{1, 2}), Tokens{3, 4}));
  CHECK(keyer.extend(a, Tokens{3, 4}) != keyer.extend(empty, Tokens{1, 2, 3, 4}));
  CHECK(keyer.extend(a, Tokens{3, 4}) != keyer.extend(keyer.extend(empty, Tokens{1}), Tokens{2, 3, 4}));
  CHECK(keyer.extend(a, Tokens{}) != a);
  CHECK(keyer.key(ChunkRecipe::alone(), Tokens{1, 2}).bytes != a.bytes);
}

TEST_CASE("create refuses what it cannot key, and never tells the secret") {
  OwnedOptions owned;
  owned.options.secret = owned.secret;
  SUBCASE("a short secret") {
    const std::string text = "sesame-sesame-1";
    owned.options.secret = std::as_bytes(std::span(text.data(), text.size()));
    const pikv::Status status = ChunkKeyer::create(owned.options).status();
    CHECK(status.code() == pikv::ErrorCode::kInvalidArgument);
    CHECK(status.message().find("15 bytes") != std::string_view::npos);
    CHECK(status.message().find("sesame") == std::string_view::npos);
  }
  SUBCASE("an empty namespace") {
    owned.options.name_space.clear();
    CHECK(ChunkKeyer::create(owned.options).status().message().find("name_space") != std::string_view::npos);
  }
  SUBCASE("a bad geometry") {
    owned.options.geometry.num_layers = 0;
    CHECK(ChunkKeyer::create(owned.options).status().code() == pikv::ErrorCode::kInvalidArgument);
  }
  SUBCASE("a bad rope") {
    owned.options.rope.theta = 0;
    CHECK(ChunkKeyer::create(owned.options).status().code() == pikv::ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("one keyer serves many threads, and survives a move") {
  ChunkKeyer first = OwnedOptions().keyer();
  const ChunkKeyer keyer = std::move(first);
  CHECK(keyer.geometry().num_layers == 2);
  CHECK(keyer.rope().theta == 10000);
  const Tokens tokens(600, 5);
  const pikv::ChunkKey expected = keyer.key(ChunkRecipe::alone(), tokens);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 200; ++k) CHECK(keyer.key(ChunkRecipe::alone(), tokens) == expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("keys spread as hash values and print as hexadecimal") {
  pikv::ChunkKey key;
  key.bytes[0] = std::byte{0xAB};
  key.bytes[31] = std::byte{0x0F};
  CHECK(key.to_hex() == "ab" + std::string(60, '0') + "0f");
  CHECK(std::hash<pikv::ChunkKey>()(key) != std::hash<pikv::ChunkKey>()(pikv::ChunkKey()));
}

}  // namespace
