// Repair beside what is stored: chunks and exact prefixes stay as they are, whatever a request computes anew.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "support/repair_runs.hpp"

namespace {

using mini_engine::Prefill;
using mini_engine::ReuseOptions;
using mini_engine::Sequence;
using test_support::approximate_rows;
using test_support::error_of;
using test_support::repaired_rows;
using test_support::RepairWorld;
using test_support::Rows;
using test_support::Tokens;

constexpr const char* kSpecs[] = {"all",
                                  "first:7",
                                  "ends:3",
                                  "blend:0.3",
                                  "blend-gradual:0.3",
                                  "attention:0.25",
                                  "prophet:0.25",
                                  "attended-deviation:0.3",
                                  "focus:0.25",
                                  "random:0.25"};
constexpr double kExact = 1e-5;  // of fp32

using Slabs = std::vector<std::vector<std::byte>>;
constexpr int kSystem = 21;
constexpr int kPrefixRows = 16;  // of them, in whole blocks of 8

std::vector<float> floats(const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// Slabs of the pieces of exact prefix, in order.
Slabs prefix_slabs(RepairWorld& world, const pikv::CompositionPlan& plan) {
  Slabs slabs;
  for (const pikv::PlanPiece& piece : plan.pieces()) {
    if (piece.source != pikv::PlanPiece::Source::kExactPrefix) continue;
    const auto begin = static_cast<std::size_t>(piece.row_begin);
    slabs.push_back(world.slab(piece.key, plan.tokens().subspan(begin, static_cast<std::size_t>(piece.num_rows()))));
  }
  return slabs;
}

pikv::Prompt fresh_prompt(const std::vector<Tokens>& parts) {
  pikv::Prompt prompt;
  for (const Tokens& part : parts) prompt.add_fresh(part);
  return prompt;
}

TEST_CASE("repair leaves stored chunks alone, and the next request finds them as the first did") {
  RepairWorld world;
  Slabs before;
  for (const Tokens& chunk : world.chunks) before.push_back(world.slab(world.server.chunk_key(chunk, {}), chunk));
  for (const std::string spec : kSpecs) {
    CAPTURE(spec);
    const Prefill first = world.serve(spec);
    for (std::size_t i = 0; i < before.size(); ++i) {
      CHECK(world.slab(world.server.chunk_key(world.chunks[i], {}), world.chunks[i]) == before[i]);
    }
    const Prefill second = world.serve(spec);
    CHECK(second.logits == first.logits);
    CHECK(repaired_rows(second.plan) == repaired_rows(first.plan));
    CHECK(second.repair.row_layers == first.repair.row_layers);
    RepairWorld other;
    CHECK(other.serve(spec).logits == first.logits);
  }
}

struct ServedPrefix {
  Slabs slabs;
  bool is_as_computed = true;  ///< what is stored gives the bits that the pass itself left in the cache
};

/// A prompt served with repair, then another one that finds the first one's exact prefix.
ServedPrefix served_prefix(RepairWorld& world, const char* spec) {
  Sequence computed(world.cache);
  (void)world.serve(spec, world.prompt(), computed, {});
  Sequence placed(world.cache);
  const pikv::CompositionPlan plan = world.serve("none", world.prompt({2, 1, 0}), placed, {}).plan;
  CHECK(plan.stats().exact_prefix_tokens == kPrefixRows);
  ServedPrefix served{.slabs = prefix_slabs(world, plan)};
  CHECK(served.slabs.size() == 2);
  for (int layer = 0; layer < world.config.num_layers; ++layer) {
    for (const bool of_keys : {true, false}) {
      const std::vector<float> left = test_support::cached_rows(computed, world.config, layer, of_keys);
      const std::vector<float> brought = test_support::cached_rows(placed, world.config, layer, of_keys);
      const auto end = left.begin() + std::ptrdiff_t{kPrefixRows} * world.config.num_kv_heads * world.config.head_dim;
      served.is_as_computed = served.is_as_computed && std::equal(left.begin(), end, brought.begin());
    }
  }
  return served;
}

TEST_CASE("the exact prefix that a repaired pass gives is what a pass without repair gives") {
  for (const mini_engine::ModelConfig& config : {test_support::repair_config(), test_support::scaled_repair_config()}) {
    RepairWorld plain(config, kSystem);
    const ServedPrefix expected = served_prefix(plain, "none");
    CHECK(expected.is_as_computed);
    for (const std::string spec : kSpecs) {
      CAPTURE(spec);
      RepairWorld world(config, kSystem);
      const ServedPrefix given = served_prefix(world, spec.c_str());
      // Bit for bit: what a pass over the same rows gives, which the first pass is of a policy with two. A product of
      // more rows rounds otherwise; then the bits are those of the pass itself.
      if (world.serve(spec).repair.num_passes == 2) {
        CHECK(given.slabs == expected.slabs);
      } else {
        CHECK(given.is_as_computed);
      }
      for (std::size_t i = 0; i < 2; ++i) CHECK(error_of(floats(given.slabs[i]), floats(expected.slabs[i])) < 1e-6);
    }
  }
}

TEST_CASE("rows that an exact prefix brings are never repaired, and the rest is repaired as far as asked") {
  for (const mini_engine::ModelConfig& config : {test_support::repair_config(), test_support::scaled_repair_config()}) {
    RepairWorld world(config);
    {
      Sequence sequence(world.cache);
      (void)world.server.prefill(fresh_prompt({world.system, world.chunks[0], world.chunks[1], world.question}),
                                 sequence, {});
    }
    // Behind system and first chunk another one comes, so that the prefix ends within the first.
    const pikv::Prompt prompt = world.prompt({0, 2, 1});
    const std::vector<float> full = world.full(prompt);
    for (const std::string spec : kSpecs) {
      CAPTURE(spec);
      Sequence sequence(world.cache);
      const Prefill prefill =
          world.serve(spec, prompt, sequence, ReuseOptions{.use_exact_prefix = true, .store_exact_prefix = true});
      CHECK(prefill.plan.stats().exact_prefix_tokens == 40);  // of 42, in blocks of 8
      const Rows repaired = repaired_rows(prefill.plan);
      CHECK(!repaired.empty());
      CHECK(repaired.front() >= 40);
      CHECK(approximate_rows(prefill.plan).size() == 2 + 18 + 29);
      for (std::int32_t row = 0; row < 40; ++row) {
        CHECK(prefill.plan.provenance(row) == pikv::Provenance::kExactPrefix);
      }
      if (spec == "all") {
        CHECK(error_of(prefill.logits, full) < kExact);
      } else {
        CHECK(error_of(prefill.logits, full) > 1e-3);
      }
      Sequence again(world.cache);
      CHECK(world.serve(spec, prompt, again, {}).logits == prefill.logits);
    }
  }
}

TEST_CASE("to encode a chunk that is there is to use it") {
  RepairWorld world;
  const auto encode = [&](mini_engine::ChunkServer& server, std::size_t chunk) {
    return server.encode_chunk(Tokens(world.chunks[0].size(), static_cast<mini_engine::TokenId>(chunk)), {});
  };
  mini_engine::ChunkServer roomy(world.model, world.cache, {}, {});
  (void)encode(roomy, 0);
  const std::int64_t room_for_two = roomy.store().stats().used_bytes * 5 / 2;
  mini_engine::ChunkServer server(world.model, world.cache, {}, {.capacity_bytes = room_for_two});
  CHECK(encode(server, 0));
  CHECK(encode(server, 1));
  CHECK_FALSE(encode(server, 0));
  CHECK(encode(server, 2));  // in the place of 1
  CHECK_FALSE(encode(server, 0));
  CHECK(server.store().stats().evictions == 1);
}

TEST_CASE("a chunk is encoded whole behind a prefix, also when an exact prefix covers some of it") {
  RepairWorld computing;
  RepairWorld world;
  Tokens prefix = world.system;
  prefix.insert(prefix.end(), world.chunks[0].begin(), world.chunks[0].end());
  const Tokens& tokens = world.chunks[1];
  Sequence sequence(world.cache);
  (void)world.server.prefill(fresh_prompt({prefix, tokens, world.question}), sequence, {});
  CHECK(world.server.encode_chunk(tokens, prefix));
  CHECK_FALSE(world.server.encode_chunk(tokens, prefix));
  CHECK(computing.server.encode_chunk(tokens, prefix));

  const pikv::ChunkKey key = world.server.chunk_key(tokens, prefix);
  const std::vector<float> stored = floats(world.slab(key, tokens));
  CHECK(stored.size() >= tokens.size() * 2 * 5 * 2 * 16);  // K and V, layers, heads, elements
  CHECK(error_of(stored, floats(computing.slab(key, tokens))) < kExact);
  CHECK(error_of(stored, floats(world.slab(world.server.chunk_key(tokens, {}), tokens))) > 1e-2);
}

}  // namespace
