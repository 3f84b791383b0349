// From CUDA's errors to pikv's.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "pikv/status.hpp"

namespace pikv::detail {

/// OK, or what `call` said. Clears CUDA's note of the error, so that the host application does not find it later.
[[nodiscard]] inline Status cuda_status(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  const auto code = [error] {
    switch (error) {
      case cudaErrorMemoryAllocation:
        return ErrorCode::kOutOfMemory;
      case cudaErrorNoDevice:
      case cudaErrorInvalidDevice:
      case cudaErrorInsufficientDriver:
      case cudaErrorDevicesUnavailable:
      case cudaErrorInitializationError:
      case cudaErrorSystemNotReady:
      case cudaErrorSystemDriverMismatch:
      case cudaErrorOperatingSystem:
        return ErrorCode::kUnavailable;
      default:
        return ErrorCode::kDeviceError;
    }
  }();
  return Status(code, std::string(call) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

/// Selects a device for the current scope and puts back what was selected.
class DeviceScope {
 public:
  explicit DeviceScope(int device) noexcept {
    if (cudaGetDevice(&previous_) != cudaSuccess) previous_ = device;
    if (previous_ != device) error_ = cudaSetDevice(device);
    changed_ = previous_ != device;
  }
  ~DeviceScope() {
    if (changed_) (void)cudaSetDevice(previous_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  [[nodiscard]] Status status() const { return cuda_status(error_, "cudaSetDevice"); }

 private:
  int previous_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace pikv::detail
