#include "attention.hpp"

#include <algorithm>
#include <limits>

#include "attention_kernels.hpp"

namespace mini_engine::gpu {
namespace {

// Of an H100. One block of the wide kernel fits on a multiprocessor, two of the narrow.
constexpr BlockCosts kNarrowCosts{.num_at_once = 264, .start = 2, .partial = 2};
constexpr BlockCosts kWideCosts{.num_at_once = 132, .start = 1, .partial = 2};
/// Nothing is gained by splitting.
constexpr std::int32_t kWholeSequence = std::numeric_limits<std::int32_t>::max() / 2;
constexpr BlockCosts kPlainCosts{.num_at_once = 1, .start = 1, .partial = 1};

/// Enough that the arrays of small batches never move.
constexpr std::size_t kLeastBytes = std::size_t{64} << 10;

bool has_tensor_core_kernels(Precision precision, const HeadSizes& sizes) {
  return precision == Precision::kBFloat16 && (sizes.head_dim == 64 || sizes.head_dim == 128) &&
         sizes.num_heads / sizes.num_kv_heads <= kNarrowTile.rows;
}

}  // namespace

Attention::Attention(Precision precision, const HeadSizes& sizes) : precision_(precision), sizes_(sizes) {}

void Attention::plan(std::span<const AttentionSequence> sequences, std::span<const std::int32_t> positions,
                     cudaStream_t stream) {
  const std::int32_t group = sizes_.num_heads / sizes_.num_kv_heads;
  std::int32_t most_rows = 0;
  num_rows_ = 0;
  for (const AttentionSequence& sequence : sequences) {
    num_rows_ += sequence.num_rows;
    most_rows = std::max(most_rows, sequence.num_rows);
  }
  kernel_ = !has_tensor_core_kernels(precision_, sizes_) ? Kernel::kPlain
            : most_rows * group <= kNarrowTile.rows      ? Kernel::kNarrow
                                                         : Kernel::kWide;
  std::vector<AttentionItem> items;
  switch (kernel_) {
    case Kernel::kPlain:
      items = plan_items(sequences, positions, 1, kWholeSequence, sizes_.num_kv_heads, kPlainCosts);
      break;
    case Kernel::kNarrow:
      items = plan_items(sequences, positions, kNarrowTile.rows / group, kNarrowTile.keys, sizes_.num_kv_heads,
                         kNarrowCosts);
      break;
    case Kernel::kWide:
      items = plan_items(sequences, positions, kWideTile.rows / group, kWideTile.keys, sizes_.num_kv_heads, kWideCosts);
      break;
  }
  num_items_ = static_cast<std::int32_t>(items.size());
  std::vector<std::int32_t> row_splits(static_cast<std::size_t>(num_rows_), 1);
  std::int32_t most_splits = 1;
  for (const AttentionItem& item : items) {
    std::fill_n(row_splits.begin() + item.first_row, item.num_rows, item.num_splits);
    most_splits = std::max(most_splits, item.num_splits);
  }
  items_.grow(kLeastBytes);
  upload(items_, std::span<const AttentionItem>(items), stream);
  merges_ = most_splits > 1;
  if (!merges_) return;
  row_splits_.grow(kLeastBytes);
  upload(row_splits_, std::span<const std::int32_t>(row_splits), stream);
  const auto num_heads = static_cast<std::size_t>(most_splits * num_rows_ * sizes_.num_heads);
  partial_lses_.grow(num_heads * sizeof(float));
  partial_outputs_.grow(num_heads * static_cast<std::size_t>(sizes_.head_dim) * sizeof(float));
}

std::vector<std::uint64_t> Attention::signature() const {
  return {static_cast<std::uint64_t>(kernel_),
          static_cast<std::uint64_t>(num_rows_),
          static_cast<std::uint64_t>(num_items_),
          static_cast<std::uint64_t>(merges_),
          reinterpret_cast<std::uintptr_t>(items_.as<void>()),
          reinterpret_cast<std::uintptr_t>(row_splits_.as<void>()),
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
                               .items = items_.as<AttentionItem>(),
                               .num_items = num_items_,
                               .row_splits = row_splits_.as<std::int32_t>(),
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
  if (merges_) launch_attention_merge(params, stream);
}

}  // namespace mini_engine::gpu
