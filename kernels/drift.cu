// The drift that the rows of a chunk share.
//
// A block has one head of one chunk's keys or values, and of its targets what blockIdx.z says. Its threads lie in
// stripes: a stripe has a row at a time, each thread two vectors of it (8 channels each) or, where a layout does not
// serve vectors, a pair of channels or one, always the same, so that pairs turn in registers. Stripes sum over samples
// on their own, are put together in a fixed order, and then move targets. A block reads all samples, and those of its
// chunk once more; targets are read and written once: 4 bytes an element of 16 bits.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "drift_units.cuh"
#include "kind_pairs.cuh"
#include "score.hpp"

namespace pikv::kernels {
namespace {

constexpr int kWarps = kDriftThreads / kWarpLanes;
constexpr int kMaxHeadDim = 256;
static_assert(kMaxHeadDim <= kDriftThreads, "a thread has one channel when stripes are put together");
/// Means of all stripes: threads that own 16 channels are what takes most.
constexpr int kMaxMeans = kDriftThreads * 2 * kVectorChannels;

/// Of both numbers, over the block; every thread gets the sums. Always in the same order.
[[nodiscard]] __device__ float2 sum_block(float2 sums) {
  __shared__ float2 warp_sums[kWarps];
  __syncthreads();  // an earlier call may still be reading them
#pragma unroll
  for (int apart = kWarpLanes / 2; apart > 0; apart /= 2) {
    sums.x += __shfl_xor_sync(0xFFFFFFFFU, sums.x, apart);
    sums.y += __shfl_xor_sync(0xFFFFFFFFU, sums.y, apart);
  }
  if (threadIdx.x % kWarpLanes == 0) warp_sums[threadIdx.x / kWarpLanes] = sums;
  __syncthreads();
  float2 total = make_float2(0, 0);
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    total.x += warp_sums[warp].x;
    total.y += warp_sums[warp].y;
  }
  return total;
}

/// A chunk's part of an array, whatever its offsets say.
struct Part {
  std::int32_t begin;
  std::int32_t end;
};
[[nodiscard]] __device__ __forceinline__ Part part_of(const std::int32_t* offsets, std::uint32_t chunk,
                                                      std::int32_t size) {
  const std::int32_t begin = min(max(offsets[chunk], 0), size);
  return {begin, min(max(offsets[chunk + 1], begin), size)};
}

/// Running means and squared deviations of a thread's channels (Welford, "Note on a method for calculating corrected
/// sums of squares and products", 1962). Deviations are wanted as a sum over channels only.
template <class How>
struct Moments {
  typename How::Values means{};
  float deviation = 0;
  float count = 0;

  __device__ __forceinline__ void add(const typename How::Values& fresh, const typename How::Values& cached,
                                      bool has_second) {
    count += 1;
    const float share = 1 / count;
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      add_one(means.first[c], fresh.first[c] - cached.first[c], share);
      if (has_second) add_one(means.second[c], fresh.second[c] - cached.second[c], share);
    }
  }

 private:
  __device__ __forceinline__ void add_one(float& mean, float value, float share) {
    const float before = value - mean;
    mean = __fmaf_rn(before, share, mean);
    deviation = __fmaf_rn(before, value - mean, deviation);
  }
};

/// What some samples have drifted: of the thread's channel, and of all of them together.
struct Drift {
  float num_samples;
  float mean;      // of channel threadIdx.x, where there is one
  float variance;  // summed over channels; of two samples or more
};

/// How a block's threads share the rows.
struct Stripes {
  std::uint32_t own;
  std::uint32_t count;
  bool has_unit;
};

/// Every thread of the block calls it.
template <class How>
[[nodiscard]] __device__ Drift drift_of(const DriftParams& params, const DriftHead& at, const typename How::Unit& unit,
                                        const Stripes& stripes, const Part& samples) {
  __shared__ float means[kMaxMeans];  // [stripes][head_dim]
  __shared__ float counts[kDriftThreads];
  const auto head_dim = static_cast<std::uint32_t>(params.head_dim);
  const bool has_second = unit.second_channel != unit.first_channel;
  Moments<How> moments;
  for (std::int64_t i = samples.begin + std::int64_t{stripes.own}; stripes.has_unit && i < samples.end;
       i += stripes.count) {
    const std::int32_t row = params.sample_rows[i];
    if (!in_range(row, params.num_rows)) continue;
    const auto sample = static_cast<std::uint32_t>(i);
    const std::byte* const fresh_row = head_address(params.fresh, at.fresh_plane, at, sample);
    const std::byte* const cached_row =
        head_address(params.cached, at.cached_plane, at, static_cast<std::uint32_t>(row));
    if (fresh_row == nullptr || cached_row == nullptr) continue;
    typename How::Values fresh;
    typename How::Values cached;
    How::load_fresh(params, at, unit, fresh_row, fresh);
    How::load_cached(params, at, unit, cached_row, cached);
    if (unit.turns) How::turn_unit(params, unit, row, true, cached);
    moments.add(fresh, cached, has_second);
  }
  __syncthreads();  // an earlier call may still be reading them
  if (stripes.has_unit) {
    float* const stripe_means = means + stripes.own * head_dim;
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      stripe_means[unit.first_channel + c] = moments.means.first[c];
      if (has_second) stripe_means[unit.second_channel + c] = moments.means.second[c];
    }
    counts[stripes.own] = moments.count;
  }
  __syncthreads();

  // A thread puts the stripes of one channel together.
  Drift drift{0, 0, 0};
  for (std::uint32_t s = 0; s < stripes.count; ++s) {
    drift.num_samples += counts[s];
    if (threadIdx.x < head_dim) drift.mean = __fmaf_rn(counts[s], means[s * head_dim + threadIdx.x], drift.mean);
  }
  if (drift.num_samples == 0) return drift;
  drift.mean /= drift.num_samples;
  float deviation = moments.deviation;
  for (std::uint32_t s = 0; threadIdx.x < head_dim && s < stripes.count; ++s) {
    const float between = means[s * head_dim + threadIdx.x] - drift.mean;
    deviation = __fmaf_rn(counts[s] * between, between, deviation);
  }
  drift.variance = sum_block(make_float2(deviation, 0)).x / (drift.num_samples - 1);
  return drift;
}

