#include "attention.hpp"

#include <algorithm>
#include <bit>

#include "attention_kernels.hpp"

namespace mini_engine::gpu {
namespace {

/// Blocks that keep all multiprocessors of an H100 busy; of the wide kernel's one fits on each.
constexpr std::int32_t kGoodNarrowBlocks = 264;
constexpr std::int32_t kGoodWideBlocks = 132;
/// Enough that tiles of small batches never move.
constexpr std::size_t kLeastTileBytes = std::size_t{64} << 10;

/// The largest one that is not larger, so that few different plans arise while sequences grow.
std::int32_t power_of_two(std::int32_t value) {
  return static_cast<std::int32_t>(std::bit_floor(static_cast<std::uint32_t>(std::max(value, 1))));
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
  std::int32_t most_keys = 0;
  num_rows_ = 0;
  for (const AttentionSequence& sequence : sequences) {
    num_rows_ += sequence.num_rows;
    most_rows = std::max(most_rows, sequence.num_rows);
    most_keys = std::max(most_keys, position(sequence.first_row + sequence.num_rows - 1) + 1);
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
  num_splits_ = 1;
  if (kernel_ != Kernel::kPlain) {
    const std::int32_t good_blocks = kernel_ == Kernel::kWide ? kGoodWideBlocks : kGoodNarrowBlocks;
    const std::int32_t num_blocks = std::max(num_tiles_ * sizes_.num_kv_heads, 1);
    const std::int32_t num_key_tiles = (most_keys + shape.keys - 1) / shape.keys;
    num_splits_ =
        std::min({power_of_two(good_blocks / num_blocks), power_of_two(num_key_tiles), std::int32_t{kMaxSplits}});
  }
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
