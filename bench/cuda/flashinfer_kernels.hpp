// The same work as two_kernels.hpp by FlashInfer's own kernels, where its headers are at hand.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "two_kernels.hpp"

namespace pikv_bench {

/// What FlashInfer is told in arrays, for one request whose tokens go to the positions from job.first_position on.
/// In device memory, int32.
struct FlashInferIndices {
  std::int32_t* position_ids;   ///< [T] first_position + i
  std::int32_t* batch_indices;  ///< [T] 0
  std::int32_t* positions;      ///< [T] i
  std::int32_t* page_begins;    ///< [2] 0, number of pages
  std::int32_t* last_page_len;  ///< [1]
};

/// Whether the program was built with FlashInfer's headers (PIKV_FLASHINFER_INCLUDE).
[[nodiscard]] bool has_flashinfer() noexcept;

/// Queues 2 * num_layers kernels: RoPE of the keys by fp32 table, then the append to the paged cache.
cudaError_t run_flashinfer(const TwoKernels& job, const FlashInferIndices& indices, cudaStream_t stream);

}  // namespace pikv_bench
