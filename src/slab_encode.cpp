#include <cstdint>
#include <string>

#include "pikv/backend.hpp"
#include "transfer_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::refuse;

std::string entry(const char* field, std::int64_t token) {
  return std::string("SlabEncode: ") + field + "[" + std::to_string(token) + "]";
}

/// Every token, where arrays lie in host memory.
Status check_tokens(const SlabEncode& encode) {
  PIKV_TRY(detail::check_pages("SlabEncode: source_slots", encode.source_slots, encode.source.num_slots));
  const bool source_varies = encode.source_slots.kind() == SlotMap::Kind::kPerToken;
  const bool position_varies = encode.rope.turns() && encode.positions.is_per_token();
  if (!source_varies && !position_varies) return {};
  for (std::int64_t token = 0; token < encode.source_slots.num_tokens(); ++token) {
    const Slot source = encode.source_slots.slot(token);
    if (source_varies && (source < 0 || source >= encode.source.num_slots)) {
      return refuse(entry("source_slots", token), source, "in [0, " + std::to_string(encode.source.num_slots) + ")");
    }
    if (!position_varies) continue;
    const Position position = encode.positions.position(token);
    if (position < 0 || position >= encode.rope.num_positions) {
      return refuse(entry("positions", token), position, "in [0, " + std::to_string(encode.rope.num_positions) + ")");
    }
  }
  return {};
}

}  // namespace

Status validate(const SlabEncode& encode, const BackendCaps& caps) {
  PIKV_TRY(validate(encode.geometry));
  PIKV_TRY(detail::check_layers("SlabEncode", encode.layer_begin, encode.layer_end, encode.geometry));
  PIKV_TRY(detail::check_rope("SlabEncode", encode.rope, encode.geometry));
  PIKV_TRY(detail::check_slab("SlabEncode: target", as_const(encode.target), encode.geometry, caps));
  PIKV_TRY(detail::check_view("SlabEncode: source", encode.source, encode.geometry, caps));
  PIKV_TRY(detail::check_map("SlabEncode: source_slots", encode.source_slots, encode.source.num_slots));
  const std::int64_t num_tokens = encode.target.num_tokens;
  if (encode.source_slots.num_tokens() != num_tokens) {
    return refuse("SlabEncode: source_slots.num_tokens", encode.source_slots.num_tokens(),
                  "that of the target, " + std::to_string(num_tokens));
  }
  PIKV_TRY(detail::check_positions("SlabEncode: positions", encode.positions, num_tokens, encode.rope));
  if (caps.space != MemorySpace::kHost) return {};
  return check_tokens(encode);
}

}  // namespace v0
}  // namespace pikv
