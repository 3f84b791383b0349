// Host functions that find drift on the device and correct it. Each queues kernels on `stream` and returns: no
// allocation, no synchronisation. Sizes have been validated, contents of device arrays not.
#pragma once

#include <cuda_runtime_api.h>

#include "drift_params.hpp"

namespace pikv::kernels {

/// Does nothing for no rows.
[[nodiscard]] cudaError_t launch_read_rows(const ReadRowsParams& params, cudaStream_t stream);
/// Requires: samples.
[[nodiscard]] cudaError_t launch_weigh_rows(const WeighRowsParams& params, cudaStream_t stream);
/// Requires: samples, targets.
[[nodiscard]] cudaError_t launch_move_rows(const MoveRowsParams& params, cudaStream_t stream);

}  // namespace pikv::kernels
