// Composer::load(): chunks that vanish between plan() and load(), tiers that fail, and pins.
#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pikv/composer.hpp"
#include "support/fake_tier.hpp"
#include "support/kv_world.hpp"

namespace {

using pikv::ChunkRecipe;
using pikv::Composition;
using pikv::DType;
using pikv::LookupState;
using pikv::MissReason;
using pikv::Prompt;
using pikv::Provenance;
using pikv::Result;
using pikv::SlotMap;
using test_support::EngineCache;
using test_support::FakeTier;
using test_support::Fault;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;
using Tokens = std::vector<pikv::TokenId>;

const Tokens kDocA = token_run(1000, 20);
const Tokens kDocB = token_run(2000, 20);
const Tokens kQuestion = token_run(9000, 4);

Prompt two_documents() {
  Prompt prompt;
  prompt.add_fresh(kQuestion);
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_chunk(kDocB, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  return prompt;
}

/// Places the composition into poisoned pages; empty when they hold what its plan says and nothing else.
std::string place_and_compare(World& world, const Composition& composition) {
  EngineCache cache(world.geometry(), DType::kBFloat16, 16, 16);
  const SlotMap rows = SlotMap::consecutive(1, composition.plan().num_rows());
  const pikv::Status status = composition.place_async(cache.view(), rows, pikv::StreamRef::legacy_default());
  if (!status.ok()) return std::string(status.message());
  return test_support::misplaced(cache, world, test_support::expected_slots(composition.plan(), rows, 256), 0, 3);
}

/// A chunk's charge against capacity.
std::int64_t footprint(std::int64_t num_tokens) {
  return num_tokens * (test_support::small_geometry().bytes_per_token() + 4) + pikv::Chunk::kBookkeepingBytes;
}

}  // namespace

TEST_CASE("load: a chunk erased since plan() is computed, when the look-ups were let go") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  const pikv::ChunkKey key_b = world.put(ChunkRecipe::alone(), kDocB)->key();
  auto planned = world.composer().plan(two_documents());
  REQUIRE(planned.ok());
  auto repaired = planned->plan.with_repaired_rows({4, 23, 24, 43});
  REQUIRE(repaired.ok());
  planned->plan = *repaired;
  planned->lookups.clear();
  REQUIRE(world.store().erase(key_b).ok());

