#include "transfer_checks.hpp"

#include <cmath>
#include <cstdint>
#include <string>

namespace pikv::detail {
namespace {

/// A view's or slab's own message behind where it stands.
Status prefixed(const std::string& field, const Status& status) {
  return status.ok() ? status : Status(status.code(), field + ": " + std::string(status.message()));
}

Status check_space(const std::string& field, MemorySpace space, const BackendCaps& caps) {
  if (space == caps.space || space == MemorySpace::kPinnedHost) return {};
  return invalid_argument(field + ".space is out of reach of the " + std::string(caps.name) + " backend");
}

}  // namespace

Status refuse(const std::string& field, std::int64_t value, const std::string& rule) {
  return invalid_argument(field + " is " + std::to_string(value) + ", must be " + rule);
}

Status check_view(const std::string& field, const ConstKvView& view, const KvGeometry& geometry,
                  const BackendCaps& caps) {
  PIKV_TRY(prefixed(field, validate(view, geometry)));
  PIKV_TRY(check_space(field, view.space, caps));
  if (view.layout.dtype == DType::kFloat8E4M3 && (view.layout.k.dim != 1 || view.layout.v.dim != 1)) {
    const bool is_key = view.layout.k.dim != 1;
    return unsupported(field + ".layout." + (is_key ? "k" : "v") + ".dim is " +
                       std::to_string(is_key ? view.layout.k.dim : view.layout.v.dim) +
                       ", must be 1 for float8_e4m3, whose channels have to be adjacent");
  }
  return {};
}

Status check_slab(const std::string& field, const ConstSlabView& slab, const KvGeometry& geometry,
                  const BackendCaps& caps) {
  PIKV_TRY(prefixed(field, validate(slab, geometry)));
  return check_space(field, slab.space, caps);
}

Status check_layers(const std::string& owner, std::int32_t begin, std::int32_t end, const KvGeometry& geometry) {
  const std::string num_layers = std::to_string(geometry.num_layers);
  if (begin < 0 || begin > geometry.num_layers) {
    return refuse(owner + ": layer_begin", begin, "in [0, " + num_layers + "]");
  }
  if (end < begin || end > geometry.num_layers) {
    return refuse(owner + ": layer_end", end, "in [layer_begin, " + num_layers + "]");
  }
  return {};
}

Status check_rope(const std::string& owner, const RopeTableView& rope, const KvGeometry& geometry) {
  if (rope.pairing != Pairing::kHalfSplit && rope.pairing != Pairing::kInterleaved) {
    return invalid_argument(owner + ": rope.pairing holds no enumerator");
  }
  if (!rope.turns()) {
    if (rope.values == nullptr) return {};
    return invalid_argument(owner + ": rope.half_dim is 0, but rope.values is not null");
  }
  if (rope.values == nullptr) return invalid_argument(owner + ": rope.values is null");
  if (rope.num_positions <= 0) return refuse(owner + ": rope.num_positions", rope.num_positions, "positive");
  if (rope.half_dim != geometry.rotary_dim / 2) {
    return refuse(owner + ": rope.half_dim", rope.half_dim,
                  "geometry.rotary_dim / 2 = " + std::to_string(geometry.rotary_dim / 2));
  }
  if (!std::isfinite(rope.inverse_square) || rope.inverse_square <= 0) {
    return invalid_argument(owner + ": rope.inverse_square is " + std::to_string(rope.inverse_square) +
                            ", must be finite and positive");
  }
  return {};
}

Status check_map(const std::string& field, const SlotMap& map, std::int64_t num_slots) {
  if (map.num_tokens() < 0) return refuse(field + ".num_tokens", map.num_tokens(), "not negative");
  if (map.num_tokens() == 0) return {};
  switch (map.kind()) {
    case SlotMap::Kind::kPerToken:
      if (map.slots() == nullptr) return invalid_argument(field + ": the array of slots is null");
      return {};
    case SlotMap::Kind::kPageTable:
      if (map.pages() == nullptr) return invalid_argument(field + ": the array of pages is null");
      if (map.page_size() <= 0) return refuse(field + ".page_size", map.page_size(), "positive");
      if (map.first() < 0) return refuse(field + ": first token", map.first(), "not negative");
      if (map.first() > INT64_MAX - map.num_tokens()) return refuse(field + ": first token", map.first(), "smaller");
      return {};
    case SlotMap::Kind::kConsecutive:
      if (map.first() < 0) return refuse(field + ": first slot", map.first(), "not negative");
      if (map.num_tokens() > num_slots || map.first() > num_slots - map.num_tokens()) {
        return invalid_argument(field + ": slots " + std::to_string(map.first()) + " to " +
                                std::to_string(map.first()) + " + " + std::to_string(map.num_tokens()) +
                                " exceed the view's " + std::to_string(num_slots) + " slots");
      }
      return {};
  }
  return invalid_argument(field + ": unknown kind");
}

Status check_pages(const std::string& field, const SlotMap& map, std::int64_t num_slots) {
  if (map.kind() != SlotMap::Kind::kPageTable || map.num_tokens() == 0) return {};
  const std::int64_t first_page = map.first() / map.page_size();
  const std::int64_t last_page = (map.first() + map.num_tokens() - 1) / map.page_size();
  for (std::int64_t i = first_page; i <= last_page; ++i) {
    if (map.pages()[i] < 0) return refuse(field + ".pages[" + std::to_string(i) + "]", map.pages()[i], "not negative");
  }
  for (std::int64_t i = first_page; i <= last_page; ++i) {
    // The last page may hold only part of a page of the view.
    const std::int64_t used =
        i == last_page ? (map.first() + map.num_tokens() - 1) % map.page_size() + 1 : map.page_size();
    if (map.pages()[i] * std::int64_t{map.page_size()} + used > num_slots) {
      return refuse(field + ".pages[" + std::to_string(i) + "]", map.pages()[i],
                    "within the view's " + std::to_string(num_slots) + " slots");
    }
  }
  return {};
}

Status check_positions(const std::string& field, const PositionMap& positions, std::int64_t num_tokens,
                       const RopeTableView& rope) {
  if (!rope.turns()) return {};  // positions are not read
  if (positions.is_per_token()) {
    if (positions.array() == nullptr) return invalid_argument(field + ": the array of positions is null");
    return {};
  }
  const std::int64_t first = positions.position(0);
  if (first < 0) return refuse(field, first, "not negative");
  if (num_tokens > rope.num_positions || first > rope.num_positions - num_tokens) {
    return invalid_argument(field + ": positions " + std::to_string(first) + " to " + std::to_string(first) + " + " +
                            std::to_string(num_tokens) + " exceed the table's " + std::to_string(rope.num_positions));
  }
  return {};
}

Status check_unanchor(const KvTransfer& transfer) {
  for (std::size_t run_index = 0; run_index < transfer.runs.size(); ++run_index) {
    if (transfer.runs[run_index].slab.data == nullptr) continue;
    return invalid_argument("KvTransfer: runs[" + std::to_string(run_index) +
                            "].slab is given, but keys of a slab have not been turned: un-anchoring reads views only");
  }
  return {};
}

}  // namespace pikv::detail
