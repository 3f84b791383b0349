// Rows of an engine's cache as fp32: semantic keys, then values, or what fresh rows differ by from them.
//
// A block has one head of keys or values and some rows. Its threads lie in stripes: a stripe has a row at a time, each
// thread two vectors of it (8 channels each) or, where a layout does not serve vectors, a pair of channels or one.
// Reads every row once and writes 4 bytes an element.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "drift.hpp"
#include "drift_units.cuh"
#include "kind_pairs.cuh"

namespace pikv::kernels {
namespace {

/// Rows of a block.
constexpr std::int32_t kReadRows = 32;

/// Of row params.rows[index]; zeros where it does not exist.
template <class How>
__device__ void read_unit(const ReadRowsParams& params, const DriftHead& at, const typename How::Unit& unit,
                          std::int32_t index, typename How::Values& values) {
  const RowAccess& access = params.access;
  values = {};
  const std::int32_t row = params.rows[index];
  if (!in_range(row, access.num_rows)) return;
  const std::byte* const cached_row = head_address(access.cached, at, static_cast<std::uint32_t>(row));
  const std::byte* const fresh_row =
      params.is_difference ? head_address(params.fresh, at, static_cast<std::uint32_t>(index)) : cached_row;
  if (cached_row == nullptr || fresh_row == nullptr) return;
  How::load_cached(access, at, unit, cached_row, values);
  if (unit.turns) How::turn_unit(access, unit, row, true, values);
  if (!params.is_difference) return;
  typename How::Values fresh;
  How::load_fresh(access, params.fresh, at, unit, fresh_row, fresh);
#pragma unroll
  for (int c = 0; c < How::kChannels; ++c) {
    values.first[c] = fresh.first[c] - values.first[c];
    values.second[c] = fresh.second[c] - values.second[c];
  }
}

template <class How>
__global__ void __launch_bounds__(kDriftThreads) read_rows(const ReadRowsParams params) {
  const RowAccess& access = params.access;
  const DriftHead at = head_of_block(access);
  if (!(at.is_key ? params.reads_keys : params.reads_values)) return;
  const Stripes stripes = stripes_of(access, at);
  if (!stripes.has_unit) return;
  const typename How::Unit unit = How::unit_of(access, at, stripes.unit);
  const std::int64_t row_floats = access.row_floats();
  const auto begin = static_cast<std::int32_t>(blockIdx.x) * kReadRows;
  const std::int32_t end = min(begin + kReadRows, params.count);
  for (auto i = begin + static_cast<std::int32_t>(stripes.own); i < end;
       i += static_cast<std::int32_t>(stripes.count)) {
    typename How::Values values;
    read_unit<How>(params, at, unit, i, values);
    float* const out = params.out + i * row_floats + std::int64_t{blockIdx.y} * access.head_dim;
#pragma unroll
    for (int c = 0; c < How::kChannels; ++c) {
      out[unit.first_channel + c] = values.first[c];
      out[unit.second_channel + c] = values.second[c];  // the same again where there is no second
    }
  }
}

template <class How>
cudaError_t launch(const ReadRowsParams& params, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((params.count - 1) / kReadRows + 1),
                  2 * static_cast<unsigned>(params.access.num_kv_heads));
  read_rows<How><<<grid, kDriftThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_read_rows(const ReadRowsParams& params, cudaStream_t stream) {
  if (!params.access.is_vectorizable) return launch<ByElements>(params, stream);
  const SourceKind fresh = params.is_difference ? params.fresh.kind : params.access.cached.kind;
  return launch_for_kinds<ByVectors>(fresh, params.access.cached.kind,
                                     [&]<class How>() { return launch<How>(params, stream); });
}

}  // namespace pikv::kernels
