#include "cpu/mover.hpp"

#include <algorithm>
#include <array>

#include "cpu/plane.hpp"
#include "cpu/transpose.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

// The kernel tables are indexed by these enumerators.
static_assert(static_cast<int>(Direction::kReanchor) == kTurn && static_cast<int>(Direction::kUnanchor) == kTurnBack);
static_assert(static_cast<int>(DType::kFloat32) == 0 && static_cast<int>(DType::kFloat16) == 1 &&
              static_cast<int>(DType::kBFloat16) == 2 && kNumDTypes == 3);
static_assert(static_cast<int>(Pairing::kHalfSplit) == 0 && static_cast<int>(Pairing::kInterleaved) == 1);

/// Tokens gathered or scattered together where channels are not contiguous: their elements of one channel then share
/// cache lines, and few enough lines are open to stay in the first-level cache.
constexpr std::size_t kTileTokens = 16;
constexpr std::size_t kBlockTokens = Mover::kBlockTokens;

/// The tokens of one task that are not left out.
struct TokenBlock {
  std::size_t num_tokens = 0;
  std::array<Slot, kBlockTokens> source;
  std::array<Slot, kBlockTokens> target;
  std::array<Position, kBlockTokens> position;
};

void resolve(const KvRun& run, bool turns, std::int64_t begin, std::int64_t end, TokenBlock& block) noexcept {
  for (std::int64_t token = begin; token < end; ++token) {
    const Slot target = run.target_slots.slot(token);
    if (target == kSkipSlot) continue;
    const std::size_t i = block.num_tokens++;
    block.source[i] = run.source_slots.slot(token);
    block.target[i] = target;
    block.position[i] = turns ? run.positions.position(token) : 0;
  }
}

using SourcePlane = Plane<const std::byte>;
using TargetPlane = Plane<std::byte>;

std::size_t index_of(DType dtype) noexcept { return static_cast<std::size_t>(dtype); }

/// Whether every piece that the kernels store is made of whole, aligned groups of kStreamElements.
bool is_streamable(const TargetPlane& target, const KvGeometry& geometry) noexcept {
  const std::int64_t alignment = kStreamElements * target.element_bytes;
  return target.has_adjacent_channels() && reinterpret_cast<std::uintptr_t>(target.base) % alignment == 0 &&
         target.page_bytes % alignment == 0 && target.token_bytes % alignment == 0 &&
         target.head_bytes % alignment == 0 && geometry.head_dim % kStreamElements == 0 &&
         geometry.rotary_dim / 2 % kStreamElements == 0;
}

/// One layer of one block: keys, then values.
class BlockMove {
 public:
  BlockMove(const KvTransfer& transfer, const RowKernels& kernels, Direction direction, bool may_stream,
            const TokenBlock& block, std::byte* scratch) noexcept
      : geometry_(transfer.geometry),
        rope_(transfer.rope),
        kernels_(kernels),
        direction_(direction),
        may_stream_(may_stream),
        block_(block),
        scratch_(scratch) {}

  void move_keys(const SourcePlane& source, const TargetPlane& target) noexcept {
    if (!rope_.turns()) return move_values(source, target);  // without a rotation keys are moved as values are
    locate_rows(source, target);
    const MoveKeyRow kernel = key_kernel(source, target);
    if (!source.has_adjacent_channels() || !target.has_adjacent_channels()) {
      move_tiles(source, target, [&](std::size_t i, const std::byte* from, std::byte* to) {
        KeyRow row = key_row(i);
        row.source = from;
        row.target = to;
        row.num_heads = 1;
        kernel(row);
      });
      return;
    }
    for (std::size_t i = 0; i < block_.num_tokens; ++i) {
      KeyRow row = key_row(i);
      row.source_head_bytes = source.head_bytes;
      row.target_head_bytes = target.head_bytes;
      kernel(row);
    }
  }

