// Host functions that select rows by score on the device. Each queues kernels and copies on `stream` and returns: no
// allocation, no synchronisation, capturable in a graph. Sizes have been validated, contents of device arrays not.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace pikv::kernels {

/// Device memory that every selection uses, of sizes for the largest one.
struct SelectWorkspace {
  std::uint64_t* keys[2] = {};           ///< [max_rows] each
  std::int32_t* rows[2] = {};            ///< [max_rows] each
  std::uint8_t* flags = nullptr;         ///< [max_rows]
  std::int32_t* part_sizes = nullptr;    ///< [max_segments + 1]
  std::int32_t* num_selected = nullptr;  ///< [1]
  void* temp = nullptr;                  ///< [temp_bytes], aligned to 256
  std::size_t temp_bytes = 0;
};

/// [num_rows] scores and, unless segments is null, [num_segments + 1] offsets of segments among them.
struct SelectInput {
  const float* scores = nullptr;
  std::int32_t num_rows = 0;
  const std::int32_t* segments = nullptr;
  std::int32_t num_segments = 0;
};

/// What SelectWorkspace::temp needs on the current device. Requires: max_rows > 0, max_segments >= 0.
[[nodiscard]] cudaError_t query_select_temp_bytes(std::int32_t max_rows, std::int32_t max_segments,
                                                  std::size_t* temp_bytes);

/// The k best rows of each segment, or of all rows, into `rows`. Writes no more than min(max(num_segments, 1) * k,
/// num_rows) of them, whatever the offsets are. Requires: num_rows > 0, k > 0.
[[nodiscard]] cudaError_t select_top(const SelectInput& input, std::int32_t k, std::int32_t* rows,
                                     const SelectWorkspace& workspace, cudaStream_t stream);
/// [num_segments + 1] sums of min(k, length of segment), starting with 0.
[[nodiscard]] cudaError_t scan_part_sizes(const SelectInput& input, std::int32_t k, std::int32_t* row_offsets,
                                          const SelectWorkspace& workspace, cudaStream_t stream);
/// Requires: num_rows > 0.
[[nodiscard]] cudaError_t select_above(const SelectInput& input, float threshold, std::int32_t* rows,
                                       std::int32_t* count, const SelectWorkspace& workspace, cudaStream_t stream);
/// All rows, best first. Requires: num_rows > 0, no segments.
[[nodiscard]] cudaError_t order_rows(const SelectInput& input, std::int32_t* rows, const SelectWorkspace& workspace,
                                     cudaStream_t stream);

struct GatherParams {
  const std::int64_t* slots = nullptr;
  std::int64_t num_slots = 0;
  const std::int32_t* rows = nullptr;
  std::int32_t num_rows = 0;
  const std::int32_t* count = nullptr;  ///< null: all rows count
  std::int64_t* target = nullptr;
};
/// Requires: num_rows > 0.
[[nodiscard]] cudaError_t gather_slots(const GatherParams& params, cudaStream_t stream);

}  // namespace pikv::kernels
