// What every GPU benchmark needs, whatever it measures: a device or a loud skip, the time of day, medians.
#pragma once

#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <vector>

namespace pikv_bench {

/// Seconds since some moment, for wall time.
[[nodiscard]] inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

[[nodiscard]] inline double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2), samples.end());
  return samples[samples.size() / 2];
}

/// main() of a GPU benchmark: `register_all` runs once there is a device.
inline int run_gpu_benchmarks(int argc, char** argv, const std::function<void()>& register_all) {
  int num_devices = 0;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) {
    std::printf("SKIPPED, nothing was measured: %s\n", cudaGetErrorString(error));
    return 0;
  }
  benchmark::AddCustomContext("gpu", properties.name);
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace pikv_bench
