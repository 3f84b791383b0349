// Selection through CUB: one radix sort, one compaction and one scan serve every operation, since each of them costs
// seconds to compile.
//
// A row's 64-bit key is its segment above 32 bits that fall as the score rises. The sort is stable, so rows of a
// segment come out together, best first, and of equals the lower row. Rows of rank below k are flagged, and compacting
// by flags gives them in ascending order, which is also the order of segments.
//
// Kernels have one thread a row in blocks of 256; they read and write at most 24 bytes a row.
#include <thrust/iterator/counting_iterator.h>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_select.cuh>

#include <algorithm>
#include <bit>

#include "pikv/types.hpp"
#include "select.hpp"

namespace pikv::kernels {
namespace {

constexpr int kBlock = 256;
constexpr int kScoreBits = 32;

[[nodiscard]] unsigned num_blocks(std::int32_t num_items) {
  return (static_cast<unsigned>(num_items) + kBlock - 1) / kBlock;
}

/// The item of this thread. 64-bit, since the last block may reach past the largest int32.
[[nodiscard]] __device__ std::int64_t item_index() { return std::int64_t{blockIdx.x} * kBlock + threadIdx.x; }

/// Falls as the score rises; equal for scores that are equal, and the largest there is for any NaN.
[[nodiscard]] __device__ std::uint32_t falling_key(float score) {
  constexpr std::uint32_t kSign = 0x80000000U;
  if (score != score) return 0xFFFFFFFFU;
  if (score == 0.0F) return ~kSign;  // of either sign
  const std::uint32_t bits = __float_as_uint(score);
  return (bits & kSign) != 0 ? bits : ~(bits | kSign);
}

/// The segment of `row`; num_segments when it is in none. Looks at no offset but those there are, in whatever order.
[[nodiscard]] __device__ std::int32_t find_segment(const SelectInput& input, std::int32_t row) {
  std::int32_t begin = 0;
  std::int32_t end = input.num_segments + 1;
  while (begin < end) {
    const std::int32_t middle = begin + (end - begin) / 2;
    if (input.segments[middle] <= row) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin == 0 ? input.num_segments : begin - 1;
}

__global__ void __launch_bounds__(kBlock)
    make_keys_kernel(const SelectInput input, std::uint64_t* __restrict__ keys, std::int32_t* __restrict__ rows) {
  const std::int64_t i = item_index();
  if (i >= input.num_rows) return;
  const auto row = static_cast<std::int32_t>(i);
  const std::uint64_t segment = input.segments == nullptr ? 0 : static_cast<std::uint64_t>(find_segment(input, row));
  keys[i] = segment << kScoreBits | falling_key(input.scores[i]);
  rows[i] = row;
}

__global__ void __launch_bounds__(kBlock)
    flag_top_kernel(const SelectInput input, std::int32_t k, const std::uint64_t* __restrict__ keys,
                    const std::int32_t* __restrict__ rows, std::uint8_t* __restrict__ flags) {
  const std::int64_t i = item_index();
  if (i >= input.num_rows) return;
  bool is_selected = i < k;
  if (input.segments != nullptr) {
    const auto segment = static_cast<std::int32_t>(keys[i] >> kScoreBits);
    is_selected = false;
    if (segment < input.num_segments) {
      const std::int64_t rank = i - (std::int64_t{input.segments[segment]} - input.segments[0]);
      is_selected = rank >= 0 && rank < k;  // at most k rows of a segment, even with offsets that make no sense
    }
  }
  flags[rows[i]] = is_selected ? 1 : 0;
}

__global__ void __launch_bounds__(kBlock)
    flag_above_kernel(const SelectInput input, float threshold, std::uint8_t* __restrict__ flags) {
  const std::int64_t i = item_index();
  if (i < input.num_rows) flags[i] = input.scores[i] > threshold ? 1 : 0;
}

__global__ void __launch_bounds__(kBlock)
    part_sizes_kernel(const SelectInput input, std::int32_t k, std::int32_t* __restrict__ sizes) {
  const std::int64_t i = item_index();
  if (i > input.num_segments) return;
  std::int64_t size = 0;
  if (i < input.num_segments) {
    size = std::int64_t{input.segments[i + 1]} - input.segments[i];
    size = size < 0 ? 0 : size < k ? size : k;
  }
  sizes[i] = static_cast<std::int32_t>(size);
}

__global__ void __launch_bounds__(kBlock) gather_slots_kernel(const GatherParams params) {
  const std::int64_t i = item_index();
  if (i >= params.num_rows) return;
  Slot slot = kSkipSlot;
  if (params.count == nullptr || i < *params.count) {
    const std::int32_t row = params.rows[i];
    if (row >= 0 && row < params.num_slots) slot = params.slots[row];
  }
  params.target[i] = slot;
}

struct SortedRows {
  const std::uint64_t* keys;
  const std::int32_t* rows;
};

[[nodiscard]] cudaError_t sort_rows(const SelectInput& input, const SelectWorkspace& workspace, cudaStream_t stream,
                                    SortedRows* sorted) {
  make_keys_kernel<<<num_blocks(input.num_rows), kBlock, 0, stream>>>(input, workspace.keys[0], workspace.rows[0]);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const std::uint32_t last_segment = input.segments == nullptr ? 0 : static_cast<std::uint32_t>(input.num_segments);
  cub::DoubleBuffer<std::uint64_t> keys(workspace.keys[0], workspace.keys[1]);
  cub::DoubleBuffer<std::int32_t> rows(workspace.rows[0], workspace.rows[1]);
  std::size_t temp_bytes = workspace.temp_bytes;
  const cudaError_t error =
      cub::DeviceRadixSort::SortPairs(workspace.temp, temp_bytes, keys, rows, input.num_rows, 0,
                                      kScoreBits + static_cast<int>(std::bit_width(last_segment)), stream);
  *sorted = {keys.Current(), rows.Current()};
  return error;
}

/// Indices of flags that are set.
[[nodiscard]] cudaError_t compact(void* temp, std::size_t& temp_bytes, const std::uint8_t* flags, std::int32_t num_rows,
                                  std::int32_t* rows, std::int32_t* count, cudaStream_t stream) {
  return cub::DeviceSelect::Flagged(temp, temp_bytes, thrust::counting_iterator<std::int32_t>(0), flags, rows, count,
                                    num_rows, stream);
}

}  // namespace

cudaError_t query_select_temp_bytes(std::int32_t max_rows, std::int32_t max_segments, std::size_t* temp_bytes) {
  // What each needs grows with the number of items and of bits; CUB refuses a call that gets too little.
  std::size_t sort_bytes = 0;
  std::size_t compact_bytes = 0;
  std::size_t scan_bytes = 0;
  cub::DoubleBuffer<std::uint64_t> keys;
  cub::DoubleBuffer<std::int32_t> rows;
  cudaError_t error = cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, rows, max_rows);
  if (error != cudaSuccess) return error;
  error = compact(nullptr, compact_bytes, nullptr, max_rows, nullptr, nullptr, nullptr);
  if (error != cudaSuccess) return error;
  std::int32_t* const sizes = nullptr;
  error = cub::DeviceScan::ExclusiveSum(nullptr, scan_bytes, sizes, sizes, max_segments + 1);
  *temp_bytes = std::max({sort_bytes, compact_bytes, scan_bytes});
  return error;
}

cudaError_t select_top(const SelectInput& input, std::int32_t k, std::int32_t* rows, const SelectWorkspace& workspace,
                       cudaStream_t stream) {
  SortedRows sorted{};
  if (const cudaError_t error = sort_rows(input, workspace, stream, &sorted); error != cudaSuccess) return error;
  flag_top_kernel<<<num_blocks(input.num_rows), kBlock, 0, stream>>>(input, k, sorted.keys, sorted.rows,
                                                                     workspace.flags);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  std::size_t temp_bytes = workspace.temp_bytes;
  return compact(workspace.temp, temp_bytes, workspace.flags, input.num_rows, rows, workspace.num_selected, stream);
}

cudaError_t scan_part_sizes(const SelectInput& input, std::int32_t k, std::int32_t* row_offsets,
                            const SelectWorkspace& workspace, cudaStream_t stream) {
  const std::int32_t num_sizes = input.num_segments + 1;
  part_sizes_kernel<<<num_blocks(num_sizes), kBlock, 0, stream>>>(input, k, workspace.part_sizes);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  std::size_t temp_bytes = workspace.temp_bytes;
  return cub::DeviceScan::ExclusiveSum(workspace.temp, temp_bytes, workspace.part_sizes, row_offsets, num_sizes,
                                       stream);
}

cudaError_t select_above(const SelectInput& input, float threshold, std::int32_t* rows, std::int32_t* count,
                         const SelectWorkspace& workspace, cudaStream_t stream) {
  flag_above_kernel<<<num_blocks(input.num_rows), kBlock, 0, stream>>>(input, threshold, workspace.flags);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  std::size_t temp_bytes = workspace.temp_bytes;
  return compact(workspace.temp, temp_bytes, workspace.flags, input.num_rows, rows, count, stream);
}

cudaError_t order_rows(const SelectInput& input, std::int32_t* rows, const SelectWorkspace& workspace,
                       cudaStream_t stream) {
  SortedRows sorted{};
  if (const cudaError_t error = sort_rows(input, workspace, stream, &sorted); error != cudaSuccess) return error;
  return cudaMemcpyAsync(rows, sorted.rows, static_cast<std::size_t>(input.num_rows) * sizeof(*rows),
                         cudaMemcpyDeviceToDevice, stream);
}

cudaError_t gather_slots(const GatherParams& params, cudaStream_t stream) {
  gather_slots_kernel<<<num_blocks(params.num_rows), kBlock, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace pikv::kernels
