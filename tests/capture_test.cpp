// Capture: semantic rows out of a pass and rotated rows out of pages, into the store.
#include "pikv/capture.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "pikv/composer.hpp"
#include "support/kv_world.hpp"
#include "support/projection.hpp"

namespace {

using pikv::Capture;
using pikv::CaptureItem;
using pikv::ChunkRecipe;
using pikv::DType;
using pikv::InsertOutcome;
using pikv::Slot;
using pikv::SlotMap;
using test_support::Element;
using test_support::EngineCache;
using test_support::Projection;
using test_support::Side;
using test_support::token_run;
using test_support::World;
using test_support::WorldOptions;
using Tokens = std::vector<pikv::TokenId>;

constexpr pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr DType kDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

CaptureItem alone(const World& world, const Tokens& tokens, const SlotMap& slots) {
  return CaptureItem{.key = world.keyer().key(ChunkRecipe::alone(), tokens), .tokens = tokens, .source_slots = slots};
}

/// Fills the rows that the items name and takes one layer.
pikv::Status take(World& world, Capture& capture, const std::vector<CaptureItem>& items, std::int32_t layer,
                  DType dtype = DType::kFloat32, std::int64_t num_rows = 40) {
  Projection pass(world.geometry(), dtype, num_rows);
  for (const CaptureItem& item : items) {
    for (std::int64_t token = 0; token < item.source_slots.num_tokens(); ++token) {
      pass.fill(item.source_slots.slot(token), layer, item.key, token);
    }
  }
  return capture.take_layer_async(layer, pass.view(), kStream);
}

/// Empty when the chunk holds semantic_value() rounded to `source`, then to the store's dtype.
std::string wrong_bits(const World& world, const pikv::Chunk& chunk, DType source) {
  const DType dtype = world.geometry().dtype;
  std::string problem;
  for (std::int64_t token = 0; token < chunk.num_tokens(); ++token) {
    test_support::for_each_element(world.geometry(), 0, world.geometry().num_layers, [&](const Element& element) {
      const float value = test_support::semantic_value(chunk.key(), token, element);
      const std::uint32_t wanted =
          test_support::encode(dtype, test_support::decode(source, test_support::encode(source, value)));
      if (test_support::read_bits(chunk.view(), token, element) == wanted || !problem.empty()) return;
      problem = "token " + std::to_string(token) + " layer " + std::to_string(element.layer) + " head " +
                std::to_string(element.head) + " dim " + std::to_string(element.dim);
    });
  }
  return problem;
}

const Tokens kDocA = token_run(1000, 12);
const Tokens kDocB = token_run(2000, 7);

}  // namespace

TEST_CASE("capture: several items from one strided pass, every pair of dtypes, layers in any order") {
  std::vector<Slot> scattered{30, 2, 31, 9, 11, 0, 39};
  for (const DType store_dtype : kDTypes) {
    for (const DType pass_dtype : kDTypes) {
      CAPTURE(std::string(pikv::dtype_name(store_dtype)));
      CAPTURE(std::string(pikv::dtype_name(pass_dtype)));
      World world(WorldOptions{.dtype = store_dtype, .tiers = {}});
      const std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(13, 12)),
                                           alone(world, kDocB, SlotMap::per_token(scattered.data(), 7))};
      auto capture = Capture::begin(world.store(), world.backend(), items);
      REQUIRE(capture.ok());
      CHECK_FALSE(capture->nothing_to_take());
      for (const std::int32_t layer : {2, 0, 1}) {
        CHECK_FALSE(world.store().contains(items[0].key));  // not before all of it is there
        REQUIRE(take(world, *capture, items, layer, pass_dtype).ok());
      }
      const auto captured = capture->commit();
      REQUIRE(captured.ok());
      REQUIRE(captured->size() == 2);
      for (std::size_t i = 0; i < 2; ++i) {
        const pikv::CapturedChunk& chunk = (*captured)[i];
        REQUIRE(chunk.outcome == InsertOutcome::kInserted);
        CHECK(chunk.chunk->key() == items[i].key);
        CHECK(std::ranges::equal(chunk.chunk->tokens(), items[i].tokens));
        CHECK(wrong_bits(world, *chunk.chunk, pass_dtype) == "");
        CHECK(world.store().lookup(items[i].key, items[i].tokens).chunk == chunk.chunk);
      }
    }
  }
}

