#include "cpu/block_move.hpp"

#include <algorithm>

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

/// Whether every piece that the kernels store is made of whole, aligned groups of kStreamElements.
bool is_streamable(const TargetPlane& target, const KvGeometry& geometry) noexcept {
  const std::int64_t alignment = kStreamElements * target.element_bytes;
  return target.has_adjacent_channels() && reinterpret_cast<std::uintptr_t>(target.base) % alignment == 0 &&
         target.page_bytes % alignment == 0 && target.token_bytes % alignment == 0 &&
         target.head_bytes % alignment == 0 && geometry.head_dim % kStreamElements == 0 &&
         geometry.rotary_dim / 2 % kStreamElements == 0;
}

}  // namespace

std::int64_t BlockMove::scratch_bytes(const KvGeometry& geometry) noexcept {
  return std::int64_t{2 * kTileTokens * sizeof(float)} * geometry.head_dim;
}

/// For channels that are not contiguous on one side or both: tiles of one head are gathered into rows, go through the
/// kernel row by row, and are scattered.
template <class RowMove>
void BlockMove::move_tiles(const SourcePlane& source, const TargetPlane& target,
                           const RowMove& move_row) const noexcept {
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

void BlockMove::move_turned(const SourcePlane& source, const TargetPlane& target) noexcept {
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

void BlockMove::move_unturned(const SourcePlane& source, const TargetPlane& target) noexcept {
  locate_rows(source, target);
  const MoveElements kernel = kernels_.elements[store_for(target)][index_of(source.dtype)][index_of(target.dtype)];
  const std::int64_t head_dim = geometry_.head_dim;
  if (!source.has_adjacent_channels() || !target.has_adjacent_channels()) {
    move_tiles(source, target, [&](std::size_t, const std::byte* from, std::byte* to) { kernel(from, to, head_dim); });
  } else if (source.head_bytes == head_dim * source.element_bytes &&
             target.head_bytes == head_dim * target.element_bytes) {
    move_joined_rows(kernel, geometry_.num_kv_heads * head_dim, source.element_bytes, target.element_bytes);
  } else {
    move_unturned_heads(source, target);
  }
}

void BlockMove::locate_rows(const SourcePlane& source, const TargetPlane& target) noexcept {
  for (std::size_t i = 0; i < block_.num_tokens; ++i) {
    source_rows_[i] = source.token(block_.source[i]);
    target_rows_[i] = target.token(block_.target[i]);
  }
}

std::size_t BlockMove::store_for(const TargetPlane& target) const noexcept {
  return stores_ == Stores::kMayStream && is_streamable(target, geometry_) ? kStream : kCached;
}

MoveKeyRow BlockMove::key_kernel(const SourcePlane& source, const TargetPlane& target) const noexcept {
  return kernels_.keys[static_cast<std::size_t>(direction_)][static_cast<std::size_t>(rope_.pairing)][store_for(target)]
                      [index_of(source.dtype)][index_of(target.dtype)];
}

KeyRow BlockMove::key_row(std::size_t i) const noexcept {
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
void BlockMove::move_joined_rows(MoveElements kernel, std::int64_t row_elements, std::int64_t source_bytes,
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
void BlockMove::move_unturned_heads(const SourcePlane& source, const TargetPlane& target) const noexcept {
  const MoveKeyRow kernel = key_kernel(source, target);
  for (std::size_t i = 0; i < block_.num_tokens; ++i) {
    KeyRow row = key_row(i);
    row.source_head_bytes = source.head_bytes;
    row.target_head_bytes = target.head_bytes;
    row.half_dim = 0;
    kernel(row);
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
