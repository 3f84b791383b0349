#include "cuda/drift_params.hpp"

#include <cstdint>

#include "cuda/planes.hpp"
#include "cuda/scored_rows.hpp"
#include "row_checks.hpp"

namespace pikv::detail {
namespace {

using kernels::RowAccess;

template <class T>
RowAccess access_of(const T& call, const ConstKvView& cached) noexcept {
  return {.cached = scored_rows(cached, call.row_slots, call.layer),
          .rope = call.rope,
          .num_rows = static_cast<std::int32_t>(call.row_slots.num_tokens()),
          .num_kv_heads = call.geometry.num_kv_heads,
          .head_dim = call.geometry.head_dim};
}

/// Once it is known whether vectors serve.
void share_out(RowAccess& access, bool is_vectorizable) noexcept {
  access.is_vectorizable = is_vectorizable;
  const auto units_of = [&](std::int32_t half_dim) {
    return divisor_of(is_vectorizable ? kernels::units_per_head(access.head_dim, half_dim)
                                      : access.head_dim - half_dim);
  };
  access.key_units = units_of(access.rope.half_dim);
  access.value_units = units_of(0);
}

}  // namespace

WeighLaunches drift_launches(const DriftWeighing& weighing, Carver& carver) noexcept {
  RowAccess access = access_of(weighing, weighing.cached);
  share_out(access, has_vectors(access.cached, access.rope, access.head_dim));
  const std::size_t num_samples = weighing.sample_rows.size();
  const std::size_t num_targets = weighing.target_rows.size();
  const auto num_channels = static_cast<std::size_t>(access.row_floats());
  const auto padded = static_cast<std::size_t>(kernels::covariance_tiles(static_cast<std::int32_t>(num_samples))) *
                      static_cast<std::size_t>(kernels::kCovarianceTile);
  auto* const rows = carver.take<float>((num_samples + num_targets) * num_channels);
  WeighLaunches launches{.samples = {.access = access,
                                     .rows = weighing.sample_rows.data(),
                                     .count = static_cast<std::int32_t>(num_samples),
                                     .out = rows},
                         .targets = {.access = access,
                                     .rows = weighing.target_rows.data(),
                                     .count = static_cast<std::int32_t>(num_targets),
                                     .out = rows == nullptr ? nullptr : rows + num_samples * num_channels},
                         .weigh = {.rows = rows,
                                   .num_samples = static_cast<std::int32_t>(num_samples),
                                   .num_targets = static_cast<std::int32_t>(num_targets),
                                   .num_channels = static_cast<std::int32_t>(num_channels),
                                   .sample_chunks = weighing.sample_chunks.data(),
                                   .target_chunks = weighing.target_chunks.data(),
                                   .other_chunks = weighing.other_chunks,
                                   .noise = weighing.noise,
                                   .weights = weighing.weights.data()}};
  launches.weigh.factors = carver.take<float>(num_channels);
  launches.weigh.covariance = carver.take<float>(padded * padded);
  return launches;
}

CorrectLaunches drift_launches(const DriftCorrection& correction, Carver& carver) noexcept {
  RowAccess access = access_of(correction, as_const(correction.cached));
  kernels::ScoredRows fresh = scored_rows(single_layer(correction.fresh), correction.fresh_slots, 0);
  const bool has_cached_vectors = has_vectors(access.cached, access.rope, access.head_dim);
  RowAccess read = access;
  share_out(read, has_cached_vectors && has_vectors(fresh, access.rope, access.head_dim));
  share_out(access, has_cached_vectors);
  const auto num_samples = static_cast<std::int32_t>(correction.sample_rows.size());
  auto* const differences =
      carver.take<float>(correction.sample_rows.size() * static_cast<std::size_t>(access.row_floats()));
  const auto num_heads = static_cast<std::size_t>(correction.geometry.num_kv_heads);
  auto* const agreements =
      carver.take<kernels::Agreement>(static_cast<std::size_t>(kernels::agreement_tiles(num_samples)) * 2 * num_heads);
  return {.differences = {.access = read,
                          .fresh = fresh,
                          .is_difference = true,
                          .reads_keys = correction.key_gain != 0,
                          .reads_values = correction.value_gain != 0,
                          .rows = correction.sample_rows.data(),
                          .count = num_samples,
                          .out = differences},
          .move = {.access = access,
                   .target_rows = correction.target_rows.data(),
                   .num_targets = static_cast<std::int32_t>(correction.target_rows.size()),
                   .num_samples = num_samples,
                   .weights = correction.weights.data(),
                   .differences = differences,
                   .agreements = agreements,
                   .key_gain = correction.key_gain,
                   .value_gain = correction.value_gain}};
}

}  // namespace pikv::detail
