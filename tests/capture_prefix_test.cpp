// exact_prefix_items(): which blocks of a prompt may enter the store as exact prefix, and that they are found again.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "pikv/capture.hpp"
#include "pikv/composer.hpp"
#include "support/kv_world.hpp"
#include "support/projection.hpp"

namespace {

using pikv::Anchor;
using pikv::Capture;
using pikv::CaptureItem;
using pikv::ChunkRecipe;
using pikv::CompositionPlan;
using pikv::Prompt;
using pikv::Slot;
using pikv::SlotMap;
using test_support::EngineCache;
using test_support::Projection;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;

constexpr pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

const std::vector<pikv::TokenId> kDoc = token_run(1000, 20);

/// Slots of a pass that runs the plan's rows to compute, in their order; what is not computed is left out.
std::vector<Slot> pass_slots(const CompositionPlan& plan) {
  std::vector<Slot> slots(static_cast<std::size_t>(plan.num_rows()), pikv::kSkipSlot);
  Slot next = 0;
  for (const std::int32_t row : plan.rows_to_compute()) slots[static_cast<std::size_t>(row)] = next++;
  return slots;
}

/// The first rows of the items' blocks.
std::vector<std::int64_t> first_rows(const std::vector<CaptureItem>& items, const CompositionPlan& plan) {
  std::vector<std::int64_t> rows;
  for (const CaptureItem& item : items) rows.push_back(item.tokens.data() - plan.tokens().data());
  return rows;
}

std::vector<std::int64_t> blocks_of(const World& world, const CompositionPlan& plan) {
  const std::vector<Slot> slots = pass_slots(plan);
  return first_rows(pikv::exact_prefix_items(world.keyer(), plan, 8, SlotMap::per_token(slots.data(), plan.num_rows())),
                    plan);
}

/// An engine that computes what the prompt's plan leaves and stores the exact prefix. Returns the plan.
CompositionPlan serve(World& world, const Prompt& prompt) {
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  const CompositionPlan& plan = composition->plan();
  const std::vector<Slot> slots = pass_slots(plan);
  const std::vector<CaptureItem> items =
      pikv::exact_prefix_items(world.keyer(), plan, 8, SlotMap::per_token(slots.data(), plan.num_rows()));
  auto capture = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(capture.ok());
  for (std::int32_t layer = 0; layer < 3; ++layer) {
    Projection pass(world.geometry(), pikv::DType::kFloat32, static_cast<std::int64_t>(plan.rows_to_compute().size()));
    for (const CaptureItem& item : items) {
      for (std::int64_t i = 0; i < item.source_slots.num_tokens(); ++i) {
        pass.fill(item.source_slots.slot(i), layer, item.key, i);
      }
    }
    REQUIRE(capture->take_layer_async(layer, pass.view(), kStream).ok());
  }
  const auto captured = capture->commit();
  REQUIRE(captured.ok());
  for (const pikv::CapturedChunk& chunk : *captured) REQUIRE(chunk.outcome == pikv::InsertOutcome::kInserted);
  return plan;
}

using Rows = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("exact prefix: whole blocks of a fresh prompt") {
  World world;
  for (const std::size_t num_rows : {1U, 7U, 8U, 9U, 16U, 30U}) {
    CAPTURE(num_rows);
    Prompt prompt;
    prompt.add_fresh(token_run(1, num_rows));
    const auto planned = world.composer().plan(prompt);
    REQUIRE(planned.ok());
    const SlotMap slots = SlotMap::consecutive(100, prompt.num_rows());
    const auto items = pikv::exact_prefix_items(world.keyer(), planned->plan, 8, slots);
    REQUIRE(items.size() == num_rows / 8);
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto row = static_cast<std::int64_t>(8 * i);
      CHECK(items[i].key == world.block_key(prompt.tokens(), static_cast<std::int64_t>(i)));
      CHECK(items[i].key == world.keyer().key(items[i].recipe, items[i].tokens));
      CHECK(items[i].recipe.kind() == ChunkRecipe::Kind::kExactContext);
      CHECK(items[i].tokens.data() == planned->plan.tokens().data() + row);
      CHECK(items[i].tokens.size() == 8);
      CHECK(items[i].source_slots.num_tokens() == 8);
      CHECK(items[i].source_slots.slot(0) == 100 + row);
      CHECK(items[i].positions.position(3) == row + 3);
    }
  }
}

