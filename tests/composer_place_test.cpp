// Composition: what lands in the engine's pages, bit for bit, and that nothing else does.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pikv/composer.hpp"
#include "support/kv_world.hpp"

namespace {

using pikv::Anchor;
using pikv::ChunkRecipe;
using pikv::Composition;
using pikv::DType;
using pikv::Prompt;
using pikv::Slot;
using pikv::SlotMap;
using test_support::EngineCache;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;

constexpr pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

/// Exact prefix, rest of a chunk, fresh, a chunk in place, a chunk with a stale anchor, fresh: 59 rows.
Prompt mixed_prompt(World& world) {
  const auto doc_a = token_run(1000, 13);
  const auto doc_b = token_run(2000, 17);
  Prompt prompt;
  prompt.add_chunk(doc_a, ChunkRecipe::alone());
  prompt.add_fresh(token_run(1, 3));
  prompt.add_chunk(doc_b, ChunkRecipe::alone());
  prompt.add_chunk(doc_b, ChunkRecipe::alone(), Anchor::at(2));
  prompt.add_fresh(token_run(50, 9));
  world.put(ChunkRecipe::alone(), doc_a);
  world.put(ChunkRecipe::alone(), doc_b);
  world.put_prefix(prompt.tokens(), 1);
  return prompt;
}

/// Where the rows of a prompt go: all three kinds of map, the last with rows left out.
struct Target {
  const char* name;
  std::vector<std::int32_t> pages;
  std::vector<Slot> slots;
  SlotMap rows = SlotMap::consecutive(0, 0);
};

std::vector<Target> targets(std::int64_t num_rows, std::int32_t page_size) {
  std::vector<Target> result(4);
  result[0].name = "consecutive";
  result[0].rows = SlotMap::consecutive(5, num_rows);
  result[1].name = "page table";
  for (std::int32_t page = 23; page >= 0; page -= 2) result[1].pages.push_back(page);
  result[1].rows = SlotMap::page_table(result[1].pages.data(), page_size, 0, num_rows);
  result[2].name = "page table from its middle";
  for (std::int32_t page = 1; page < 24; page += 2) result[2].pages.push_back(page);
  result[2].rows = SlotMap::page_table(result[2].pages.data(), page_size, 3, num_rows);
  result[3].name = "slots with holes";
  for (std::int64_t row = 0; row < num_rows; ++row) {
    result[3].slots.push_back(row % 5 == 2 ? pikv::kSkipSlot : (row * 7 + 3) % (page_size * 24));
  }
  result[3].rows = SlotMap::per_token(result[3].slots.data(), num_rows);
  return result;
}

}  // namespace

TEST_CASE("composition: pages hold exactly the re-anchored rows") {
  for (const DType store_dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    for (const DType cache_dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
      for (const pikv::Pairing pairing : {pikv::Pairing::kHalfSplit, pikv::Pairing::kInterleaved}) {
        World world(WorldOptions{.dtype = store_dtype, .pairing = pairing, .tiers = {}});
        const auto composition = world.composer().compose(mixed_prompt(world));
        REQUIRE(composition.ok());
        REQUIRE(composition->plan().stats().exact_prefix_tokens == 8);
        REQUIRE(composition->plan().stats().exact_segment_tokens == 5);
        REQUIRE(composition->plan().stats().approximate_tokens == 34);

        for (const auto order : {EngineCache::Order::kTokensOutermost, EngineCache::Order::kHeadsOutermost}) {
          EngineCache all_at_once(world.geometry(), cache_dtype, 8, 24, order);
          for (const Target& target : targets(composition->plan().num_rows(), 8)) {
            CAPTURE(std::string(pikv::dtype_name(store_dtype)));
            CAPTURE(std::string(pikv::dtype_name(cache_dtype)));
            CAPTURE(static_cast<int>(pairing));
            CAPTURE(static_cast<int>(order));
            CAPTURE(std::string(target.name));
            EngineCache cache(world.geometry(), cache_dtype, 8, 24, order);
            const auto expected = test_support::expected_slots(composition->plan(), target.rows, 8 * 24);
            for (std::int32_t layer = 0; layer < 3; ++layer) {
              REQUIRE(composition->place_layer_async(layer, cache.view(), target.rows, kStream).ok());
              REQUIRE(test_support::misplaced(cache, world, expected, 0, layer + 1) == "");
            }
            all_at_once = EngineCache(world.geometry(), cache_dtype, 8, 24, order);
            REQUIRE(composition->place_async(all_at_once.view(), target.rows, kStream).ok());
            CHECK(all_at_once == cache);
          }
        }
      }
    }
  }
}