  void move_values(const SourcePlane& source, const TargetPlane& target) noexcept {
    locate_rows(source, target);
    const MoveElements kernel = kernels_.elements[store_for(target)][index_of(source.dtype)][index_of(target.dtype)];
    const std::int64_t head_dim = geometry_.head_dim;
    if (!source.has_adjacent_channels() || !target.has_adjacent_channels()) {
      move_tiles(source, target,
                 [&](std::size_t, const std::byte* from, std::byte* to) { kernel(from, to, head_dim); });
    } else if (source.head_bytes == head_dim * source.element_bytes &&
               target.head_bytes == head_dim * target.element_bytes) {
      move_joined_rows(kernel, geometry_.num_kv_heads * head_dim, source.element_bytes, target.element_bytes);
    } else {
      move_unturned_heads(source, target);
    }
  }

 private:
  void locate_rows(const SourcePlane& source, const TargetPlane& target) noexcept {
    for (std::size_t i = 0; i < block_.num_tokens; ++i) {
      source_rows_[i] = source.token(block_.source[i]);
      target_rows_[i] = target.token(block_.target[i]);
    }
  }

  std::size_t store_for(const TargetPlane& target) const noexcept {
    return may_stream_ && is_streamable(target, geometry_) ? kStream : kCached;
  }

  MoveKeyRow key_kernel(const SourcePlane& source, const TargetPlane& target) const noexcept {
    return kernels_.keys[static_cast<std::size_t>(direction_)][static_cast<std::size_t>(rope_.pairing)]
                        [store_for(target)][index_of(source.dtype)][index_of(target.dtype)];
  }

  KeyRow key_row(std::size_t i) const noexcept {
    return KeyRow{.source = source_rows_[i],
                  .target = target_rows_[i],
                  .source_head_bytes = 0,
                  .target_head_bytes = 0,
                  .num_heads = geometry_.num_kv_heads,
                  .head_dim = geometry_.head_dim,
                  .half_dim = rope_.half_dim,
                  .cos = rope_.cos(block_.position[i]),
                  .sin = rope_.sin(block_.position[i]),
                  .inverse_square = rope_.inverse_square};
  }

  /// Rows of all heads; tokens that follow one another on both sides go in one call.
  void move_joined_rows(MoveElements kernel, std::int64_t row_elements, std::int64_t source_bytes,
                        std::int64_t target_bytes) const noexcept {
    std::size_t begin = 0;
    while (begin < block_.num_tokens) {
      std::size_t end = begin + 1;
      while (end < block_.num_tokens && source_rows_[end] == source_rows_[end - 1] + row_elements * source_bytes &&
             target_rows_[end] == target_rows_[end - 1] + row_elements * target_bytes) {
        ++end;
      }
      kernel(source_rows_[begin], target_rows_[begin], static_cast<std::int64_t>(end - begin) * row_elements);
      begin = end;
    }
  }

  /// Values whose heads lie apart: a key row of which no channel turns.
  void move_unturned_heads(const SourcePlane& source, const TargetPlane& target) const noexcept {
    const MoveKeyRow kernel = key_kernel(source, target);
    for (std::size_t i = 0; i < block_.num_tokens; ++i) {
      KeyRow row = key_row(i);
      row.source_head_bytes = source.head_bytes;
      row.target_head_bytes = target.head_bytes;
      row.half_dim = 0;
      kernel(row);
    }
  }

  /// For channels that are not contiguous on one side or both: tiles of one head are gathered into rows, go through the
  /// kernel row by row, and are scattered.
  template <class RowMove>
  void move_tiles(const SourcePlane& source, const TargetPlane& target, const RowMove& move_row) const noexcept {
    const std::int64_t head_dim = geometry_.head_dim;
    const std::int64_t source_row = head_dim * source.element_bytes;
    const std::int64_t target_row = head_dim * target.element_bytes;
    std::array<const std::byte*, kTileTokens> from;  // as the source lies, then as the kernel reads
    std::array<std::byte*, kTileTokens> to;          // as the target lies
    std::array<std::byte*, kTileTokens> gathered;
    std::array<std::byte*, kTileTokens> moved;
    for (std::size_t i = 0; i < kTileTokens; ++i) {
      gathered[i] = scratch_ + static_cast<std::int64_t>(i) * source_row;
      moved[i] = scratch_ + std::int64_t{kTileTokens} * source_row + static_cast<std::int64_t>(i) * target_row;
    }
    for (std::size_t begin = 0; begin < block_.num_tokens; begin += kTileTokens) {
      const std::size_t count = std::min(kTileTokens, block_.num_tokens - begin);
      for (std::int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
        for (std::size_t i = 0; i < count; ++i) {
          from[i] = source_rows_[begin + i] + head * source.head_bytes;
          to[i] = target_rows_[begin + i] + head * target.head_bytes;
        }
        if (!source.has_adjacent_channels()) {
          transpose_rows(source.element_bytes, from.data(), source.dim_bytes, gathered.data(), source.element_bytes,
                         count, head_dim);
          std::copy_n(gathered.begin(), count, from.begin());
        }
        const auto& written = target.has_adjacent_channels() ? to : moved;
        for (std::size_t i = 0; i < count; ++i) move_row(begin + i, from[i], written[i]);
        if (!target.has_adjacent_channels()) {
          transpose_rows(target.element_bytes, moved.data(), target.element_bytes, to.data(), target.dim_bytes, count,
                         head_dim);
        }
      }
    }
  }

