#include <cuda_runtime_api.h>

#include <memory>
#include <new>

#include "cuda/drift_params.hpp"
#include "cuda/error.hpp"
#include "cuda/reach.hpp"
#include "cuda/workspace.hpp"
#include "drift_checks.hpp"
#include "kernels/drift.hpp"
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::Carver;
using detail::cuda_status;
using detail::DeviceScope;

class CudaDriftCorrector final : public DriftCorrector {
 public:
  explicit CudaDriftCorrector(const CudaDriftCorrectorOptions& options) noexcept
      : device_(options.device), workspace_(*options.memory) {}

  MemorySpace space() const noexcept override { return MemorySpace::kDevice; }

  Status weigh_async(const DriftWeighing& weighing, StreamRef stream) override {
    return run(weighing, stream, [](const detail::WeighLaunches& launches, cudaStream_t queue) -> Status {
      for (const kernels::ReadRowsParams* rows : {&launches.samples, &launches.targets}) {
        PIKV_TRY(cuda_status(kernels::launch_read_rows(*rows, queue), "rows of a weighing"));
      }
      return cuda_status(kernels::launch_weigh_rows(launches.weigh, queue), "weighing of rows");
    });
  }

  Status correct_async(const DriftCorrection& correction, StreamRef stream) override {
    return run(correction, stream, [](const detail::CorrectLaunches& launches, cudaStream_t queue) -> Status {
      PIKV_TRY(cuda_status(kernels::launch_read_rows(launches.differences, queue), "drift of samples"));
      return cuda_status(kernels::launch_move_rows(launches.move, queue), "correction of rows");
    });
  }

 private:
  /// launch: of what the call comes to in its workspace.
  template <class T, class Launch>
  [[nodiscard]] Status run(const T& call, StreamRef stream, const Launch& launch) {
    PIKV_TRY(detail::check_drift(call, {.name = "cuda", .space = MemorySpace::kDevice, .asynchronous = true}));
    PIKV_TRY(detail::check_reach(call));
    if (!detail::has_work(call)) return {};
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    Carver counter(nullptr);
    (void)detail::drift_launches(call, counter);
    std::byte* memory = nullptr;
    PIKV_TRY(workspace_.reserve(counter.used_bytes(), stream, &memory));
    Carver carver(memory);
    return launch(detail::drift_launches(call, carver), static_cast<cudaStream_t>(stream.handle()));
  }

  const int device_;
  detail::Workspace workspace_;
};

}  // namespace

Result<std::unique_ptr<DriftCorrector>> make_cuda_drift_corrector(const CudaDriftCorrectorOptions& options) {
  PIKV_TRY(detail::check_workspace_memory("make_cuda_drift_corrector", options.memory));
  const DeviceScope scope(options.device);
  PIKV_TRY(scope.status());
  std::unique_ptr<DriftCorrector> corrector(new (std::nothrow) CudaDriftCorrector(options));
  if (corrector == nullptr) return out_of_memory("make_cuda_drift_corrector: no host memory for its state");
  return corrector;
}

}  // namespace v0
}  // namespace pikv
