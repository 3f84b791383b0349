// Attention of some rows of several sequences over their paged K and V, by position.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "attention_plan.hpp"
#include "device.hpp"
#include "mini_engine/types.hpp"
#include "ops.hpp"

namespace mini_engine::gpu {

/// What does not change from layer to layer. Device pointers.
struct AttentionBatch {
  const std::int32_t* positions;  ///< [R] of each row in its sequence, ascending within a sequence
  const std::int32_t* pages;
  const std::int32_t* documents;  ///< of each key of a sequence, as Pass says; may be null when none is named
};

/// softmax(q k^T / sqrt(D)) v in fp32 over K and V of whatever precision the cache has. The query heads that share a KV
/// head are stacked, so that K and V are read once for all of them. Where rows are few, the keys are split over blocks,
/// whose partial outputs are merged by their log-sum-exp; the same call gives the same bits every time. Owns its
/// scratch; one thread at a time.
class Attention {
 public:
  Attention(Precision precision, const HeadSizes& sizes);

  /// Lays out the work of a batch, once for all its layers. positions: [R] as in AttentionBatch, in host memory.
  /// Uploads on `stream`.
  void plan(std::span<const AttentionSequence> sequences, std::span<const std::int32_t> positions, cudaStream_t stream);

  /// What the launches of the plan depend on, beside the arguments of the call.
  [[nodiscard]] std::vector<std::uint64_t> signature() const;

  /// queries: [R] rows of [Q][D], `query_stride` elements apart, rotated. out: [R][Q][D] without gaps, both of the
  /// class's precision. Rows of the sequences up to the last position must hold their K and V.
  void operator()(const AttentionBatch& batch, const CacheLayer& cache, const void* queries, std::int64_t query_stride,
                  void* out, cudaStream_t stream);

 private:
  enum class Kernel : std::uint8_t { kPlain, kNarrow, kWide };

  Precision precision_;
  HeadSizes sizes_;
  Kernel kernel_ = Kernel::kPlain;
  std::int64_t num_rows_ = 0;
  std::int32_t num_items_ = 0;
  bool merges_ = false;
  DeviceBuffer items_;            // [num_items_] AttentionItem
  DeviceBuffer row_splits_;       // [R]
  DeviceBuffer partial_outputs_;  // [splits][R][Q][D] fp32
  DeviceBuffer partial_lses_;     // [splits][R][Q] fp32
};

}  // namespace mini_engine::gpu