TEST_CASE("capture: what is stored already costs nothing") {
  World world;
  const pikv::ChunkHandle present = world.put(ChunkRecipe::alone(), kDocA);
  const std::vector<CaptureItem> first{alone(world, kDocA, SlotMap::consecutive(0, 12))};
  const std::int64_t used_bytes = world.store().stats().used_bytes;
  auto nothing = Capture::begin(world.store(), world.backend(), first);
  REQUIRE(nothing.ok());
  CHECK(nothing->nothing_to_take());
  CHECK(world.store().stats().used_bytes == used_bytes);
  auto captured = nothing->commit();  // without a single layer
  REQUIRE(captured.ok());
  CHECK(captured->front().outcome == InsertOutcome::kAlreadyPresent);
  CHECK(captured->front().chunk == present);

  const std::vector<CaptureItem> both{first[0], alone(world, kDocB, SlotMap::consecutive(20, 7))};
  auto capture = Capture::begin(world.store(), world.backend(), both);
  REQUIRE(capture.ok());
  CHECK_FALSE(capture->nothing_to_take());
  for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(take(world, *capture, {both[1]}, layer).ok());
  captured = capture->commit();
  REQUIRE(captured.ok());
  CHECK((*captured)[0].outcome == InsertOutcome::kAlreadyPresent);
  CHECK((*captured)[1].outcome == InsertOutcome::kInserted);
  CHECK(wrong_bits(world, *present, DType::kFloat32) == "");  // untouched
  CHECK(wrong_bits(world, *(*captured)[1].chunk, DType::kFloat32) == "");
}

TEST_CASE("capture: nothing asked for is nothing done") {
  World world;
  auto capture = Capture::begin(world.store(), world.backend(), {});
  REQUIRE(capture.ok());
  CHECK(capture->nothing_to_take());
  const auto captured = capture->commit();
  REQUIRE(captured.ok());
  CHECK(captured->empty());
}

TEST_CASE("capture: commit() waits for every layer, and comes once") {
  World world;
  const std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(0, 12))};
  auto capture = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(capture.ok());
  CHECK(capture->commit().status().message() == "capture: layer 0 was never taken");
  REQUIRE(take(world, *capture, items, 0).ok());
  REQUIRE(take(world, *capture, items, 2).ok());
  CHECK(capture->commit().status().message() == "capture: layer 1 was never taken");
  CHECK_FALSE(world.store().contains(items[0].key));
  REQUIRE(take(world, *capture, items, 1).ok());
  REQUIRE(capture->commit().ok());
  CHECK(capture->commit().status().message() == "capture: committed twice");
  CHECK(take(world, *capture, items, 1).message() == "capture: layer 1 after commit()");
}

TEST_CASE("capture: dropped, it leaves no trace") {
  World world;
  const pikv::StoreStats before = world.store().stats();
  const std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(0, 12)),
                                       alone(world, kDocB, SlotMap::consecutive(12, 7))};
  {
    auto capture = Capture::begin(world.store(), world.backend(), items);
    REQUIRE(capture.ok());
    for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(take(world, *capture, items, layer).ok());
    CHECK(world.store().stats().used_bytes > before.used_bytes);
    const Capture moved = std::move(*capture);
    CHECK_FALSE(moved.nothing_to_take());
  }
  const pikv::StoreStats after = world.store().stats();
  CHECK(after.used_bytes == before.used_bytes);
  CHECK(after.num_chunks == 0);
  CHECK(after.inserts == before.inserts);
  for (const CaptureItem& item : items) CHECK_FALSE(world.store().contains(item.key));
  auto again = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(again.ok());
  for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(take(world, *again, items, layer).ok());
  CHECK(again->commit().ok());
}