  const auto composition = world.composer().load(*planned);
  REQUIRE(composition.ok());
  const pikv::CompositionPlan& plan = composition->plan();
  REQUIRE(plan.pieces().size() == 4);
  CHECK(plan.pieces()[1].provenance == Provenance::kApproximate);
  CHECK(plan.pieces()[2].provenance == Provenance::kFresh);
  CHECK(plan.pieces()[2].miss == MissReason::kNotFound);
  CHECK(plan.repaired_rows().size() == 2);
  CHECK(plan.rows_to_compute().size() == 4 + 2 + 20 + 4);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("load: look-ups that are kept keep an erased chunk") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  const pikv::ChunkKey key_b = world.put(ChunkRecipe::alone(), kDocB)->key();
  const auto planned = world.composer().plan(two_documents());
  REQUIRE(planned.ok());
  REQUIRE(world.store().erase(key_b).ok());
  const auto composition = world.composer().load(*planned);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().approximate_tokens == 40);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("load: a chunk evicted since plan() is computed") {
  World world(WorldOptions{.capacity_bytes = 2 * footprint(20), .tiers = {}});
  world.put(ChunkRecipe::alone(), kDocA);
  world.put(ChunkRecipe::alone(), kDocB);
  auto planned = world.composer().plan(two_documents());
  REQUIRE(planned.ok());
  planned->lookups.clear();
  REQUIRE(world.put(ChunkRecipe::alone(), token_run(5000, 20)) != nullptr);  // document A was used longest ago
  const auto composition = world.composer().load(*planned);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().approximate_tokens == 20);
  CHECK(composition->plan().pieces()[1].miss == MissReason::kNotFound);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("load: a lost block of the prefix is computed, and later blocks stay exact") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 30));
  world.put_prefix(prompt.tokens(), 3);
  auto planned = world.composer().plan(prompt);
  REQUIRE(planned.ok());
  planned->lookups.clear();
  REQUIRE(world.store().erase(world.block_key(prompt.tokens(), 1)).ok());
  const auto composition = world.composer().load(*planned);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().exact_prefix_tokens == 16);
  CHECK(composition->plan().exact_rows() == 30);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("load: look-ups that are not the plan's are not believed") {
  World world;
  const pikv::ChunkHandle a = world.put(ChunkRecipe::alone(), kDocA);
  const pikv::ChunkHandle b = world.put(ChunkRecipe::alone(), kDocB);
  auto planned = world.composer().plan(two_documents());
  REQUIRE(planned.ok());
  SUBCASE("too few") {
    planned->lookups.pop_back();
    const auto composition = world.composer().load(*planned);
    REQUIRE_FALSE(composition.ok());
    CHECK(composition.status().message() == "compose: 3 look-ups for 4 pieces");
  }
  SUBCASE("another chunk of the same size") {
    planned->lookups[1].chunk = b;
    const auto composition = world.composer().load(*planned);
    REQUIRE(composition.ok());
    CHECK(composition->plan().pieces()[1].miss == MissReason::kTokensDiffer);
    CHECK(composition->plan().stats().approximate_tokens == 20);
    CHECK(place_and_compare(world, *composition) == "");
  }
  SUBCASE("a hit without a chunk, a pending one without a ticket") {
    planned->lookups[1].chunk = nullptr;
    planned->lookups[2] = {.state = LookupState::kPending, .chunk = {}, .ticket = {}};
    const auto composition = world.composer().load(*planned);
    REQUIRE(composition.ok());
    CHECK(composition->plan().stats().approximate_tokens == 0);
    CHECK(composition->plan().pieces()[1].miss == MissReason::kNotFound);
    CHECK(composition->plan().pieces()[2].miss == MissReason::kNotFound);
  }
  SUBCASE("misses are looked up again") {
    planned->lookups[1] = {};
    const auto composition = world.composer().load(*planned);
    REQUIRE(composition.ok());
    CHECK(composition->plan().stats().approximate_tokens == 40);
    CHECK(place_and_compare(world, *composition) == "");
  }
}

TEST_CASE("load: whatever a tier answers, a chunk comes whole or is computed with its reason") {
  struct Case {
    const char* name;
    Fault fault;
    MissReason reason;
    int delay_us = 0;
  };
  const Case cases[] = {{"holds it", Fault::kNone, MissReason::kNone},
                        {"lost it", Fault::kVanishes, MissReason::kNotFound},
                        {"out of reach", Fault::kUnavailable, MissReason::kTierUnavailable},
                        {"times out", Fault::kUnavailable, MissReason::kTierUnavailable, 20000},
                        {"broken", Fault::kIoError, MissReason::kTierUnavailable},
                        {"no memory", Fault::kThrows, MissReason::kNoRoom},
                        {"corrupt", Fault::kCorruption, MissReason::kVerifyFailed},
                        {"other tokens", Fault::kWrongTokens, MissReason::kTokensDiffer},
                        {"other key", Fault::kWrongKey, MissReason::kVerifyFailed},
                        {"other geometry", Fault::kWrongGeometry, MissReason::kVerifyFailed},
                        {"other size", Fault::kWrongSize, MissReason::kVerifyFailed}};
  for (const Case& c : cases) {
    for (const bool keep_lookups : {true, false}) {
      CAPTURE(std::string(c.name));
      CAPTURE(keep_lookups);
      const auto tier = std::make_shared<FakeTier>();
      {
        World writer(WorldOptions{.tiers = {tier}});  // same secret, same keys
        writer.put(ChunkRecipe::alone(), kDocA);
        writer.put(ChunkRecipe::alone(), kDocB);
      }
      REQUIRE(tier->stats().num_chunks == 2);
      World world(WorldOptions{.tiers = {tier}});
      auto planned = world.composer_with({.use_exact_prefix = false}).plan(two_documents());
      REQUIRE(planned.ok());
      CHECK(planned->plan.stats().approximate_tokens == 40);  // pending chunks are planned as hits
      CHECK(planned->lookups[1].state == LookupState::kPending);
      if (!keep_lookups) planned->lookups.clear();
      tier->fault = c.fault;
      tier->delay_us = c.delay_us;
      const auto composition = world.composer().load(std::move(*planned));
      REQUIRE(composition.ok());
      CHECK(composition->plan().pieces()[1].miss == c.reason);
      CHECK(composition->plan().pieces()[2].miss == c.reason);
      CHECK(composition->plan().stats().approximate_tokens == (c.reason == MissReason::kNone ? 40 : 0));
      CHECK(place_and_compare(world, *composition) == "");
    }
  }
}

