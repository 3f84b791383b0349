#include <cuda_bf16.h>

#include "device_weights.hpp"
#include "numbers.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2048;

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
__device__ std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

template <class T>
__global__ void fill_random_kernel(T* out, std::int64_t count, float scale, std::uint64_t seed) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{kBlocks} * kThreads) {
    const std::uint64_t bits = mix(seed + static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL);
    store(out + i, (static_cast<float>(bits >> 40) * 0x1p-23F - 1.0F) * scale);
  }
}

__global__ void fill_kernel(float* out, std::int64_t count, float value) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{kBlocks} * kThreads) {
    out[i] = value;
  }
}

}  // namespace

template <class T>
void fill_random(T* out, std::int64_t count, float scale, std::uint64_t seed, cudaStream_t stream) {
  fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(out, count, scale, seed);
  check(cudaGetLastError(), "fill_random");
}
template void fill_random<float>(float*, std::int64_t, float, std::uint64_t, cudaStream_t);
template void fill_random<__nv_bfloat16>(__nv_bfloat16*, std::int64_t, float, std::uint64_t, cudaStream_t);

void fill(float* out, std::int64_t count, float value, cudaStream_t stream) {
  fill_kernel<<<kBlocks, kThreads, 0, stream>>>(out, count, value);
  check(cudaGetLastError(), "fill");
}

}  // namespace mini_engine::gpu