/// How much of the samples' mean counts, measured from `common`. Every thread of the block calls it.
[[nodiscard]] __device__ float shrink(const Drift& drift, float common) {
  if (drift.num_samples < 2) return 0;
  const float beyond = drift.mean - common;
  const float distance = drift.num_samples * sum_block(make_float2(beyond * beyond, 0)).x;
  // 0 also where there is no drift at all, or no number.
  return drift.variance < distance ? 1 - drift.variance / distance : 0;
}

template <class How>
__global__ void __launch_bounds__(kDriftThreads) correct_drift(const DriftParams params) {
  __shared__ float shift[kMaxHeadDim];
  const std::uint32_t chunk = blockIdx.x;
  const bool is_key = blockIdx.y % 2 == 0;
  const float gain = is_key ? params.key_gain : params.value_gain;
  const Part targets = part_of(params.target_offsets, chunk, params.num_targets);
  if (gain == 0 || targets.begin == targets.end) return;

  const DriftHead at{is_key ? params.fresh.k : params.fresh.v, is_key ? params.cached.k : params.cached.v,
                     blockIdx.y / 2, is_key ? static_cast<std::uint32_t>(params.rope.half_dim) : 0, is_key};
  const Divisor& units = is_key ? params.key_units : params.value_units;
  const std::uint32_t own_stripe = units.quotient(threadIdx.x);
  const std::uint32_t num_stripes = units.quotient(kDriftThreads);
  const Stripes stripes{own_stripe, num_stripes, own_stripe < num_stripes};
  const std::uint32_t first_stripe = blockIdx.z * num_stripes;
  if (first_stripe >= static_cast<std::uint32_t>(targets.end - targets.begin)) return;
  const typename How::Unit unit =
      How::unit_of(params, at, stripes.has_unit ? threadIdx.x - own_stripe * units.value : 0);

  const Drift all = drift_of<How>(params, at, unit, stripes, {0, params.num_samples});
  const float all_share = shrink(all, 0);
  const float common = all_share * all.mean;
  const Drift own = drift_of<How>(params, at, unit, stripes, part_of(params.sample_offsets, chunk, params.num_samples));
  const float own_share = shrink(own, common);
  if (all_share == 0 && own_share == 0) return;
  if (threadIdx.x < static_cast<std::uint32_t>(params.head_dim)) {
    shift[threadIdx.x] = gain * __fmaf_rn(own_share, own.mean - common, common);
  }
  __syncthreads();
  if (!stripes.has_unit) return;

  typename How::Values unit_shift;
#pragma unroll
  for (int c = 0; c < How::kChannels; ++c) {
    unit_shift.first[c] = shift[unit.first_channel + c];
    unit_shift.second[c] = shift[unit.second_channel + c];
  }
  const std::uint32_t step = gridDim.z * num_stripes;
  for (std::int64_t i = targets.begin + std::int64_t{first_stripe + own_stripe}; i < targets.end; i += step) {
    const std::int32_t row = params.target_rows[i];
    if (!in_range(row, params.num_rows)) continue;
    // The view may be written; addresses are worked out for reading and writing alike.
    auto* const cached_row =
        const_cast<std::byte*>(head_address(params.cached, at.cached_plane, at, static_cast<std::uint32_t>(row)));
    if (cached_row == nullptr) continue;
    typename How::Values values;
    How::load_cached(params, at, unit, cached_row, values);
    typename How::Values turned = unit_shift;
    if (unit.turns) How::turn_unit(params, unit, row, false, turned);
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      values.first[c] += turned.first[c];
      values.second[c] += turned.second[c];
    }
    How::store_cached(params, at, unit, cached_row, values);
  }
}

template <class How>
cudaError_t launch(const DriftParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(params.num_chunks), 2 * static_cast<unsigned>(params.num_kv_heads),
                  static_cast<unsigned>(params.num_splits));
  correct_drift<How><<<grid, kDriftThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_drift(const DriftParams& params, cudaStream_t stream) {
  if (!params.is_vectorizable) return launch<ByElements>(params, stream);
  return launch_for_kinds<ByVectors>(params.fresh.kind, params.cached.kind,
                                     [&]<class How>() { return launch<How>(params, stream); });
}

}  // namespace pikv::kernels
