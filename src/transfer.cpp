#include <cstdint>
#include <string>

#include "pikv/backend.hpp"
#include "transfer_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::refuse;

/// "runs[3].target_slots", for messages.
std::string run_field(std::size_t run_index, const char* field) {
  return "KvTransfer: runs[" + std::to_string(run_index) + "]." + field;
}

/// Slots that a run's sources may have.
std::int64_t num_source_slots(const KvRun& run) {
  return run.slab.data != nullptr ? run.slab.num_tokens : run.source.num_slots;
}

/// Every token of a run whose arrays lie in host memory.
Status check_tokens(std::size_t run_index, const KvRun& run, std::int64_t num_target_slots, const RopeTableView& rope) {
  const std::int64_t num_sources = num_source_slots(run);
  PIKV_TRY(detail::check_pages(run_field(run_index, "source_slots"), run.source_slots, num_sources));
  PIKV_TRY(detail::check_pages(run_field(run_index, "target_slots"), run.target_slots, num_target_slots));
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
    if (source_varies && (source < 0 || source >= num_sources)) {
      return refuse(entry("source_slots"), source, "in [0, " + std::to_string(num_sources) + ")");
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
  PIKV_TRY(detail::check_map(run_field(run_index, "target_slots"), run.target_slots, transfer.target.num_slots));
  PIKV_TRY(detail::check_map(run_field(run_index, "source_slots"), run.source_slots, num_source_slots(run)));
  if (run.source_slots.num_tokens() != num_tokens) {
    return refuse(run_field(run_index, "source_slots") + ".num_tokens", run.source_slots.num_tokens(),
                  "that of target_slots, " + std::to_string(num_tokens));
  }
  if (num_tokens == 0) return {};
  if (run.slab.data != nullptr) {
    PIKV_TRY(detail::check_slab(run_field(run_index, "slab"), run.slab, transfer.geometry, caps));
  } else {
    PIKV_TRY(detail::check_view(run_field(run_index, "source"), run.source, transfer.geometry, caps));
  }
  PIKV_TRY(detail::check_positions(run_field(run_index, "positions"), run.positions, num_tokens, transfer.rope));
  if (caps.space != MemorySpace::kHost) return {};
  return check_tokens(run_index, run, transfer.target.num_slots, transfer.rope);
}

}  // namespace

Status validate(const KvTransfer& transfer, const BackendCaps& caps) {
  PIKV_TRY(validate(transfer.geometry));
  PIKV_TRY(detail::check_layers("KvTransfer", transfer.layer_begin, transfer.layer_end, transfer.geometry));
  PIKV_TRY(detail::check_rope("KvTransfer", transfer.rope, transfer.geometry));
  PIKV_TRY(detail::check_view("KvTransfer: target", as_const(transfer.target), transfer.geometry, caps));
  for (std::size_t run_index = 0; run_index < transfer.runs.size(); ++run_index) {
    PIKV_TRY(check_run(run_index, transfer, caps));
  }
  return {};
}

}  // namespace v0
}  // namespace pikv