TEST_CASE("capture: bad items and bad layers are named") {
  World world;
  std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(0, 12)),
                                 alone(world, kDocB, SlotMap::consecutive(0, 6))};
  const auto message = [](const auto& result) { return std::string(result.status().message()); };
  CHECK(message(Capture::begin(world.store(), world.backend(), items)) ==
        "capture: item 1: slots for 6 tokens, but it has 7");
  CHECK(world.store().stats().used_bytes == 0);  // item 0 gave its room back
  const Tokens none;
  items[1] = alone(world, none, SlotMap::consecutive(0, 0));
  const auto empty = Capture::begin(world.store(), world.backend(), items);
  CHECK(message(empty).find("capture: item 1: ") == 0);
  CHECK(empty.status().code() == pikv::ErrorCode::kInvalidArgument);

  items.pop_back();
  auto capture = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(capture.ok());
  for (const std::int32_t layer :
       {-1, 3, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
    Projection pass(world.geometry(), DType::kFloat32, 40);
    CHECK(capture->take_layer_async(layer, pass.view(), kStream).message() ==
          "capture: layer " + std::to_string(layer) + " of 3");
  }
  Projection too_small(world.geometry(), DType::kFloat32, 11);
  CHECK_FALSE(capture->take_layer_async(0, too_small.view(), kStream).ok());
  CHECK(capture->commit().status().message() == "capture: layer 0 was never taken");  // a failed take took nothing
  EngineCache cache(world.geometry(), DType::kFloat32, 4, 4);
  CHECK(capture->take_rotated_layer_async(0, std::as_const(cache).view(), {}, kStream).message().find("rope") !=
        std::string_view::npos);  // rotated keys must not pass for semantic ones
}

TEST_CASE("capture: one key asked for twice, and no room") {
  World world(WorldOptions{
      .capacity_bytes = 12 * (test_support::small_geometry().bytes_per_token() + 4) + pikv::Chunk::kBookkeepingBytes,
      .tiers = {}});
  const Tokens large = token_run(1, 13);
  const std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(0, 12)),
                                       alone(world, kDocA, SlotMap::consecutive(0, 12)),
                                       alone(world, large, SlotMap::consecutive(12, 13))};
  auto capture = Capture::begin(world.store(), world.backend(), items);
  REQUIRE(capture.ok());
  for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(take(world, *capture, items, layer).ok());
  const auto captured = capture->commit();
  REQUIRE(captured.ok());
  CHECK((*captured)[0].outcome == InsertOutcome::kInserted);
  CHECK((*captured)[1].outcome == InsertOutcome::kInProgress);
  CHECK((*captured)[1].chunk == nullptr);
  CHECK((*captured)[2].outcome == InsertOutcome::kNoRoom);
  CHECK((*captured)[2].chunk == nullptr);
  CHECK(wrong_bits(world, *(*captured)[0].chunk, DType::kFloat32) == "");
}

TEST_CASE("capture: captured, composed and placed equals rotating the pass's rows directly, bit for bit") {
  for (const DType dtype : kDTypes) {
    for (const pikv::Pairing pairing : {pikv::Pairing::kHalfSplit, pikv::Pairing::kInterleaved}) {
      CAPTURE(std::string(pikv::dtype_name(dtype)));
      World world(WorldOptions{.dtype = dtype, .pairing = pairing, .tiers = {}});
      const std::vector<CaptureItem> items{alone(world, kDocA, SlotMap::consecutive(3, 12))};
      auto capture = Capture::begin(world.store(), world.backend(), items);
      REQUIRE(capture.ok());
      for (std::int32_t layer = 0; layer < 3; ++layer) REQUIRE(take(world, *capture, items, layer).ok());
      REQUIRE(capture->commit().ok());

      pikv::Prompt prompt;
      prompt.add_fresh(token_run(1, 200));
      prompt.add_chunk(kDocA, ChunkRecipe::alone());
      prompt.add_fresh(token_run(1, 2));
      const auto composition = world.composer().compose(prompt);
      REQUIRE(composition.ok());
      REQUIRE(composition->plan().stats().approximate_tokens == 12);
      EngineCache cache(world.geometry(), dtype, 16, 14);
      const SlotMap rows = SlotMap::consecutive(0, prompt.num_rows());
      REQUIRE(composition->place_async(cache.view(), rows, kStream).ok());
      const auto expected = test_support::expected_slots(composition->plan(), rows, 16 * 14);
      CHECK(test_support::misplaced(cache, world, expected, 0, 3) == "");
    }
  }
}

