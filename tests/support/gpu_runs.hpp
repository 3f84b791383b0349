// What tests of the GPU engine share.
#pragma once

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "mini_engine/gpu/cudnn_attention.hpp"

namespace test_support {

/// Says so when there is none.
inline bool has_gpu() {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) == cudaSuccess && num_devices > 0) return true;
  std::printf("SKIPPED: no CUDA device\n");
  return false;
}

/// Says so when the build has none. Not with the word that marks a whole program as skipped: its other tests run.
inline bool has_cudnn() {
  if (mini_engine::gpu::has_cudnn_attention()) return true;
  std::printf("LEFT OUT: this build has no cuDNN attention to test (PIKV_CUDNN)\n");
  return false;
}

/// ||a - b|| / ||b||
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace test_support