TEST_CASE("exact prefix: arguments that fit no prompt give none") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 30));
  const auto planned = world.composer().plan(prompt);
  REQUIRE(planned.ok());
  const auto count = [&](std::int32_t block_tokens, const SlotMap& slots) {
    return pikv::exact_prefix_items(world.keyer(), planned->plan, block_tokens, slots).size();
  };
  CHECK(count(8, SlotMap::consecutive(0, 30)) == 3);
  CHECK(count(1, SlotMap::consecutive(0, 30)) == 30);
  CHECK(count(0, SlotMap::consecutive(0, 30)) == 0);
  CHECK(count(-8, SlotMap::consecutive(0, 30)) == 0);
  CHECK(count(std::numeric_limits<std::int32_t>::max(), SlotMap::consecutive(0, 30)) == 0);
  CHECK(count(8, SlotMap::consecutive(0, 29)) == 0);
  CHECK(count(8, SlotMap::consecutive(0, 31)) == 0);

  World dynamic(WorldOptions{.dynamic_ntk = true, .tiers = {}});
  CHECK(pikv::exact_prefix_items(dynamic.keyer(), planned->plan, 8, SlotMap::consecutive(0, 30)).empty());
}

TEST_CASE("exact prefix: approximate rows and what stands behind them never enter") {
  World world;
  world.put(ChunkRecipe::alone(), kDoc);
  const auto plan_of = [&](const Prompt& prompt) {
    auto planned = world.composer().plan(prompt);
    REQUIRE(planned.ok());
    return planned->plan;
  };
  Prompt behind;  // approximate from row 17
  behind.add_fresh(token_run(1, 17));
  behind.add_chunk(kDoc, ChunkRecipe::alone());
  behind.add_fresh(token_run(1, 40));
  CHECK(blocks_of(world, plan_of(behind)) == Rows{0, 8});

  // Nor do they when an engine offers a slot for every row, or repairs all of them.
  const CompositionPlan plan = plan_of(behind);
  CHECK(first_rows(pikv::exact_prefix_items(world.keyer(), plan, 8, SlotMap::consecutive(0, plan.num_rows())), plan) ==
        Rows{0, 8});
  std::vector<std::int32_t> all(20);
  std::iota(all.begin(), all.end(), 17);
  const auto repaired = plan.with_repaired_rows(all);
  REQUIRE(repaired.ok());
  CHECK(blocks_of(world, *repaired) == Rows{0, 8});

  Prompt first;  // approximate from row 0
  first.add_chunk(kDoc, ChunkRecipe::alone(), Anchor::at(5));
  first.add_fresh(token_run(1, 40));
  CHECK(blocks_of(world, plan_of(first)).empty());
  CHECK(first_rows(pikv::exact_prefix_items(world.keyer(), plan_of(first), 8, SlotMap::consecutive(0, 60)),
                   plan_of(first))
            .empty());

  Prompt at_a_boundary;
  at_a_boundary.add_fresh(token_run(1, 16));
  at_a_boundary.add_chunk(kDoc, ChunkRecipe::alone());
  at_a_boundary.add_fresh(token_run(1, 4));
  CHECK(blocks_of(world, plan_of(at_a_boundary)) == Rows{0, 8});
}

TEST_CASE("exact prefix: blocks that need rows which were not computed are left out") {
  World world;
  world.put(ChunkRecipe::alone(), kDoc);
  Prompt prompt;  // rows [0, 20) come from an exact segment, so that the pass does not have them
  prompt.add_chunk(kDoc, ChunkRecipe::alone());
  prompt.add_fresh(token_run(1, 20));
  const auto planned = world.composer().plan(prompt);
  REQUIRE(planned.ok());
  REQUIRE(planned->plan.exact_rows() == 40);
  CHECK(blocks_of(world, planned->plan) == Rows{24, 32});
  // Out of pages, where every row stands, all of them may go.
  CHECK(first_rows(pikv::exact_prefix_items(world.keyer(), planned->plan, 8, SlotMap::consecutive(0, 40)),
                   planned->plan) == Rows{0, 8, 16, 24, 32});
}

