#include "cuda/score_params.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "cuda/carver.hpp"
#include "cuda/planes.hpp"
#include "cuda/scored_rows.hpp"
#include "row_checks.hpp"

namespace pikv::detail {
namespace {

using kernels::AttentionParams;
using kernels::DeviationParams;
using kernels::SourceKind;

/// Blocks of one launch that keep any GPU busy: four for each multiprocessor of an H100. A constant, since sums are cut
/// where splits end and must not depend on the device.
constexpr std::int64_t kWantedBlocks = 528;

std::int32_t splits_for(std::int64_t num_blocks, std::int32_t num_tiles) noexcept {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(kWantedBlocks / num_blocks, 1, num_tiles));
}

/// The arrays of a launch; without memory the carver only counts.
void carve(AttentionParams& params, Carver& carver) noexcept {
  const auto num_heads = static_cast<std::size_t>(params.num_kv_heads);
  const auto key_splits = static_cast<std::size_t>(params.num_key_splits);
  const std::size_t num_vectors = num_heads * static_cast<std::size_t>(params.num_vectors);
  params.softmax_parts = carver.take<kernels::Softmax>(num_vectors * key_splits);
  params.softmax = carver.take<kernels::Softmax>(num_vectors);
  if (params.key_scores != nullptr) {
    params.key_parts = carver.take<float>(num_heads * static_cast<std::size_t>(params.num_vector_splits) *
                                          static_cast<std::size_t>(params.num_keys));
  }
  if (params.segment_scores != nullptr) {
    params.segment_parts = carver.take<float>(key_splits * num_vectors * static_cast<std::size_t>(params.num_segments));
  }
}

}  // namespace

DeviationParams deviation_params(const DeviationScoring& scoring) noexcept {
  DeviationParams params{.fresh = scored_rows(single_layer(scoring.fresh), scoring.fresh_slots, 0),
                         .cached = scored_rows(scoring.cached, scoring.cached_slots, scoring.layer),
                         .positions = scoring.positions,
                         .num_rows = static_cast<std::int32_t>(scoring.fresh_slots.num_tokens()),
                         .num_kv_heads = scoring.geometry.num_kv_heads,
                         .head_dim = scoring.geometry.head_dim,
                         .key_weight = scoring.key_weight,
                         .value_weight = scoring.value_weight,
                         .scores = scoring.scores.data()};
  if (scoring.key_weight != 0) params.rope = scoring.rope;
  params.key_units = divisor_of(kernels::units_per_head(params.head_dim, params.rope.half_dim));
  params.value_units = divisor_of(kernels::units_per_head(params.head_dim, 0));
  params.is_vectorizable = has_vectors(params.fresh, params.rope, params.head_dim) &&
                           has_vectors(params.cached, params.rope, params.head_dim);
  return params;
}

AttentionParams attention_params(const AttentionScoring& scoring) noexcept {
  const KvGeometry& geometry = scoring.geometry;
  const std::int64_t query_bytes = dtype_bytes(scoring.query_dtype);
  const std::int64_t head_bytes = geometry.head_dim * query_bytes;
  const std::int32_t group = scoring.num_query_heads / geometry.num_kv_heads;
  const double scale = scoring.scale != 0 ? scoring.scale : 1 / std::sqrt(static_cast<double>(geometry.head_dim));
  AttentionParams params{.keys = scored_rows(scoring.keys, scoring.key_slots, scoring.layer),
                         .queries = static_cast<const std::byte*>(scoring.queries),
                         .query_kind = static_cast<SourceKind>(scoring.query_dtype),
                         .query_row_bytes = scoring.query_stride * query_bytes,
                         .query_rows = scoring.query_rows.data(),
                         .num_rows = static_cast<std::int32_t>(scoring.query_rows.size()),
                         .num_keys = static_cast<std::int32_t>(scoring.key_slots.num_tokens()),
                         .num_kv_heads = geometry.num_kv_heads,
                         .head_dim = geometry.head_dim,
                         .group = divisor_of(group),
                         .query_factor = static_cast<float>(scale * std::numbers::log2e),
                         .share = 1.0F / static_cast<float>(scoring.num_query_heads),
                         .key_scores = scoring.key_scores.empty() ? nullptr : scoring.key_scores.data(),
                         .key_segments = scoring.key_segments.data(),
                         .num_segments = scoring.num_segments,
                         .segment_scores = scoring.segment_scores.empty() ? nullptr : scoring.segment_scores.data()};
  params.num_vectors = params.num_rows * group;
  // Tiles hold the elements of tensor cores as they come, and fp32 otherwise.
  const bool as_stored = params.query_kind == params.keys.kind;
  params.keys_vectorizable = as_stored && head_bytes % kVectorBytes == 0 && has_vectors(params.keys.k, params.keys);
  params.queries_vectorizable = as_stored && head_bytes % kVectorBytes == 0 &&
                                is_aligned(params.queries, kVectorBytes) &&
                                (params.num_rows == 1 || params.query_row_bytes % kVectorBytes == 0);
  const std::int64_t vector_tiles = num_vector_tiles(params);
  const std::int64_t key_tiles = num_key_tiles(params);
  params.num_key_splits = splits_for(vector_tiles * params.num_kv_heads, static_cast<std::int32_t>(key_tiles));
  params.num_vector_splits = splits_for(key_tiles * params.num_kv_heads, static_cast<std::int32_t>(vector_tiles));
  return params;
}

std::size_t workspace_bytes(const AttentionParams& params) noexcept {
  AttentionParams counted = params;
  Carver carver(nullptr);
  carve(counted, carver);
  return carver.used_bytes();
}

void place_workspace(AttentionParams& params, std::byte* memory) noexcept {
  Carver carver(memory);
  carve(params, carver);
}

}  // namespace pikv::detail
