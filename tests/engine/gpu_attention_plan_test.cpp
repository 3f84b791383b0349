// How a batch's attention is cut: every row meets every tile of its keys once, and the pieces are even. Needs no
// device.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "mini_engine/gpu/attention_plan.hpp"

namespace {

using mini_engine::gpu::AttentionItem;
using mini_engine::gpu::AttentionSequence;
using mini_engine::gpu::BlockCosts;
using mini_engine::gpu::plan_items;

constexpr std::int32_t kTileKeys = 64;
constexpr BlockCosts kCosts{.num_at_once = 264, .start = 2, .partial = 2};

struct Batch {
  std::vector<AttentionSequence> sequences;
  std::vector<std::int32_t> positions;

  void add(std::int32_t count, std::int32_t last_position) {
    sequences.push_back(
        {static_cast<std::int32_t>(positions.size()), count, static_cast<std::int32_t>(10 * sequences.size()), -1});
    for (std::int32_t i = 0; i < count; ++i) positions.push_back(last_position - count + 1 + i);
  }
};

void check_cover(const Batch& batch, const std::vector<AttentionItem>& items, std::int32_t rows_per_tile) {
  std::map<std::int32_t, std::vector<std::pair<std::int32_t, std::int32_t>>> shares;  // of each row
  std::int32_t before = INT32_MAX;
  for (const AttentionItem& item : items) {
    CHECK(item.end - item.begin <= before);
    before = item.end - item.begin;
    if (item.num_rows == 0) continue;
    CHECK(item.num_rows <= rows_per_tile);
    CHECK(item.begin < item.end);
    CHECK(item.split < item.num_splits);
    CHECK(item.num_splits <= mini_engine::gpu::kMaxSplits);
    CHECK(item.num_keys == batch.positions[static_cast<std::size_t>(item.first_row + item.num_rows - 1)] + 1);
    for (std::int32_t row = item.first_row; row < item.first_row + item.num_rows; ++row) {
      shares[row].emplace_back(item.begin, item.end);
    }
  }
  REQUIRE(shares.size() == batch.positions.size());
  for (auto& [row, parts] : shares) {
    std::sort(parts.begin(), parts.end());
    std::int32_t end = 0;
    for (const auto& [part_begin, part_end] : parts) {
      CHECK(part_begin == end);
      end = part_end;
    }
    CHECK(end * kTileKeys > batch.positions[static_cast<std::size_t>(row)]);
  }
}

TEST_CASE("every row meets all its keys once") {
  Batch batch;
  batch.add(1, 0);
  batch.add(1, 5000);
  batch.add(40, 39);
  batch.add(17, 900);
  batch.add(130, 2000);
  for (const std::int32_t rows_per_tile : {1, 16, 32}) {
    check_cover(batch, plan_items(batch.sequences, batch.positions, rows_per_tile, kTileKeys, 8, kCosts),
                rows_per_tile);
  }
}

TEST_CASE("one long row fills the device, many rows stay whole") {
  Batch one;
  one.add(1, 4095);
  const std::vector<AttentionItem> split = plan_items(one.sequences, one.positions, 16, kTileKeys, 8, kCosts);
  CHECK(split[0].num_splits > 16);
  Batch many;
  many.add(4096, 4095);
  const std::vector<AttentionItem> whole = plan_items(many.sequences, many.positions, 16, kTileKeys, 8, kCosts);
  CHECK(std::all_of(whole.begin(), whole.end(), [](const AttentionItem& item) { return item.num_splits <= 1; }));
}

TEST_CASE("of sequences of many lengths no piece is much longer than the others") {
  Batch batch;
  for (std::int32_t i = 0; i < 4; ++i) batch.add(1, 100 + 5000 * i);
  const std::vector<AttentionItem> items = plan_items(batch.sequences, batch.positions, 16, kTileKeys, 8, kCosts);
  CHECK(items.front().end - items.front().begin <= 16);
}

TEST_CASE("the number of items changes seldom while a sequence grows") {
  std::vector<std::size_t> counts;
  for (std::int32_t last = 1000; last < 3000; ++last) {
    Batch batch;
    batch.add(1, last);
    const std::size_t count = plan_items(batch.sequences, batch.positions, 16, kTileKeys, 8, kCosts).size();
    if (counts.empty() || counts.back() != count) counts.push_back(count);
  }
  CHECK(counts.size() < 40);
}

}  // namespace
