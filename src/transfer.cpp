#include <cmath>
#include <cstdint>
#include <string>

#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// "runs[3].target_slots", for messages.
std::string run_field(std::size_t run_index, const char* field) {
  return "KvTransfer: runs[" + std::to_string(run_index) + "]." + field;
}

Status refuse(const std::string& field, std::int64_t value, const std::string& rule) {
  return invalid_argument(field + " is " + std::to_string(value) + ", must be " + rule);
}

/// Prefixes a view's own message with where the view stands.
Status check_view(const std::string& field, const ConstKvView& view, const KvGeometry& geometry,
                  const BackendCaps& caps) {
  if (const Status status = validate(view, geometry); !status.ok()) {
    return Status(status.code(), field + ": " + std::string(status.message()));
  }
  if (view.space != caps.space && view.space != MemorySpace::kPinnedHost) {
    return invalid_argument(field + ".space is out of reach of the " + std::string(caps.name) + " backend");
  }
  return {};
}

Status check_rope(const RopeTableView& rope, const KvGeometry& geometry) {
  if (rope.pairing != Pairing::kHalfSplit && rope.pairing != Pairing::kInterleaved) {
    return invalid_argument("KvTransfer: rope.pairing holds no enumerator");
  }
  if (!rope.turns()) {
    if (rope.values == nullptr) return {};
    return invalid_argument("KvTransfer: rope.half_dim is 0, but rope.values is not null");
  }
  if (rope.values == nullptr) return invalid_argument("KvTransfer: rope.values is null");
  if (rope.num_positions <= 0) return refuse("KvTransfer: rope.num_positions", rope.num_positions, "positive");
  if (rope.half_dim != geometry.rotary_dim / 2) {
    return refuse("KvTransfer: rope.half_dim", rope.half_dim,
                  "geometry.rotary_dim / 2 = " + std::to_string(geometry.rotary_dim / 2));
  }
  if (!std::isfinite(rope.inverse_square) || rope.inverse_square <= 0) {
    return invalid_argument("KvTransfer: rope.inverse_square is " + std::to_string(rope.inverse_square) +
                            ", must be finite and positive");
  }
  return {};
}

/// Shape of the map, and the range of slots where it can be known without reading an array.
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

/// Entries of a page table in host memory. Pages are checked, not slots: a negative page could look like kSkipSlot.
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

Status check_consecutive_positions(const std::string& field, const KvRun& run, std::int32_t num_positions) {
  const std::int64_t first = run.positions.position(0);
  const std::int64_t num_tokens = run.target_slots.num_tokens();
  if (first < 0) return refuse(field, first, "not negative");
  if (num_tokens > num_positions || first > num_positions - num_tokens) {
    return invalid_argument(field + ": positions " + std::to_string(first) + " to " + std::to_string(first) + " + " +
                            std::to_string(num_tokens) + " exceed the table's " + std::to_string(num_positions));
  }
  return {};
}

/// Every token of a run whose arrays lie in host memory.
Status check_tokens(std::size_t run_index, const KvRun& run, std::int64_t num_target_slots, const RopeTableView& rope) {
  PIKV_TRY(check_pages(run_field(run_index, "source_slots"), run.source_slots, run.source.num_slots));
  PIKV_TRY(check_pages(run_field(run_index, "target_slots"), run.target_slots, num_target_slots));
  const bool target_varies = run.target_slots.kind() == SlotMap::Kind::kPerToken;
  const bool source_varies = run.source_slots.kind() == SlotMap::Kind::kPerToken;
  const bool position_varies = rope.turns() && run.positions.is_per_token();
  if (!target_varies && !source_varies && !position_varies) return {};
  for (std::int64_t token = 0; token < run.target_slots.num_tokens(); ++token) {
    const Slot target = run.target_slots.slot(token);
    if (target == kSkipSlot) continue;
    const auto entry = [&](const char* field) {
      return run_field(run_index, field) + "[" + std::to_string(token) + "]";
    };
    if (target_varies && (target < 0 || target >= num_target_slots)) {
      return refuse(entry("target_slots"), target, "-1 or in [0, " + std::to_string(num_target_slots) + ")");
    }
    const Slot source = run.source_slots.slot(token);
    if (source_varies && (source < 0 || source >= run.source.num_slots)) {
      return refuse(entry("source_slots"), source, "in [0, " + std::to_string(run.source.num_slots) + ")");
    }
    if (!position_varies) continue;
    const Position position = run.positions.position(token);
    if (position < 0 || position >= rope.num_positions) {
      return refuse(entry("positions"), position, "in [0, " + std::to_string(rope.num_positions) + ")");
    }
  }
  return {};
}

Status check_run(std::size_t run_index, const KvTransfer& transfer, const BackendCaps& caps) {
  const KvRun& run = transfer.runs[run_index];
  const std::int64_t num_tokens = run.target_slots.num_tokens();
  PIKV_TRY(check_map(run_field(run_index, "target_slots"), run.target_slots, transfer.target.num_slots));
  PIKV_TRY(check_map(run_field(run_index, "source_slots"), run.source_slots, run.source.num_slots));
  if (run.source_slots.num_tokens() != num_tokens) {
    return refuse(run_field(run_index, "source_slots") + ".num_tokens", run.source_slots.num_tokens(),
                  "that of target_slots, " + std::to_string(num_tokens));
  }
  if (num_tokens == 0) return {};
  PIKV_TRY(check_view(run_field(run_index, "source"), run.source, transfer.geometry, caps));
  if (!transfer.rope.turns()) {
    // Positions are not read.
  } else if (!run.positions.is_per_token()) {
    PIKV_TRY(check_consecutive_positions(run_field(run_index, "positions"), run, transfer.rope.num_positions));
  } else if (run.positions.array() == nullptr) {
    return invalid_argument(run_field(run_index, "positions") + ": the array of positions is null");
  }
  if (caps.space != MemorySpace::kHost) return {};
  return check_tokens(run_index, run, transfer.target.num_slots, transfer.rope);
}

}  // namespace

Status validate(const KvTransfer& transfer, const BackendCaps& caps) {
  PIKV_TRY(validate(transfer.geometry));
  const std::int32_t num_layers = transfer.geometry.num_layers;
  if (transfer.layer_begin < 0 || transfer.layer_begin > num_layers) {
    return refuse("KvTransfer: layer_begin", transfer.layer_begin, "in [0, " + std::to_string(num_layers) + "]");
  }
  if (transfer.layer_end < transfer.layer_begin || transfer.layer_end > num_layers) {
    return refuse("KvTransfer: layer_end", transfer.layer_end, "in [layer_begin, " + std::to_string(num_layers) + "]");
  }
  PIKV_TRY(check_rope(transfer.rope, transfer.geometry));
  PIKV_TRY(check_view("KvTransfer: target", as_const(transfer.target), transfer.geometry, caps));
  for (std::size_t run_index = 0; run_index < transfer.runs.size(); ++run_index) {
    PIKV_TRY(check_run(run_index, transfer, caps));
  }
  return {};
}

}  // namespace v0
}  // namespace pikv