TEST_CASE("composition: nothing cached places nothing") {
  World world;
  Prompt prompt;
  prompt.add_fresh(token_run(1, 20));
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  EngineCache cache(world.geometry(), DType::kBFloat16, 4, 8);
  REQUIRE(composition->place_async(cache.view(), SlotMap::consecutive(0, 20), kStream).ok());
  CHECK(test_support::misplaced(cache, world, std::vector<std::optional<test_support::ExpectedSlot>>(32), 0, 3) == "");
}

TEST_CASE("composition: repaired rows are placed too, for the engine to overwrite") {
  World world;
  const Prompt prompt = mixed_prompt(world);
  auto planned = world.composer().plan(prompt);
  REQUIRE(planned.ok());
  auto repaired = planned->plan.with_repaired_rows({16, 17, 40});
  REQUIRE(repaired.ok());
  planned->plan = *repaired;
  const auto composition = world.composer().load(*planned);
  REQUIRE(composition.ok());
  CHECK(composition->plan().stats().repaired_tokens == 3);
  EngineCache cache(world.geometry(), DType::kBFloat16, 8, 8);
  const SlotMap rows = SlotMap::consecutive(0, prompt.num_rows());
  REQUIRE(composition->place_async(cache.view(), rows, kStream).ok());
  CHECK(test_support::misplaced(cache, world, test_support::expected_slots(composition->plan(), rows, 64), 0, 3) == "");
}

TEST_CASE("composition: wrong places are refused before a byte is written") {
  World world;
  const Prompt prompt = mixed_prompt(world);
  const auto composition = world.composer().compose(prompt);
  REQUIRE(composition.ok());
  EngineCache cache(world.geometry(), DType::kBFloat16, 8, 8);
  const std::int64_t n = prompt.num_rows();
  const SlotMap good = SlotMap::consecutive(0, n);
  const auto refused = [&](std::int32_t layer, const SlotMap& rows) {
    const pikv::Status status = composition->place_layer_async(layer, cache.view(), rows, kStream);
    if (!status.ok()) CHECK(status.code() == pikv::ErrorCode::kInvalidArgument);
    return status.ok() ? "accepted" : std::string(status.message());
  };
  const auto contains = [](const std::string& text, const char* part) {
    INFO(text);
    return text.find(part) != std::string::npos;
  };
  for (const std::int32_t layer :
       {-1, 3, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
    CHECK(contains(refused(layer, good), ("layer " + std::to_string(layer) + " of 3").c_str()));
  }
  CHECK(contains(refused(0, SlotMap::consecutive(0, n - 1)), "slots for 58 rows, the plan has 59"));
  CHECK(contains(refused(0, SlotMap::consecutive(0, n + 1)), "slots for 60 rows"));
  CHECK(contains(refused(0, SlotMap::consecutive(0, -1)), "slots for -1 rows"));
  CHECK(contains(refused(0, SlotMap::per_token(nullptr, n)), "slots is null"));
  CHECK(contains(refused(0, SlotMap::page_table(nullptr, 8, 0, n)), "pages is null"));
  CHECK(contains(refused(0, SlotMap::consecutive(std::numeric_limits<Slot>::max(), n)), "slots begin at"));
  CHECK(contains(refused(0, SlotMap::consecutive(-1, n)), "slots begin at -1"));
  CHECK(contains(refused(0, SlotMap::consecutive(64 - n + 10, n)), "target_slots"));
  std::vector<std::int32_t> pages{0, 1, 2, 3, 4, 5, 6, 8};
  const SlotMap past_the_end = SlotMap::page_table(pages.data(), 8, 0, n);
  CHECK(refused(0, past_the_end) == "accepted");  // the page that is not there holds computed rows alone
  pages[1] = 8;
  CHECK(contains(refused(0, past_the_end), "pages[1]"));
  pages[1] = 1;
  CHECK(contains(refused(0, SlotMap::page_table(pages.data(), 0, 0, n)), "page_size"));
  std::vector<Slot> slots(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<Slot>(i);
  slots[9] = 64;
  CHECK(contains(refused(0, SlotMap::per_token(slots.data(), n)), "target_slots[1]"));
  slots[9] = -2;
  CHECK(contains(refused(0, SlotMap::per_token(slots.data(), n)), "target_slots[1]"));
  // Only what was accepted has been written.
  std::vector<std::int32_t> written{0, 1, 2, 3, 4, 5, 6, 7};
  const auto expected =
      test_support::expected_slots(composition->plan(), SlotMap::page_table(written.data(), 8, 0, n), 64);
  CHECK(test_support::misplaced(cache, world, expected, 0, 1) == "");
}
