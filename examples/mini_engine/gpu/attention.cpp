#include "attention.hpp"

#include <algorithm>
#include <cmath>

#include "attention_kernels.hpp"

namespace mini_engine::gpu {
namespace {

/// How a kernel spends its time on an H100. A block's costs are counted in tiles of keys.
struct BlockCosts {
  double num_at_once;  ///< blocks
  double start;        ///< of any block
  double partial;      ///< of a block whose rows are merged with others'
};
constexpr BlockCosts kNarrowCosts{.num_at_once = 264, .start = 2, .partial = 2};
constexpr BlockCosts kWideCosts{.num_at_once = 132, .start = 1, .partial = 2};

/// Enough that tiles of small batches never move.
constexpr std::size_t kLeastTileBytes = std::size_t{64} << 10;

/// Into how many shares the keys of every tile are split: the power of two, so that few different plans arise while
/// sequences grow, that should end first. Blocks that all run at once end with the longest; more are spread evenly, but
/// for what the last ones leave unused.
std::int32_t choose_splits(std::span<const AttentionTile> tiles, std::int32_t num_kv_heads, std::int32_t tile_keys,
                           const BlockCosts& costs) {
  double all_keys = 0;
  double most_keys = 0;
  for (const AttentionTile& tile : tiles) {
    all_keys += static_cast<double>(tile.num_keys) / tile_keys;
    most_keys = std::max(most_keys, static_cast<double>(tile.num_keys) / tile_keys);
  }
  std::int32_t best = 1;
  double least = HUGE_VAL;
  for (std::int32_t splits = 1; splits <= kMaxSplits && splits <= std::max(most_keys, 1.0); splits *= 2) {
    const double overhead = costs.start + (splits > 1 ? costs.partial : 0.0);
    const double num_blocks = static_cast<double>(tiles.size()) * splits * num_kv_heads;
    const double work = all_keys * num_kv_heads + overhead * num_blocks;
    const double longest = most_keys / splits + overhead;
    const double time = num_blocks <= costs.num_at_once ? longest : work / costs.num_at_once + longest / 2;
    if (time < least) {
      least = time;
      best = splits;
    }
  }
  return best;
}

bool has_tensor_core_kernels(Precision precision, const HeadSizes& sizes) {
  return precision == Precision::kBFloat16 && (sizes.head_dim == 64 || sizes.head_dim == 128) &&
         sizes.num_heads / sizes.num_kv_heads <= kNarrowTile.rows;
}

}  // namespace

Attention::Attention(Precision precision, const HeadSizes& sizes) : precision_(precision), sizes_(sizes) {}

void Attention::plan(std::span<const AttentionSequence> sequences, std::span<const std::int32_t> positions,
                     cudaStream_t stream) {
  const std::int32_t group = sizes_.num_heads / sizes_.num_kv_heads;
  const auto position = [&](std::int32_t row) { return positions[static_cast<std::size_t>(row)]; };
  std::int32_t most_rows = 0;
  num_rows_ = 0;
  for (const AttentionSequence& sequence : sequences) {
    num_rows_ += sequence.num_rows;
    most_rows = std::max(most_rows, sequence.num_rows);
  }
  kernel_ = !has_tensor_core_kernels(precision_, sizes_) ? Kernel::kPlain
            : most_rows * group <= kNarrowTile.rows      ? Kernel::kNarrow
                                                         : Kernel::kWide;
  const TileShape shape = kernel_ == Kernel::kWide ? kWideTile : kNarrowTile;
  const std::int32_t rows_per_tile = kernel_ == Kernel::kPlain ? 1 : shape.rows / group;
  std::vector<AttentionTile> tiles;
  for (const AttentionSequence& sequence : sequences) {
    for (std::int32_t done = 0; done < sequence.num_rows; done += rows_per_tile) {
      const std::int32_t first = sequence.first_row + done;
      const std::int32_t count = std::min(rows_per_tile, sequence.num_rows - done);
      tiles.push_back({first, count, position(first + count - 1) + 1, sequence.first_page, sequence.first_document});
    }
  }
  num_tiles_ = static_cast<std::int32_t>(tiles.size());
  num_splits_ = kernel_ == Kernel::kPlain ? 1
                                          : choose_splits(tiles, sizes_.num_kv_heads, shape.keys,
                                                          kernel_ == Kernel::kWide ? kWideCosts : kNarrowCosts);
  tiles_.grow(kLeastTileBytes);
  upload(tiles_, std::span<const AttentionTile>(tiles), stream);
  if (num_splits_ == 1) return;
  const auto num_heads = static_cast<std::size_t>(num_splits_ * num_rows_ * sizes_.num_heads);
  partial_lses_.grow(num_heads * sizeof(float));
  partial_outputs_.grow(num_heads * static_cast<std::size_t>(sizes_.head_dim) * sizeof(float));
}

std::vector<std::uint64_t> Attention::signature() const {
  return {static_cast<std::uint64_t>(kernel_),
          static_cast<std::uint64_t>(num_rows_),
          static_cast<std::uint64_t>(num_tiles_),
          static_cast<std::uint64_t>(num_splits_),
          reinterpret_cast<std::uintptr_t>(tiles_.as<void>()),
          reinterpret_cast<std::uintptr_t>(partial_outputs_.as<void>()),
          reinterpret_cast<std::uintptr_t>(partial_lses_.as<void>())};
}

void Attention::operator()(const AttentionBatch& batch, const CacheLayer& cache, const void* queries,
                           std::int64_t query_stride, void* out, cudaStream_t stream) {
  if (num_rows_ == 0) return;
  const AttentionParams params{.batch = batch,
                               .cache = cache,
                               .sizes = sizes_,
                               .queries = queries,
                               .query_stride = query_stride,
                               .out = out,
                               .tiles = tiles_.as<AttentionTile>(),
                               .num_tiles = num_tiles_,
                               .num_splits = num_splits_,
                               .num_rows = num_rows_,
                               .partial_outputs = partial_outputs_.as<float>(),
                               .partial_lses = partial_lses_.as<float>()};
  switch (kernel_) {
    case Kernel::kPlain:
      return launch_attention_plain(params, precision_, stream);
    case Kernel::kNarrow:
      launch_attention_narrow(params, stream);
      break;
    case Kernel::kWide:
      launch_attention_wide(params, stream);
      break;
  }
  if (num_splits_ > 1) launch_attention_merge(params, stream);
}

}  // namespace mini_engine::gpu
