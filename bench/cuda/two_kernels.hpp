// The usual way to put keys and values into pages, as a baseline: one kernel turns a layer's keys into a buffer,
// another appends keys and values to the paged cache. Written as engines' kernels are: accesses of 16 bytes, fp32
// table, one pair of launches for each layer.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pikv_bench {

struct TwoKernels {
  const void* keys;    ///< [L] layers `layer_elements` apart, each [T][H][D] bf16
  const void* values;  ///< likewise
  std::int64_t layer_elements;
  void* turned_keys;  ///< [T][H][D] bf16, for one layer
  void* k_pages;      ///< [L] layers `page_layer_elements` apart, each [P][S][H][D] bf16
  void* v_pages;
  std::int64_t page_layer_elements;
  const std::int32_t* pages;  ///< [ceil(T/S)]
  const float* table;         ///< [positions][2][D/2]
  std::int32_t first_position;
  std::int32_t num_layers, num_tokens, num_heads, head_dim, page_size;
};

/// Queues 2 * num_layers kernels.
cudaError_t run_two_kernels(const TwoKernels& job, cudaStream_t stream);

}  // namespace pikv_bench
