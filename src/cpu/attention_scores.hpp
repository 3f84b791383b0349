// Attention weights of some rows over a cache, summed by key and by segment, on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "pikv/row_scores.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {

/// Keeps its scratch from call to call.
class AttentionScores {
 public:
  AttentionScores(ThreadPool& pool, const RowKernels& kernels) noexcept : pool_(pool), kernels_(kernels) {}

  /// Requires: `scoring` has been checked, arrays included, has rows, and asks for something. Throws std::bad_alloc,
  /// before anything is written.
  void add(const AttentionScoring& scoring);

 private:
  class Call;

  /// Neighbouring keys of one segment, so that their weights are summed by vectors.
  struct SegmentRun {
    std::int64_t begin;
    std::int64_t end;
    std::int32_t segment;
  };

  ThreadPool& pool_;
  const RowKernels& kernels_;
  std::vector<SegmentRun> segment_runs_;
  std::vector<float> keys_;            // [H][tiles][D][kTileKeys]
  std::vector<float> key_parts_;       // [H][parts][padded keys]: sums of weights
  std::vector<float> segment_parts_;   // [H][R][num_segments]
  std::vector<float> worker_scratch_;  // [workers] what a worker needs for one block of rows
};

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
