#include "drift_checks.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "row_checks.hpp"
#include "transfer_checks.hpp"

namespace pikv::detail {
namespace {

const std::string kOwner = "DriftCorrection: ";

using Indices = std::span<const std::int32_t>;

Status check_rows(const std::string& name, Indices rows, Indices offsets) {
  PIKV_TRY(check_array(kOwner + name + "_rows", rows));
  PIKV_TRY(check_array(kOwner + name + "_offsets", offsets));
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  if (num_rows > kMaxRows) {
    return refuse(kOwner + name + "_rows: the number of rows", num_rows, "at most " + std::to_string(kMaxRows));
  }
  if (offsets.size() > 1 || rows.empty()) return {};
  return invalid_argument(kOwner + name + "_offsets is of no chunk, but " + name + "_rows has " +
                          std::to_string(num_rows) + " elements");
}

/// Requires: check_rows().
Status check_offsets(const std::string& field, Indices offsets, std::size_t num_rows) {
  const auto end = static_cast<std::int32_t>(num_rows);
  std::int32_t previous = 0;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const std::int32_t offset = offsets[i];
    const auto place = [&] { return field + "[" + std::to_string(i) + "]"; };
    if (i == 0 && offset != 0) return refuse(place(), offset, "0");
    if (i + 1 == offsets.size() && offset != end) return refuse(place(), offset, std::to_string(end));
    if (offset < previous || offset > end) {
      return refuse(place(), offset, "in [" + std::to_string(previous) + ", " + std::to_string(end) + "]");
    }
    previous = offset;
  }
  return {};
}

enum class Use : std::uint8_t { kNone, kSample, kTarget };

/// uses: [N]; notes what each row is.
Status check_indices(const std::string& field, Indices rows, Use use, std::vector<Use>& uses) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int32_t row = rows[i];
    const auto place = [&] { return field + "[" + std::to_string(i) + "]"; };
    if (row < 0 || static_cast<std::size_t>(row) >= uses.size()) {
      return refuse(place(), row, "in [0, " + std::to_string(uses.size()) + ")");
    }
    Use& before = uses[static_cast<std::size_t>(row)];
    if (use == Use::kTarget && before != Use::kNone) {
      return refuse(place(), row, before == Use::kSample ? "no sample row" : "there once");
    }
    before = use;
  }
  return {};
}

}  // namespace

Status check_drift(const DriftCorrection& correction, const BackendCaps& caps) {
  PIKV_TRY(check_row_geometry(kOwner, correction.geometry));
  PIKV_TRY(check_layer(kOwner, correction.layer, correction.geometry));
  PIKV_TRY(check_rows_view(kOwner + "cached", as_const(correction.cached), correction.geometry, caps));
  PIKV_TRY(check_row_map(kOwner + "row_slots", correction.row_slots, correction.cached.num_slots));
  PIKV_TRY(check_rows("sample", correction.sample_rows, correction.sample_offsets));
  PIKV_TRY(check_rows("target", correction.target_rows, correction.target_offsets));
  if (correction.target_offsets.size() != correction.sample_offsets.size()) {
    return refuse(kOwner + "target_offsets: the number of elements",
                  static_cast<std::int64_t>(correction.target_offsets.size()),
                  "that of sample_offsets, " + std::to_string(correction.sample_offsets.size()));
  }
  const auto num_samples = static_cast<std::int64_t>(correction.sample_rows.size());
  if (correction.fresh_slots.num_tokens() != num_samples) {
    return refuse(kOwner + "fresh_slots.num_tokens", correction.fresh_slots.num_tokens(),
                  "that of sample_rows, " + std::to_string(num_samples));
  }
  if (num_samples > 0) {  // else there may be no fresh rows to have a view of
    KvGeometry one_layer = correction.geometry;
    one_layer.num_layers = 1;
    PIKV_TRY(check_rows_view(kOwner + "fresh", single_layer(correction.fresh), one_layer, caps));
    PIKV_TRY(check_row_map(kOwner + "fresh_slots", correction.fresh_slots, correction.fresh.num_slots));
  }
  PIKV_TRY(check_rope("DriftCorrection", correction.rope, correction.geometry));
  const std::int64_t num_rows = correction.row_slots.num_tokens();
  if (correction.rope.turns() && correction.rope.num_positions < num_rows) {
    return refuse(kOwner + "rope.num_positions", correction.rope.num_positions,
                  "at least row_slots.num_tokens = " + std::to_string(num_rows));
  }
  PIKV_TRY(check_finite(kOwner + "key_gain", correction.key_gain));
  return check_finite(kOwner + "value_gain", correction.value_gain);
}

Status check_drift_arrays(const DriftCorrection& correction) {
  PIKV_TRY(check_slots(kOwner + "row_slots", correction.row_slots, correction.cached.num_slots));
  PIKV_TRY(check_slots(kOwner + "fresh_slots", correction.fresh_slots, correction.fresh.num_slots));
  PIKV_TRY(check_offsets(kOwner + "sample_offsets", correction.sample_offsets, correction.sample_rows.size()));
  PIKV_TRY(check_offsets(kOwner + "target_offsets", correction.target_offsets, correction.target_rows.size()));
  std::vector<Use> uses(static_cast<std::size_t>(correction.row_slots.num_tokens()), Use::kNone);
  PIKV_TRY(check_indices(kOwner + "sample_rows", correction.sample_rows, Use::kSample, uses));
  return check_indices(kOwner + "target_rows", correction.target_rows, Use::kTarget, uses);
}

}  // namespace pikv::detail