  const KvGeometry& geometry_;
  const RopeTableView& rope_;
  const RowKernels& kernels_;
  Direction direction_;
  bool may_stream_;
  const TokenBlock& block_;
  std::byte* scratch_;
  std::array<const std::byte*, kBlockTokens> source_rows_;  // [num_tokens] of the plane being moved
  std::array<std::byte*, kBlockTokens> target_rows_;
};

bool needs_scratch(const KvLayout& layout) noexcept { return layout.k.dim != 1 || layout.v.dim != 1; }

}  // namespace

Mover::Mover(const KvTransfer& transfer, Direction direction, const RowKernels& kernels, std::int64_t stream_from_bytes)
    : transfer_(transfer), kernels_(kernels), direction_(direction) {
  std::int64_t num_tokens = 0;
  bool has_strided_channels = needs_scratch(transfer.target.layout);
  block_ends_.reserve(transfer.runs.size());
  for (const KvRun& run : transfer.runs) {
    const std::int64_t run_tokens = run.target_slots.num_tokens();
    num_tokens += run_tokens;
    blocks_per_layer_ += (run_tokens + kBlockTokens - 1) / kBlockTokens;
    block_ends_.push_back(blocks_per_layer_);
    has_strided_channels = has_strided_channels || (run_tokens > 0 && needs_scratch(run.source.layout));
  }
  const std::int64_t num_layers = transfer.layer_end - transfer.layer_begin;
  num_tasks_ = blocks_per_layer_ * num_layers;
  const std::int64_t row = std::int64_t{transfer.geometry.num_kv_heads} * transfer.geometry.head_dim;
  num_bytes_ = 2 * row * num_layers * num_tokens * dtype_bytes(transfer.target.layout.dtype);
  may_stream_ = num_bytes_ >= stream_from_bytes;
  if (has_strided_channels) {
    scratch_bytes_ = std::int64_t{2 * kTileTokens * sizeof(float)} * transfer.geometry.head_dim;
  }
}

void Mover::run(std::int64_t task_index, std::byte* scratch) const noexcept {
  const std::int32_t layer = transfer_.layer_begin + static_cast<std::int32_t>(task_index / blocks_per_layer_);
  const std::int64_t block_index = task_index % blocks_per_layer_;
  const auto run_end = std::upper_bound(block_ends_.begin(), block_ends_.end(), block_index);
  const KvRun& run = transfer_.runs[static_cast<std::size_t>(run_end - block_ends_.begin())];
  const std::int64_t first_block = run_end == block_ends_.begin() ? 0 : *(run_end - 1);
  const std::int64_t begin = (block_index - first_block) * kBlockTokens;
  TokenBlock block;
  resolve(run, transfer_.rope.turns(), begin, std::min(begin + kBlockTokens, run.target_slots.num_tokens()), block);

  const KvLayout& source = run.source.layout;
  const KvLayout& target = transfer_.target.layout;
  BlockMove move(transfer_, kernels_, direction_, may_stream_, block, scratch);
  move.move_keys(SourcePlane(run.source.k_layer(layer), source.k, source),
                 TargetPlane(transfer_.target.k_layer(layer), target.k, target));
  move.move_values(SourcePlane(run.source.v_layer(layer), source.v, source),
                   TargetPlane(transfer_.target.v_layer(layer), target.v, target));
  if (may_stream_) kernels_.finish_streaming();
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