TEST_CASE("exact prefix: blocks that were loaded are left out, and a hole between them is not") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 40));
  world.put_prefix(prompt.tokens(), 3);
  auto planned = world.composer().plan(prompt);
  REQUIRE(planned.ok());
  CHECK(blocks_of(world, planned->plan) == Rows{24, 32});
  CHECK(first_rows(pikv::exact_prefix_items(world.keyer(), planned->plan, 8, SlotMap::consecutive(0, 40)),
                   planned->plan) == Rows{24, 32});

  const auto hole = planned->plan.without(std::vector<std::size_t>{1}, std::vector{pikv::MissReason::kNotFound});
  REQUIRE(hole.ok());
  CHECK(blocks_of(world, *hole) == Rows{8, 24, 32});

  const auto blocks_of_4 = pikv::exact_prefix_items(world.keyer(), planned->plan, 4, SlotMap::consecutive(0, 40));
  CHECK(blocks_of_4.size() == 10);  // blocks of another size are other blocks
}

TEST_CASE("exact prefix: captured, then found, then placed") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 37));
  CHECK(serve(world, prompt).stats().fresh_tokens == 37);
  CHECK(world.store().stats().num_chunks == 4);

  Prompt longer;
  longer.add_fresh(token_run(1, 60));
  const CompositionPlan second = serve(world, longer);
  CHECK(second.stats().exact_prefix_tokens == 32);
  CHECK(world.store().stats().num_chunks == 7);

  const auto composition = world.composer().compose(longer);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().exact_prefix_tokens == 56);
  EngineCache cache(world.geometry(), pikv::DType::kBFloat16, 16, 4);
  const SlotMap rows = SlotMap::consecutive(0, 60);
  REQUIRE(composition->place_async(cache.view(), rows, kStream).ok());
  CHECK(test_support::misplaced(cache, world, test_support::expected_slots(composition->plan(), rows, 64), 0, 3) == "");
}

TEST_CASE("exact prefix: taken from rotated pages, each block is turned back from its own positions") {
  World world(WorldOptions{.dtype = pikv::DType::kFloat32, .tiers = {}});
  Prompt prompt;
  prompt.add_chunk(token_run(1, 33), ChunkRecipe::alone());
  prompt.add_fresh(token_run(1, 2));
  const pikv::ChunkHandle chunk = world.put(ChunkRecipe::alone(), token_run(1, 33));
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  REQUIRE(composition->plan().stats().exact_segment_tokens == 33);
  EngineCache cache(world.geometry(), pikv::DType::kFloat32, 8, 5);
  const SlotMap rows = SlotMap::consecutive(2, 35);
  REQUIRE(composition->place_async(cache.view(), rows, kStream).ok());

  const auto items = pikv::exact_prefix_items(world.keyer(), composition->plan(), 8, rows);
  REQUIRE(items.size() == 4);
  auto capture = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(capture.ok());
  for (std::int32_t layer = 0; layer < 3; ++layer) {
    REQUIRE(capture->take_rotated_layer_async(layer, std::as_const(cache).view(), world.table().view(), kStream).ok());
  }
  const auto captured = capture->commit();
  REQUIRE(captured.ok());
  float worst = 0;
  for (std::int64_t row = 0; row < 32; ++row) {
    const pikv::ConstKvView block = (*captured)[static_cast<std::size_t>(row / 8)].chunk->view();
    test_support::for_each_element(world.geometry(), 0, 3, [&](const test_support::Element& element) {
      const float wanted =
          test_support::decode(pikv::DType::kFloat32, test_support::read_bits(chunk->view(), row, element));
      const float found = test_support::decode(pikv::DType::kFloat32, test_support::read_bits(block, row % 8, element));
      worst = std::max(worst, std::abs(wanted - found));
    });
  }
  CHECK(worst <= 2e-6F);
}