TEST_CASE("plan: a slower tier that knows nothing of the prefix does not keep chunks from being reused") {
  const auto tier = std::make_shared<FakeTier>();
  World world(WorldOptions{.num_positions = 1024, .tiers = {tier}});
  world.put(ChunkRecipe::alone(), kDocA);
  Prompt prompt;
  prompt.add_fresh(token_run(1, 500));
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  for (const Fault fault : {Fault::kNone, Fault::kUnavailable}) {
    tier->fault = fault;
    const int num_fetches = tier->num_fetches;
    const auto planned = world.composer().plan(prompt);
    REQUIRE(planned.ok());
    CHECK(planned->plan.stats().exact_prefix_tokens == 0);
    CHECK(planned->plan.stats().approximate_tokens == 20);
    CHECK(tier->num_fetches - num_fetches <= 16);  // not one for each block of the prompt
  }
}

TEST_CASE("plan: a prefix in a slower tier is found to its end") {
  const auto tier = std::make_shared<FakeTier>();
  Prompt prompt;
  prompt.add_fresh(token_run(1, 200));
  prompt.add_chunk(kDocA, ChunkRecipe::alone());
  prompt.add_fresh(kQuestion);
  {
    World writer(WorldOptions{.tiers = {tier}});
    writer.put_prefix(prompt.tokens(), 21);  // more than are asked for at once
    writer.put(ChunkRecipe::alone(), kDocA);
  }
  World world(WorldOptions{.tiers = {tier}});
  world.put_prefix(prompt.tokens(), 3);  // the beginning is in memory
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().exact_prefix_tokens == 21 * 8);
  CHECK(composition->plan().stats().approximate_tokens == 20);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("load: no room for what a tier holds") {
  const auto tier = std::make_shared<FakeTier>();
  {
    World writer(WorldOptions{.tiers = {tier}});
    writer.put(ChunkRecipe::alone(), kDocA);
    writer.put(ChunkRecipe::alone(), kDocB);
  }
  World world(WorldOptions{.capacity_bytes = footprint(20) + 64, .tiers = {tier}});
  const auto composition = world.composer().compose(two_documents());
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().approximate_tokens == 20);
  CHECK(composition->plan().pieces()[2].miss == MissReason::kNoRoom);
  CHECK(place_and_compare(world, *composition) == "");
}

TEST_CASE("composition: its chunks survive whatever the store evicts, and no longer than it lives") {
  World world(WorldOptions{.capacity_bytes = 3 * footprint(20), .tiers = {}});
  world.put(ChunkRecipe::alone(), kDocA);
  world.put(ChunkRecipe::alone(), kDocB);
  {
    auto composition = world.composer().compose(two_documents());
    REQUIRE(composition.ok());
    CHECK(world.store().stats().pinned_bytes == 2 * footprint(20));
    for (pikv::TokenId first = 5000; first < 6000; first += 20) {
      REQUIRE(world.put(ChunkRecipe::alone(), token_run(first, 20)) != nullptr);
    }
    CHECK(world.put(ChunkRecipe::alone(), token_run(7000, 50)) == nullptr);  // only pinned bytes could make room
    const Composition moved = std::move(*composition);
    CHECK(place_and_compare(world, moved) == "");
    CHECK(world.store().stats().pinned_bytes == 2 * footprint(20));
  }
  CHECK(world.store().stats().pinned_bytes == 0);
  CHECK(world.put(ChunkRecipe::alone(), token_run(7000, 50)) != nullptr);
}

TEST_CASE("composition: outlives its composer") {
  World world;
  world.put(ChunkRecipe::alone(), kDocA);
  world.put(ChunkRecipe::alone(), kDocB);
  const auto composition = world.composer_with({}).compose(two_documents());
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().approximate_tokens == 40);
  CHECK(place_and_compare(world, *composition) == "");
}