TEST_CASE("capture: keys taken out of an engine's pages come back turned to position 0") {
  // A channel's error is bounded by the rounding of its pair, at most 2*sqrt(2) long, once in the pages and once in the
  // store, plus fp32 arithmetic.
  const auto bound = [](DType dtype) {
    const float half_ulp = dtype == DType::kBFloat16 ? 0x1p-9F : dtype == DType::kFloat16 ? 0x1p-12F : 0x1p-25F;
    return 2.83F * 2.0F * (2.0F * half_ulp + 0x1p-23F);
  };
  for (const DType dtype : kDTypes) {
    for (const pikv::Pairing pairing : {pikv::Pairing::kHalfSplit, pikv::Pairing::kInterleaved}) {
      CAPTURE(std::string(pikv::dtype_name(dtype)));
      World world(WorldOptions{.dtype = dtype, .pairing = pairing, .tiers = {}});
      const pikv::ChunkHandle original = world.put(ChunkRecipe::alone(), kDocA);
      pikv::Prompt prompt;
      prompt.add_fresh(token_run(1, 37));
      prompt.add_chunk(kDocA, ChunkRecipe::alone());
      prompt.add_fresh(token_run(1, 2));
      const auto composition = world.composer().compose(prompt);
      REQUIRE(composition.ok());
      EngineCache cache(world.geometry(), dtype, 4, 16);
      std::vector<std::int32_t> pages{5, 1, 0, 2, 3, 15, 14, 13, 12, 11, 4, 6, 7};
      const SlotMap rows = SlotMap::page_table(pages.data(), 4, 0, prompt.num_rows());
      REQUIRE(composition->place_async(cache.view(), rows, kStream).ok());

      REQUIRE(world.store().erase(original->key()).ok());
      CaptureItem item = alone(world, kDocA, rows.slice(37, 12));
      std::vector<pikv::Position> positions(12);
      for (std::size_t i = 0; i < 12; ++i) positions[i] = static_cast<pikv::Position>(37 + i);
      for (const auto& map : {pikv::PositionMap::consecutive(37), pikv::PositionMap::per_token(positions.data())}) {
        item.positions = map;
        REQUIRE(world.store().erase(item.key).ok());
        auto capture = Capture::begin(world.store(), world.backend(), {&item, 1});
        REQUIRE(capture.ok());
        for (std::int32_t layer = 2; layer >= 0; --layer) {
          REQUIRE(capture->take_rotated_layer_async(layer, std::as_const(cache).view(), world.table().view(), kStream)
                      .ok());
        }
        const auto captured = capture->commit();
        REQUIRE(captured.ok());
        const pikv::ConstKvView taken = captured->front().chunk->view();
        float worst = 0;
        bool same = true;
        for (std::int64_t token = 0; token < 12; ++token) {
          test_support::for_each_element(world.geometry(), 0, 3, [&](const Element& element) {
            const std::uint32_t a = test_support::read_bits(original->view(), token, element);
            const std::uint32_t b = test_support::read_bits(taken, token, element);
            const bool turned = element.side == Side::kKey && element.dim < world.geometry().rotary_dim;
            if (!turned) same = same && a == b;
            worst = std::max(worst, std::abs(test_support::decode(dtype, a) - test_support::decode(dtype, b)));
          });
        }
        CHECK(same);
        CHECK(worst <= bound(dtype));
      }
    }
  }
}
