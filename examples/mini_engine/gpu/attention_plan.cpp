#include "attention_plan.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mini_engine::gpu {
namespace {

std::int32_t divide_up(std::int32_t value, std::int32_t by) { return (value + by - 1) / by; }

/// Rows of a sequence that stay together, all their keys.
std::vector<AttentionItem> tiles_of(std::span<const AttentionSequence> sequences,
                                    std::span<const std::int32_t> positions, std::int32_t rows_per_tile,
                                    std::int32_t tile_keys) {
  std::vector<AttentionItem> tiles;
  for (const AttentionSequence& sequence : sequences) {
    for (std::int32_t done = 0; done < sequence.num_rows; done += rows_per_tile) {
      const std::int32_t first = sequence.first_row + done;
      const std::int32_t count = std::min(rows_per_tile, sequence.num_rows - done);
      const std::int32_t num_keys = positions[static_cast<std::size_t>(first + count - 1)] + 1;
      tiles.push_back({.first_row = first,
                       .num_rows = count,
                       .num_keys = num_keys,
                       .first_page = sequence.first_page,
                       .first_document = sequence.first_document,
                       .begin = 0,
                       .end = divide_up(num_keys, tile_keys),
                       .split = 0,
                       .num_splits = 1});
    }
  }
  return tiles;
}

/// How many tiles of keys an item should have, that all may end soonest. Blocks that all run at once end with the
/// longest; more are spread evenly, but for what the last ones leave unused.
std::int32_t choose_length(std::span<const AttentionItem> tiles, std::int32_t num_kv_heads, const BlockCosts& costs) {
  std::int32_t most = 1;
  for (const AttentionItem& tile : tiles) most = std::max(most, tile.end);
  std::int32_t best = most;
  double least = HUGE_VAL;
  std::int32_t last_length = 0;
  for (std::int32_t splits = 1; splits <= std::min(kMaxSplits, most); ++splits) {
    const std::int32_t length = divide_up(most, splits);
    if (length == last_length) continue;
    last_length = length;
    double num_blocks = 0;
    double work = 0;
    for (const AttentionItem& tile : tiles) {
      const std::int32_t pieces = divide_up(tile.end, length);
      num_blocks += pieces;
      work += tile.end + pieces * (costs.start + (pieces > 1 ? costs.partial : 0.0));
    }
    num_blocks *= num_kv_heads;
    work *= num_kv_heads;
    const double longest = length + costs.start + (splits > 1 ? costs.partial : 0.0);
    const double time = num_blocks <= costs.num_at_once ? longest : work / costs.num_at_once + longest / 2;
    if (time < least) {
      least = time;
      best = length;
    }
  }
  return best;
}

}  // namespace

std::vector<AttentionItem> plan_items(std::span<const AttentionSequence> sequences,
                                      std::span<const std::int32_t> positions, std::int32_t rows_per_tile,
                                      std::int32_t tile_keys, std::int32_t num_kv_heads, const BlockCosts& costs) {
  const std::vector<AttentionItem> tiles = tiles_of(sequences, positions, rows_per_tile, tile_keys);
  const std::int32_t length = choose_length(tiles, num_kv_heads, costs);
  std::vector<AttentionItem> items;
  for (const AttentionItem& tile : tiles) {
    const std::int32_t num_splits = divide_up(tile.end, length);
    for (std::int32_t split = 0; split < num_splits; ++split) {
      AttentionItem item = tile;
      item.begin = tile.end * split / num_splits;
      item.end = tile.end * (split + 1) / num_splits;
      item.split = split;
      item.num_splits = num_splits;
      items.push_back(item);
    }
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const AttentionItem& a, const AttentionItem& b) { return a.end - a.begin > b.end - b.begin; });
  const std::size_t step = std::max<std::size_t>(std::bit_floor(items.size()) / 8, 8);
  items.resize((items.size() + step - 1) / step * step, AttentionItem{});
  return items;
}

}  // namespace mini_engine::gpu
