// How the attention of a batch is cut into pieces of work that end together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mini_engine::gpu {

/// One sequence of a batch. Its rows are rows [first_row, first_row + num_rows) of the batch; row i of the sequence
/// lies in page pages[first_page + i / S], at i % S.
struct AttentionSequence {
  std::int32_t first_row;
  std::int32_t num_rows;
  std::int32_t first_page;      ///< in AttentionBatch::pages
  std::int32_t first_document;  ///< in AttentionBatch::documents; -1: plain causal attention
};

/// Some rows of one sequence against a share of their keys.
struct AttentionItem {
  std::int32_t first_row;  ///< of the batch
  std::int32_t num_rows;   ///< 0: nothing to do
  std::int32_t num_keys;   ///< that the last row sees
  std::int32_t first_page;
  std::int32_t first_document;
  std::int32_t begin;  ///< tiles of keys [begin, end)
  std::int32_t end;
  std::int32_t split;       ///< which share this is
  std::int32_t num_splits;  ///< of how many
};

/// What a block takes at once: stacked rows, which are rows of one sequence times the query heads of one KV head, and
/// keys.
struct TileShape {
  std::int32_t rows;
  std::int32_t keys;
};

/// How a kernel spends its time. A block's costs are counted in tiles of keys.
struct BlockCosts {
  double num_at_once;  ///< blocks that the device runs
  double start;        ///< of any block
  double partial;      ///< of a block whose rows are merged with others'
};

/// At most so many shares of a row's keys.
inline constexpr std::int32_t kMaxSplits = 32;

/// The items of a batch, one block each for every KV head, the longest first; then empty ones up to a count that
/// changes seldom while sequences grow. positions: [R] of the batch's rows. rows_per_tile: rows of a sequence in an
/// item.
[[nodiscard]] std::vector<AttentionItem> plan_items(std::span<const AttentionSequence> sequences,
                                                    std::span<const std::int32_t> positions, std::int32_t rows_per_tile,
                                                    std::int32_t tile_keys, std::int32_t num_kv_heads,
                                                    const BlockCosts& costs);

}  // namespace mini_engine::gpu
