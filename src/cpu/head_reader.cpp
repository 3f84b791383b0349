#include "cpu/head_reader.hpp"

#include <array>

#include "cpu/decode_rows.hpp"
#include "cpu/transpose.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

void HeadReader::read(Side side, std::int32_t layer, std::int32_t head, std::int64_t begin, std::int64_t count,
                      float* rows) const noexcept {
  const ConstKvView& source = source_.view;
  const bool is_key = side == Side::kKey;
  const SourcePlane plane(is_key ? source.k_layer(layer) : source.v_layer(layer),
                          is_key ? source.layout.k : source.layout.v, source.layout);
  const std::int64_t head_dim = source_.head_dim;
  const auto num_tokens = static_cast<std::size_t>(count);

  std::array<const std::byte*, kMaxTokens> from;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    const Slot slot = source_.slots.slot(begin + static_cast<std::int64_t>(i));
    from[i] = plane.token(slot) + head * plane.head_bytes;
  }

  // What the kernels cannot read goes through scratch: codes, whose channels are adjacent, or channels that are not.
  DType dtype = source.layout.dtype;
  std::array<std::byte*, kMaxTokens> prepared;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    prepared[i] = reinterpret_cast<std::byte*>(scratch_ + static_cast<std::int64_t>(i) * head_dim);
  }
  if (dtype == DType::kFloat8E4M3) {
    const float scale = view_scale(source.scales, side, layer, head);
    for (std::size_t i = 0; i < num_tokens; ++i) {
      decode_float8_row(from[i], scale, head_dim, reinterpret_cast<float*>(prepared[i]));
      from[i] = prepared[i];
    }
    dtype = DType::kFloat32;
  } else if (!plane.has_adjacent_channels()) {
    transpose_rows(plane.element_bytes, from.data(), plane.dim_bytes, prepared.data(), plane.element_bytes, num_tokens,
                   head_dim);
    for (std::size_t i = 0; i < num_tokens; ++i) from[i] = prepared[i];
  }

  constexpr auto kTarget = static_cast<std::size_t>(DType::kFloat32);
  const RopeTableView& rope = source_.rope;
  if (!is_key || !rope.turns()) {
    const MoveElements convert = kernels_.elements[kCached][index_of(dtype)][kTarget];
    for (std::size_t i = 0; i < num_tokens; ++i) {
      convert(from[i], reinterpret_cast<std::byte*>(rows + static_cast<std::int64_t>(i) * head_dim), head_dim);
    }
    return;
  }
  const std::size_t direction = source_.direction == Direction::kReanchor ? kTurn : kTurnBack;
  const MoveKeyRow turn =
      kernels_.keys[direction][static_cast<std::size_t>(rope.pairing)][kCached][index_of(dtype)][kTarget];
  for (std::size_t i = 0; i < num_tokens; ++i) {
    const Position position = source_.positions.position(begin + static_cast<std::int64_t>(i));
    turn(KeyRow{.source = from[i],
                .target = reinterpret_cast<std::byte*>(rows + static_cast<std::int64_t>(i) * head_dim),
                .source_head_bytes = 0,
                .target_head_bytes = 0,
                .num_heads = 1,
                .head_dim = source_.head_dim,
                .half_dim = rope.half_dim,
                .cos = rope.cos(position),
                .sin = rope.sin(position),
                .inverse_square = rope.inverse_square});
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
