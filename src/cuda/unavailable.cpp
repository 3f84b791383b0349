// pikv/cuda.hpp in a build without CUDA: callers choose at run time, so everything is there and says no.
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

Status built_without_cuda() { return unsupported("this pikv was built without CUDA (PIKV_CUDA=OFF, or no nvcc)"); }

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaBackendOptions& /*options*/) {
  return built_without_cuda();
}
Result<std::unique_ptr<MemoryResource>> make_cuda_device_memory(int /*device*/) { return built_without_cuda(); }
Result<std::unique_ptr<MemoryResource>> make_cuda_pinned_memory(std::size_t /*block_bytes*/) {
  return built_without_cuda();
}
Result<std::unique_ptr<RowSelector>> make_cuda_row_selector(const CudaRowSelectorOptions& /*options*/) {
  return built_without_cuda();
}
Result<std::unique_ptr<RowScorer>> make_cuda_row_scorer(const CudaRowScorerOptions& /*options*/) {
  return built_without_cuda();
}
Result<std::unique_ptr<DriftCorrector>> make_cuda_drift_corrector(const CudaDriftCorrectorOptions& /*options*/) {
  return built_without_cuda();
}

}  // namespace v0
}  // namespace pikv
