#include "ops.hpp"

#include <cuda_bf16.h>

#include "device.hpp"

namespace mini_engine::gpu {
namespace {

constexpr int kThreads = 256;

__device__ float load(const float* p) { return *p; }
__device__ float load(const __nv_bfloat16* p) { return __bfloat162float(*p); }
__device__ void store(float* p, float value) { *p = value; }
__device__ void store(__nv_bfloat16* p, float value) { *p = __float2bfloat16_rn(value); }

/// 16 bytes of T, as numbers.
template <class T>
struct Vector {
  static constexpr int kSize = 16 / sizeof(T);
  float values[kSize];

  static __device__ Vector read(const T* p) {
    const uint4 words = *reinterpret_cast<const uint4*>(p);
    const T* const elements = reinterpret_cast<const T*>(&words);
    Vector out;
#pragma unroll
    for (int i = 0; i < kSize; ++i) out.values[i] = load(elements + i);
    return out;
  }
  __device__ void write(T* p) const {
    uint4 words;
    T* const elements = reinterpret_cast<T*>(&words);
#pragma unroll
    for (int i = 0; i < kSize; ++i) store(elements + i, values[i]);
    *reinterpret_cast<uint4*>(p) = words;
  }
};

/// Of the block, in every thread.
__device__ float block_sum(float value) {
  __shared__ float parts[kThreads / 32];
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0U, value, apart);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (float part : parts) value += part;
  return value;
}

template <class T>
__global__ void copy_rows(const T* from, const std::uint32_t* chosen, std::int64_t size, T* out) {
  const T* const row = from + chosen[blockIdx.x] * size;
  T* const target = out + blockIdx.x * size;
  for (std::int64_t i = threadIdx.x * Vector<T>::kSize; i < size; i += kThreads * Vector<T>::kSize) {
    *reinterpret_cast<uint4*>(target + i) = *reinterpret_cast<const uint4*>(row + i);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void rmsnorm_kernel(const T* x, const std::int32_t* chosen, std::int64_t size,
                                                           const float* weight, float eps, T* out) {
  const T* const row = x + (chosen == nullptr ? std::int64_t{blockIdx.x} : chosen[blockIdx.x]) * size;
  T* const target = out + blockIdx.x * size;
  constexpr int kStep = kThreads * Vector<T>::kSize;
  float sum = 0;
  for (std::int64_t i = threadIdx.x * Vector<T>::kSize; i < size; i += kStep) {
    const Vector<T> vector = Vector<T>::read(row + i);
#pragma unroll
    for (float value : vector.values) sum += value * value;
  }
  const float factor = rsqrtf(block_sum(sum) / static_cast<float>(size) + eps);
  for (std::int64_t i = threadIdx.x * Vector<T>::kSize; i < size; i += kStep) {  // again out of the caches
    Vector<T> vector = Vector<T>::read(row + i);
#pragma unroll
    for (int j = 0; j < Vector<T>::kSize; ++j) vector.values[j] *= factor * weight[i + j];
    vector.write(target + i);
  }
}

/// A block a row; a thread takes pairs of one head after the other, then values.
template <class T>
__global__ __launch_bounds__(kThreads) void rotate_and_store_kernel(T* projected, HeadSizes sizes,
                                                                    const std::int32_t* positions,
                                                                    const std::int64_t* slots, const float* cos,
                                                                    const float* sin, CacheLayer cache) {
  const std::int32_t half = sizes.head_dim / 2;
  T* const row = projected + blockIdx.x * std::int64_t{sizes.num_heads + 2 * sizes.num_kv_heads} * sizes.head_dim;
  const std::int64_t slot = slots[blockIdx.x];
  T* const place = static_cast<T*>(cache.data) + slot / cache.page_size * cache.page_stride +
                   slot % cache.page_size * cache.token_stride;
  const std::int64_t angles = std::int64_t{positions[blockIdx.x]} * half;
  const std::int32_t num_turning = (sizes.num_heads + sizes.num_kv_heads) * half;
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < num_turning; i += kThreads) {
    const std::int32_t head = i / half;
    const std::int32_t pair = i % half;
    T* const from = row + std::int64_t{head} * sizes.head_dim;
    T* const to = head < sizes.num_heads ? from : place + (head - sizes.num_heads) * cache.head_stride;
    const float c = cos[angles + pair];
    const float s = sin[angles + pair];
    const float first = load(from + pair);
    const float second = load(from + half + pair);
    store(to + pair, first * c - second * s);
    store(to + half + pair, second * c + first * s);
  }
  const T* const values = row + std::int64_t{sizes.num_heads + sizes.num_kv_heads} * sizes.head_dim;
  for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < sizes.num_kv_heads * sizes.head_dim;
       i += kThreads) {
    place[cache.value_offset + i / sizes.head_dim * cache.head_stride + i % sizes.head_dim] = values[i];
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void silu_multiply_kernel(const T* gate_up, std::int64_t num_vectors,
                                                                 std::int64_t row_vectors, T* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= num_vectors) return;
  constexpr int kSize = Vector<T>::kSize;
  const T* const gate = gate_up + (i / row_vectors * 2 * row_vectors + i % row_vectors) * kSize;
  Vector<T> gates = Vector<T>::read(gate);
  const Vector<T> ups = Vector<T>::read(gate + row_vectors * kSize);
#pragma unroll
  for (int j = 0; j < kSize; ++j) gates.values[j] *= ups.values[j] / (1.0F + __expf(-gates.values[j]));
  gates.write(out + i * kSize);
}

unsigned blocks_of(std::int64_t count) { return static_cast<unsigned>(count); }

}  // namespace

template <class T>
void embed(const T* table, const TokenId* tokens, std::int64_t num_rows, std::int64_t size, T* out,
           cudaStream_t stream) {
  copy_rows<<<blocks_of(num_rows), kThreads, 0, stream>>>(table, tokens, size, out);
  check(cudaGetLastError(), "embed");
}

template <class T>
void gather_rows(const T* x, const std::int32_t* chosen, std::int64_t num_rows, std::int64_t size, T* out,
                 cudaStream_t stream) {
  if (num_rows == 0) return;
  copy_rows<<<blocks_of(num_rows), kThreads, 0, stream>>>(x, reinterpret_cast<const std::uint32_t*>(chosen), size, out);
  check(cudaGetLastError(), "gather_rows");
}

template <class T>
void rmsnorm(const T* x, const std::int32_t* chosen, std::int64_t num_rows, std::int64_t size, const float* weight,
             float eps, T* out, cudaStream_t stream) {
  if (num_rows == 0) return;
  rmsnorm_kernel<<<blocks_of(num_rows), kThreads, 0, stream>>>(x, chosen, size, weight, eps, out);
  check(cudaGetLastError(), "rmsnorm");
}

template <class T>
void rotate_and_store(T* projected, const HeadSizes& sizes, const std::int32_t* positions, const std::int64_t* slots,
                      std::int64_t num_rows, const float* cos, const float* sin, const CacheLayer& cache,
                      cudaStream_t stream) {
  rotate_and_store_kernel<<<blocks_of(num_rows), kThreads, 0, stream>>>(projected, sizes, positions, slots, cos, sin,
                                                                        cache);
  check(cudaGetLastError(), "rotate_and_store");
}

template <class T>
void silu_multiply(const T* gate_up, std::int64_t num_rows, std::int64_t size, T* out, cudaStream_t stream) {
  if (num_rows == 0) return;
  const std::int64_t row_vectors = size / Vector<T>::kSize;
  const std::int64_t num_vectors = num_rows * row_vectors;
  silu_multiply_kernel<<<blocks_of((num_vectors + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      gate_up, num_vectors, row_vectors, out);
  check(cudaGetLastError(), "silu_multiply");
}

#define MINI_ENGINE_OPS_OF(T)                                                                                     \
  template void embed<T>(const T*, const TokenId*, std::int64_t, std::int64_t, T*, cudaStream_t);                 \
  template void gather_rows<T>(const T*, const std::int32_t*, std::int64_t, std::int64_t, T*, cudaStream_t);      \
  template void rmsnorm<T>(const T*, const std::int32_t*, std::int64_t, std::int64_t, const float*, float, T*,    \
                           cudaStream_t);                                                                         \
  template void rotate_and_store<T>(T*, const HeadSizes&, const std::int32_t*, const std::int64_t*, std::int64_t, \
                                    const float*, const float*, const CacheLayer&, cudaStream_t);                 \
  template void silu_multiply<T>(const T*, std::int64_t, std::int64_t, T*, cudaStream_t);
MINI_ENGINE_OPS_OF(float)
MINI_ENGINE_OPS_OF(__nv_bfloat16)
#undef MINI_ENGINE_OPS_OF

}  // namespace mini_engine::gpu
