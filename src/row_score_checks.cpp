#include "row_score_checks.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

#include "row_checks.hpp"
#include "transfer_checks.hpp"

namespace pikv::detail {
namespace {

/// Elements of all query rows, so that their bytes fit 63 bits with room to spare.
constexpr std::int64_t kMaxQueryElements = std::int64_t{1} << 60;

const std::string kDeviation = "DeviationScoring: ";
const std::string kAttention = "AttentionScoring: ";

Status check_queries(const AttentionScoring& scoring) {
  const auto num_rows = static_cast<std::int64_t>(scoring.query_rows.size());
  const std::int64_t row_elements = std::int64_t{scoring.num_query_heads} * scoring.geometry.head_dim;
  PIKV_TRY(check_array(kAttention + "query_rows", scoring.query_rows));
  if (num_rows > kMaxRows) {
    return refuse(kAttention + "query_rows: the number of rows", num_rows, "at most " + std::to_string(kMaxRows));
  }
  switch (scoring.query_dtype) {
    case DType::kFloat32:
    case DType::kFloat16:
    case DType::kBFloat16:
      break;
    case DType::kFloat8E4M3:
      return unsupported(kAttention + "query_dtype is float8_e4m3, which scores do not read");
    default:
      return invalid_argument(kAttention + "query_dtype holds no enumerator");
  }
  if (num_rows == 0) return {};
  if (scoring.key_slots.num_tokens() == 0) {
    return invalid_argument(kAttention + "query_rows has " + std::to_string(num_rows) +
                            " rows, but key_slots has none");
  }
  if (scoring.queries == nullptr) return invalid_argument(kAttention + "queries is null");
  if (reinterpret_cast<std::uintptr_t>(scoring.queries) % static_cast<std::size_t>(dtype_bytes(scoring.query_dtype)) !=
      0) {
    return invalid_argument(kAttention + "queries is not a multiple of its element size");
  }
  if (num_rows > 1 && (scoring.query_stride < row_elements || scoring.query_stride > kMaxQueryElements / num_rows)) {
    return refuse(kAttention + "query_stride", scoring.query_stride,
                  "in [" + std::to_string(row_elements) + ", " + std::to_string(kMaxQueryElements / num_rows) + "]");
  }
  return {};
}

Status check_outputs(const AttentionScoring& scoring) {
  const std::int64_t num_keys = scoring.key_slots.num_tokens();
  if (!scoring.key_scores.empty()) PIKV_TRY(check_size(kAttention + "key_scores", scoring.key_scores, num_keys));
  if (scoring.num_segments < 0) return refuse(kAttention + "num_segments", scoring.num_segments, "not negative");
  if (scoring.segment_scores.empty()) return {};
  const auto num_rows = static_cast<std::int64_t>(scoring.query_rows.size());
  PIKV_TRY(check_size(kAttention + "segment_scores", scoring.segment_scores, num_rows * scoring.num_segments));
  return check_size(kAttention + "key_segments", scoring.key_segments, num_keys);
}

}  // namespace

Status check_deviation(const DeviationScoring& scoring, const BackendCaps& caps) {
  PIKV_TRY(check_row_geometry(kDeviation, scoring.geometry));
  PIKV_TRY(check_layer(kDeviation, scoring.layer, scoring.geometry));
  KvGeometry one_layer = scoring.geometry;
  one_layer.num_layers = 1;
  PIKV_TRY(check_rows_view(kDeviation + "fresh", single_layer(scoring.fresh), one_layer, caps));
  PIKV_TRY(check_row_map(kDeviation + "fresh_slots", scoring.fresh_slots, scoring.fresh.num_slots));
  PIKV_TRY(check_rows_view(kDeviation + "cached", scoring.cached, scoring.geometry, caps));
  PIKV_TRY(check_row_map(kDeviation + "cached_slots", scoring.cached_slots, scoring.cached.num_slots));
  const std::int64_t num_rows = scoring.fresh_slots.num_tokens();
  if (scoring.cached_slots.num_tokens() != num_rows) {
    return refuse(kDeviation + "cached_slots.num_tokens", scoring.cached_slots.num_tokens(),
                  "that of fresh_slots, " + std::to_string(num_rows));
  }
  PIKV_TRY(check_finite(kDeviation + "key_weight", scoring.key_weight));
  PIKV_TRY(check_finite(kDeviation + "value_weight", scoring.value_weight));
  if (scoring.key_weight != 0) {
    PIKV_TRY(check_rope("DeviationScoring", scoring.rope, scoring.geometry));
    if (num_rows > 0) PIKV_TRY(check_positions(kDeviation + "positions", scoring.positions, num_rows, scoring.rope));
  }
  return check_size(kDeviation + "scores", scoring.scores, num_rows);
}

Status check_deviation_arrays(const DeviationScoring& scoring) {
  PIKV_TRY(check_slots(kDeviation + "fresh_slots", scoring.fresh_slots, scoring.fresh.num_slots));
  PIKV_TRY(check_slots(kDeviation + "cached_slots", scoring.cached_slots, scoring.cached.num_slots));
  if (scoring.key_weight == 0 || !scoring.rope.turns() || !scoring.positions.is_per_token()) return {};
  for (std::int64_t i = 0; i < scoring.fresh_slots.num_tokens(); ++i) {
    const Position position = scoring.positions.position(i);
    if (position >= 0 && position < scoring.rope.num_positions) continue;
    return refuse(kDeviation + "positions[" + std::to_string(i) + "]", position,
                  "within the table's " + std::to_string(scoring.rope.num_positions) + " positions");
  }
  return {};
}

Status check_attention(const AttentionScoring& scoring, const BackendCaps& caps) {
  PIKV_TRY(check_row_geometry(kAttention, scoring.geometry));
  if (scoring.num_query_heads <= 0 || scoring.num_query_heads % scoring.geometry.num_kv_heads != 0) {
    return refuse(kAttention + "num_query_heads", scoring.num_query_heads,
                  "a positive multiple of geometry.num_kv_heads = " + std::to_string(scoring.geometry.num_kv_heads));
  }
  PIKV_TRY(check_layer(kAttention, scoring.layer, scoring.geometry));
  PIKV_TRY(check_rows_view(kAttention + "keys", scoring.keys, scoring.geometry, caps));
  PIKV_TRY(check_row_map(kAttention + "key_slots", scoring.key_slots, scoring.keys.num_slots));
  PIKV_TRY(check_queries(scoring));
  PIKV_TRY(check_finite(kAttention + "scale", scoring.scale));
  return check_outputs(scoring);
}

Status check_attention_arrays(const AttentionScoring& scoring) {
  PIKV_TRY(check_slots(kAttention + "key_slots", scoring.key_slots, scoring.keys.num_slots));
  const std::int64_t num_keys = scoring.key_slots.num_tokens();
  std::int32_t previous = 0;
  for (std::size_t i = 0; i < scoring.query_rows.size(); ++i) {
    const std::int32_t row = scoring.query_rows[i];
    if (row < previous || row >= num_keys) {
      return refuse(kAttention + "query_rows[" + std::to_string(i) + "]", row,
                    "in [" + std::to_string(previous) + ", " + std::to_string(num_keys) + ")");
    }
    previous = row;
  }
  if (scoring.segment_scores.empty()) return {};
  for (std::size_t i = 0; i < scoring.key_segments.size(); ++i) {
    const std::int32_t segment = scoring.key_segments[i];
    if (segment >= 0 && segment < scoring.num_segments) continue;
    return refuse(kAttention + "key_segments[" + std::to_string(i) + "]", segment,
                  "in [0, " + std::to_string(scoring.num_segments) + ")");
  }
  return {};
}

}  // namespace pikv::detail
