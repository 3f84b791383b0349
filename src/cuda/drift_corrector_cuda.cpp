#include <cuda_runtime_api.h>

#include <memory>
#include <new>

#include "cuda/error.hpp"
#include "cuda/reach.hpp"
#include "cuda/score_params.hpp"
#include "drift_checks.hpp"
#include "kernels/score.hpp"
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::DeviceScope;

class CudaDriftCorrector final : public DriftCorrector {
 public:
  explicit CudaDriftCorrector(int device) noexcept : device_(device) {}

  MemorySpace space() const noexcept override { return MemorySpace::kDevice; }

  Status correct_async(const DriftCorrection& correction, StreamRef stream) override {
    PIKV_TRY(detail::check_drift(correction, {.name = "cuda", .space = MemorySpace::kDevice, .asynchronous = true}));
    PIKV_TRY(detail::check_reach(correction));
    if (!detail::has_work(correction)) return {};
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    return detail::cuda_status(
        kernels::launch_drift(detail::drift_params(correction), static_cast<cudaStream_t>(stream.handle())),
        "drift of rows");
  }

 private:
  const int device_;
};

}  // namespace

Result<std::unique_ptr<DriftCorrector>> make_cuda_drift_corrector(int device) {
  const DeviceScope scope(device);
  PIKV_TRY(scope.status());
  std::unique_ptr<DriftCorrector> corrector(new (std::nothrow) CudaDriftCorrector(device));
  if (corrector == nullptr) return out_of_memory("make_cuda_drift_corrector: no host memory for its state");
  return corrector;
}

}  // namespace v0
}  // namespace pikv
