// cuDNN's attention in place of the engine's own where it computes the same: a peer to measure against, and a way out
// on a card that the own kernels were not tuned for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>

#include "attention.hpp"

namespace mini_engine::gpu {

/// Whether this build has it: cuDNN and the headers of its frontend were found.
[[nodiscard]] bool has_cudnn_attention();

/// bf16 only. Its graphs are built when a shape is first met, which takes longer than a pass of few rows, and kept. Not
/// for capture into a CUDA graph: lengths come from memory that a later call overwrites. One thread and one stream at a
/// time.
class CudnnAttention {
 public:
  /// Throws Error in a build without cuDNN, and when the library finds no device.
  explicit CudnnAttention(const HeadSizes& sizes);
  ~CudnnAttention();
  CudnnAttention(CudnnAttention&&) noexcept;
  CudnnAttention& operator=(CudnnAttention&&) noexcept;

  /// Whether the batch is of a kind that cuDNN computes over pages: rows of one sequence that follow on each
  /// other, without documents. positions: as Attention::plan() takes them.
  [[nodiscard]] static bool can_compute(std::span<const AttentionSequence> sequences,
                                        std::span<const std::int32_t> positions) {
    return sequences.size() == 1 && sequences[0].first_document < 0 &&
           positions.back() - positions.front() + 1 == sequences[0].num_rows;  // they ascend
  }

  /// As Attention's, for the only sequence of a batch that can_compute() is true for; `num_keys` is what its last row
  /// sees. What lies in its last page beyond the keys must be finite: it may be multiplied by weights of zero.
  void operator()(const AttentionBatch& batch, const AttentionSequence& sequence, std::int32_t num_keys,
                  const CacheLayer& cache, const void* queries, std::int64_t query_stride, void* out,
                  cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine::gpu
