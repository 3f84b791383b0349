#include "drift_checks.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "row_checks.hpp"
#include "transfer_checks.hpp"

namespace pikv::detail {
namespace {

using Indices = std::span<const std::int32_t>;

template <class T>
constexpr std::string_view kOwner = "DriftCorrection: ";
template <>
constexpr std::string_view kOwner<DriftWeighing> = "DriftWeighing: ";

/// Heads every message of a call: "DriftCorrection: ".
template <class T>
std::string owner_of(const T& /*call*/) {
  return std::string(kOwner<T>);
}

Status check_count(const std::string& field, Indices rows, std::int64_t most) {
  PIKV_TRY(check_array(field, rows));
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  if (num_rows <= most) return {};
  return refuse(field + ": the number of rows", num_rows, "at most " + std::to_string(most));
}

/// Of the targets, and of the samples.
template <class T>
std::int64_t num_weights(const T& call) {
  return static_cast<std::int64_t>((call.target_rows.size() + call.sample_rows.size()) * call.sample_rows.size());
}

/// What both calls have in common.
template <class T>
Status check_common(const T& call, const ConstKvView& cached, const BackendCaps& caps) {
  const std::string owner = owner_of(call);
  PIKV_TRY(check_row_geometry(owner, call.geometry));
  PIKV_TRY(check_layer(owner, call.layer, call.geometry));
  PIKV_TRY(check_rows_view(owner + "cached", cached, call.geometry, caps));
  PIKV_TRY(check_row_map(owner + "row_slots", call.row_slots, cached.num_slots));
  PIKV_TRY(check_count(owner + "sample_rows", call.sample_rows, kMaxDriftSamples));
  PIKV_TRY(check_count(owner + "target_rows", call.target_rows, kMaxRows));
  PIKV_TRY(check_size(owner + "weights", call.weights, num_weights(call)));
  PIKV_TRY(check_rope(owner.substr(0, owner.size() - 2), call.rope, call.geometry));
  const std::int64_t num_rows = call.row_slots.num_tokens();
  if (!call.rope.turns() || call.rope.num_positions >= num_rows) return {};
  return refuse(owner + "rope.num_positions", call.rope.num_positions,
                "at least row_slots.num_tokens = " + std::to_string(num_rows));
}

enum class Use : std::uint8_t { kNone, kSample, kTarget };

/// uses: [N]; notes what each row is. may_repeat: whether a row may be there twice, or be both.
Status check_indices(const std::string& field, Indices rows, Use use, bool may_repeat, std::vector<Use>& uses) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int32_t row = rows[i];
    const auto place = [&] { return field + "[" + std::to_string(i) + "]"; };
    if (row < 0 || static_cast<std::size_t>(row) >= uses.size()) {
      return refuse(place(), row, "in [0, " + std::to_string(uses.size()) + ")");
    }
    Use& before = uses[static_cast<std::size_t>(row)];
    if (!may_repeat && before != Use::kNone) {
      return refuse(place(), row, before == Use::kSample ? "no sample row" : "there once");
    }
    before = use;
  }
  return {};
}

/// writes_targets: no target may then be a sample, or there twice.
template <class T>
Status check_rows(const T& call, std::int64_t num_slots, bool writes_targets) {
  const std::string owner = owner_of(call);
  PIKV_TRY(check_slots(owner + "row_slots", call.row_slots, num_slots));
  std::vector<Use> uses(static_cast<std::size_t>(call.row_slots.num_tokens()), Use::kNone);
  PIKV_TRY(check_indices(owner + "sample_rows", call.sample_rows, Use::kSample, true, uses));
  return check_indices(owner + "target_rows", call.target_rows, Use::kTarget, !writes_targets, uses);
}

}  // namespace

Status check_drift(const DriftWeighing& weighing, const BackendCaps& caps) {
  const std::string owner = owner_of(weighing);
  PIKV_TRY(check_common(weighing, weighing.cached, caps));
  PIKV_TRY(check_size(owner + "sample_chunks", weighing.sample_chunks,
                      static_cast<std::int64_t>(weighing.sample_rows.size())));
  PIKV_TRY(check_size(owner + "target_chunks", weighing.target_chunks,
                      static_cast<std::int64_t>(weighing.target_rows.size())));
  if (!(weighing.other_chunks >= 0 && weighing.other_chunks <= 1)) {
    return invalid_argument(owner + "other_chunks is " + std::to_string(weighing.other_chunks) +
                            ", must be within [0, 1]");
  }
  if (std::isfinite(weighing.noise) && weighing.noise > 0) return {};
  return invalid_argument(owner + "noise is " + std::to_string(weighing.noise) + ", must be positive and finite");
}

Status check_drift(const DriftCorrection& correction, const BackendCaps& caps) {
  const std::string owner = owner_of(correction);
  PIKV_TRY(check_common(correction, as_const(correction.cached), caps));
  const auto num_samples = static_cast<std::int64_t>(correction.sample_rows.size());
  if (correction.fresh_slots.num_tokens() != num_samples) {
    return refuse(owner + "fresh_slots.num_tokens", correction.fresh_slots.num_tokens(),
                  "that of sample_rows, " + std::to_string(num_samples));
  }
  if (num_samples > 0) {  // else there may be no fresh rows to have a view of
    KvGeometry one_layer = correction.geometry;
    one_layer.num_layers = 1;
    PIKV_TRY(check_rows_view(owner + "fresh", single_layer(correction.fresh), one_layer, caps));
    PIKV_TRY(check_row_map(owner + "fresh_slots", correction.fresh_slots, correction.fresh.num_slots));
  }
  PIKV_TRY(check_finite(owner + "key_gain", correction.key_gain));
  return check_finite(owner + "value_gain", correction.value_gain);
}

Status check_drift_arrays(const DriftWeighing& weighing) {
  return check_rows(weighing, weighing.cached.num_slots, false);
}

Status check_drift_arrays(const DriftCorrection& correction) {
  PIKV_TRY(check_slots(owner_of(correction) + "fresh_slots", correction.fresh_slots, correction.fresh.num_slots));
  return check_rows(correction, correction.cached.num_slots, true);
}

}  // namespace pikv::detail
