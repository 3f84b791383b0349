// Cache-Craft's repair (arXiv 2502.15734): how much of a chunk to recompute is read off what its tokens attended to
// when it was encoded, and off how much of that stands before it now.
//
// Whoever encodes a chunk behind others measures its ChunkContextStats (AttentionScoring of row_scores.hpp gives the
// sums) and keeps them beside the chunk. Of several variants of one text, encoded behind different chunks,
// choose_variant() names the one that costs least to reuse.
//
//   const auto policy = pikv::make_cache_craft_policy(
//       [&](const pikv::ChunkKey& key) { return stats.contains(key) ? stats.at(key) : nullptr; }, 1.0).value();
//
// Words of the paper: CCI, how much a chunk depends on its context; beta', how much of its old context the new one
// brings back, and in which order; CFO, the share of its tokens to recompute.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "pikv/chunk_key.hpp"
#include "pikv/repair.hpp"
#include "pikv/status.hpp"

namespace pikv {
inline namespace v0 {

/// A chunk that stood before another one while that was encoded.
struct PrecedingChunk {
  ChunkKey key;
  std::int64_t num_tokens = 0;
  double inter_attention = 0;  ///< weights from all tokens of the chunk to all of this one, summed
};

/// What the tokens of one variant of a chunk attended to while it was encoded. Attention weights are means over query
/// heads and layers.
struct ChunkContextStats {
  std::int64_t num_tokens = 0;
  std::vector<PrecedingChunk> preceding;     ///< in the order in which they stood; empty: encoded alone
  double intra_attention = 0;                ///< weights from all tokens of the chunk to its own, summed
  std::vector<float> token_inter_attention;  ///< [num_tokens], of each token to all preceding chunks, summed
};

/// Errors: kInvalidArgument naming the field: no tokens, sums that are negative or not finite, an array of another
/// size.
[[nodiscard]] PIKV_API Status validate(const ChunkContextStats& stats);

// What follows requires sound statistics. new_preceding: keys of the cached chunks that stand before the chunk now, in
// order. A key that stands there more than once is matched as often as it stood there before.

/// 1 / (1 + exp(-a / b)), with a the sum over preceding chunks of inter-attention by the product of both lengths, and b
/// the intra-attention by the length squared: 0.5 for a chunk that only attended itself, towards 1 as it depends more.
[[nodiscard]] PIKV_API double chunk_context_impact(const ChunkContextStats& stats) noexcept;

/// beta: the share of the inter-attention that went to chunks that stand before the chunk again. Where none went
/// anywhere: 1 when all preceding chunks are there again, 0 otherwise; of a chunk encoded alone 1 when it is alone
/// again.
[[nodiscard]] PIKV_API double prefix_overlap(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding);
/// gamma: of the pairs of chunks common to both contexts, the share that stands in another order (Kendall's distance).
[[nodiscard]] PIKV_API double prefix_disorder(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding);
/// beta' = beta * (1 - gamma).
[[nodiscard]] PIKV_API double adjusted_prefix_overlap(const ChunkContextStats& stats,
                                                      std::span<const ChunkKey> new_preceding);
/// CFO = alpha * CCI * (1 - beta'), at most 1. Requires: alpha >= 0.
[[nodiscard]] PIKV_API double recompute_share(const ChunkContextStats& stats, std::span<const ChunkKey> new_preceding,
                                              double alpha);

/// The variant of the smallest share to recompute, of equals the first; nothing where there are none.
[[nodiscard]] PIKV_API std::optional<std::size_t> choose_variant(std::span<const ChunkContextStats> variants,
                                                                 std::span<const ChunkKey> new_preceding, double alpha);

/// Null: nothing is known of the chunk. Called from whichever threads begin runs.
using ChunkStatsLookup = std::function<std::shared_ptr<const ChunkContextStats>(const ChunkKey& key)>;

/// One pass over those ceil(CFO * T) rows of each approximate chunk that paid most attention to its old context. T are
/// the rows that are approximate, which is all of the chunk unless an exact prefix brought some. A chunk of which
/// nothing is known is recomputed whole. Its name is "cache-craft:ALPHA", which make_repair_policy() refuses for want
/// of the lookup. Errors: kInvalidArgument for an alpha below 0 or not finite, or no lookup; begin() refuses statistics
/// that are unsound or of another length than their chunk.
[[nodiscard]] PIKV_API Result<std::unique_ptr<RepairPolicy>> make_cache_craft_policy(ChunkStatsLookup lookup,
                                                                                     double alpha);

}  // namespace v0
}  // namespace pikv
