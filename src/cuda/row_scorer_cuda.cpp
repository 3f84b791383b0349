#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <new>

#include "cuda/error.hpp"
#include "cuda/reach.hpp"
#include "cuda/score_params.hpp"
#include "cuda/workspace.hpp"
#include "kernels/score.hpp"
#include "pikv/cuda.hpp"
#include "row_score_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::cuda_status;
using detail::DeviceScope;

cudaStream_t stream_of(StreamRef stream) noexcept { return static_cast<cudaStream_t>(stream.handle()); }

class CudaRowScorer final : public RowScorer {
 public:
  explicit CudaRowScorer(const CudaRowScorerOptions& options) noexcept
      : device_(options.device), workspace_(*options.memory) {}

  MemorySpace space() const noexcept override { return MemorySpace::kDevice; }

  Status add_deviation_async(const DeviationScoring& scoring, StreamRef stream) override {
    PIKV_TRY(detail::check_deviation(scoring, caps()));
    PIKV_TRY(detail::check_reach(scoring));
    if (scoring.scores.empty()) return {};
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    return cuda_status(kernels::launch_deviation(detail::deviation_params(scoring), stream_of(stream)),
                       "deviation of rows");
  }

  Status add_attention_async(const AttentionScoring& scoring, StreamRef stream) override {
    PIKV_TRY(detail::check_attention(scoring, caps()));
    PIKV_TRY(detail::check_reach(scoring));
    if (scoring.query_rows.empty() || (scoring.key_scores.empty() && scoring.segment_scores.empty())) return {};
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    kernels::AttentionParams params = detail::attention_params(scoring);
    std::byte* workspace = nullptr;
    PIKV_TRY(workspace_.reserve(detail::workspace_bytes(params), stream, &workspace));
    detail::place_workspace(params, workspace);
    return cuda_status(kernels::launch_attention(params, stream_of(stream)), "attention of rows");
  }

 private:
  static BackendCaps caps() noexcept { return {.name = "cuda", .space = MemorySpace::kDevice, .asynchronous = true}; }

  const int device_;
  detail::Workspace workspace_;
};

}  // namespace

Result<std::unique_ptr<RowScorer>> make_cuda_row_scorer(const CudaRowScorerOptions& options) {
  PIKV_TRY(detail::check_workspace_memory("make_cuda_row_scorer", options.memory));
  const DeviceScope scope(options.device);
  PIKV_TRY(scope.status());
  std::unique_ptr<RowScorer> scorer(new (std::nothrow) CudaRowScorer(options));
  if (scorer == nullptr) return out_of_memory("make_cuda_row_scorer: no host memory for its state");
  return scorer;
}

}  // namespace v0
}  // namespace pikv
