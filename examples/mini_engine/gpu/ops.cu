#include "ops.hpp"

#include <cuda_bf16.h>

#include "launch.cuh"
#include "numbers.cuh"

namespace mini_engine::gpu {
namespace {

constexpr int kThreads = 256;

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

/// Four elements of T.
template <class T>
struct Four;
template <>
struct Four<float> {
  using Bits = uint4;
};
template <>
struct Four<__nv_bfloat16> {
  using Bits = uint2;
};

template <class T>
__device__ float4 read_four(const T* p) {
  const auto bits = *reinterpret_cast<const typename Four<T>::Bits*>(p);
  const T* const elements = reinterpret_cast<const T*>(&bits);
  return make_float4(load(elements), load(elements + 1), load(elements + 2), load(elements + 3));
}
template <class T>
__device__ void write_four(T* p, const float4& values) {
  typename Four<T>::Bits bits;
  T* const elements = reinterpret_cast<T*>(&bits);
  store(elements, values.x);
  store(elements + 1, values.y);
  store(elements + 2, values.z);
  store(elements + 3, values.w);
  *reinterpret_cast<typename Four<T>::Bits*>(p) = bits;
}

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
  let_next_kernel_start();
  wait_for_kernels_before();
  const T* const row = from + chosen[blockIdx.x] * size;
  T* const target = out + blockIdx.x * size;
  for (std::int64_t i = threadIdx.x * Vector<T>::kSize; i < size; i += kThreads * Vector<T>::kSize) {
    *reinterpret_cast<uint4*>(target + i) = *reinterpret_cast<const uint4*>(row + i);
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void embed_kernel(const T* table, const TokenId* tokens, std::int64_t size,
                                                         float* out) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const T* const row = table + tokens[blockIdx.x] * size;
  float* const target = out + blockIdx.x * size;
  for (std::int64_t i = threadIdx.x * 4; i < size; i += kThreads * 4) write_four(target + i, read_four(row + i));
}

/// A block a row. What a thread has read first stays in registers; longer rows are read again.
template <class T>
__global__ __launch_bounds__(kThreads) void rmsnorm_kernel(const float* x, std::int64_t size, const float* weight,
                                                           float eps, T* out) {
  constexpr int kStep = kThreads * 4;
  constexpr int kKept = 4;
  let_next_kernel_start();
  wait_for_kernels_before();
  const float* const row = x + blockIdx.x * size;
  T* const target = out + blockIdx.x * size;
  const std::int64_t first = threadIdx.x * 4;
  float4 kept[kKept];
  float sum = 0;
  const auto add_squares = [&](const float4& v) { sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (first + i * kStep >= size) continue;
    kept[i] = read_four(row + first + i * kStep);
    add_squares(kept[i]);
  }
  for (std::int64_t i = first + kKept * kStep; i < size; i += kStep) add_squares(read_four(row + i));
  const float factor = rsqrtf(block_sum(sum) / static_cast<float>(size) + eps);
  const auto write = [&](const float4& v, std::int64_t i) {
    const float4 w = read_four(weight + i);
    write_four(target + i, make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w));
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    if (first + i * kStep < size) write(kept[i], first + i * kStep);
  }
  for (std::int64_t i = first + kKept * kStep; i < size; i += kStep) write(read_four(row + i), i);
}

/// a * c + sign * b * s: the product that is added is rounded, the other is fused. So do the engines whose keys are to
/// be reproduced bit for bit; left to the compiler, it could be the other way round.
__device__ float4 turned(const float4& a, const float4& c, const float4& b, const float4& s, float sign) {
  const auto one = [sign](float ai, float ci, float bi, float si) {
    return __fmaf_rn(ai, ci, sign * __fmul_rn(bi, si));
  };
  return make_float4(one(a.x, c.x, b.x, s.x), one(a.y, c.y, b.y, s.y), one(a.z, c.z, b.z, s.z),
                     one(a.w, c.w, b.w, s.w));
}

/// A thread turns four pairs of one head, or moves four elements of a value. Heads first, then values.
template <class T>
__global__ __launch_bounds__(kThreads) void rotate_and_store_kernel(T* projected, HeadSizes sizes,
                                                                    const std::int32_t* positions,
                                                                    const std::int64_t* slots, std::int64_t num_rows,
                                                                    const float* cos, const float* sin,
                                                                    CacheLayer cache) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const auto half = static_cast<std::uint32_t>(sizes.head_dim) / 2;
  const std::uint32_t head_fours = half / 4;
  const auto num_queries = static_cast<std::uint32_t>(sizes.num_heads);
  const auto num_keys = static_cast<std::uint32_t>(sizes.num_kv_heads);
  const std::uint32_t num_turning = (num_queries + num_keys) * head_fours;
  const std::uint32_t row_fours = num_turning + num_keys * 2 * head_fours;
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t row_index = i / row_fours;
  if (row_index >= num_rows) return;
  const auto at = static_cast<std::uint32_t>(i - row_index * row_fours);
  const std::int64_t slot = slots[row_index];
  T* const place = static_cast<T*>(cache.data) + slot / cache.page_size * cache.page_stride +
                   slot % cache.page_size * cache.token_stride;
  T* const row = projected + row_index * (num_queries + 2 * num_keys) * sizes.head_dim;
  if (at >= num_turning) {
    const std::uint32_t head = (at - num_turning) / (2 * head_fours);
    const std::uint32_t channel = (at - num_turning) % (2 * head_fours) * 4;
    using Bits = typename Four<T>::Bits;
    *reinterpret_cast<Bits*>(place + cache.value_offset + head * cache.head_stride + channel) =
        *reinterpret_cast<const Bits*>(row + (num_queries + num_keys + head) * std::int64_t{sizes.head_dim} + channel);
    return;
  }
  const std::uint32_t head = at / head_fours;
  const std::uint32_t channel = at % head_fours * 4;
  const std::int64_t angle = std::int64_t{positions[row_index]} * half + channel;
  const float4 c = *reinterpret_cast<const float4*>(cos + angle);
  const float4 s = *reinterpret_cast<const float4*>(sin + angle);
  T* const from = row + head * std::int64_t{sizes.head_dim} + channel;
  T* const to = head < num_queries ? from : place + (head - num_queries) * cache.head_stride + channel;
  const float4 x = read_four(from);
  const float4 y = read_four(from + half);
  write_four(to, turned(x, c, y, s, -1.0F));
  write_four(to + half, turned(y, c, x, s, 1.0F));
}

template <class T>
__global__ __launch_bounds__(kThreads) void silu_multiply_kernel(const T* gate_up, std::int64_t num_vectors,
                                                                 std::int64_t row_vectors, T* out) {
  let_next_kernel_start();
  wait_for_kernels_before();
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
void embed(const T* table, const TokenId* tokens, std::int64_t num_rows, std::int64_t size, float* out,
           cudaStream_t stream) {
  launch("embed", embed_kernel<T>, blocks_of(num_rows), kThreads, 0, stream, table, tokens, size, out);
}

template <class T>
void gather_rows(const T* x, const std::int32_t* chosen, std::int64_t num_rows, std::int64_t size, T* out,
                 cudaStream_t stream) {
  if (num_rows == 0) return;
  launch("gather_rows", copy_rows<T>, blocks_of(num_rows), kThreads, 0, stream, x,
         reinterpret_cast<const std::uint32_t*>(chosen), size, out);
}

template <class T>
void rmsnorm(const float* x, std::int64_t num_rows, std::int64_t size, const float* weight, float eps, T* out,
             cudaStream_t stream) {
  if (num_rows == 0) return;
  launch("rmsnorm", rmsnorm_kernel<T>, blocks_of(num_rows), kThreads, 0, stream, x, size, weight, eps, out);
}

template <class T>
void rotate_and_store(T* projected, const HeadSizes& sizes, const std::int32_t* positions, const std::int64_t* slots,
                      std::int64_t num_rows, const float* cos, const float* sin, const CacheLayer& cache,
                      cudaStream_t stream) {
  if (num_rows == 0) return;
  // A row is Q + H heads of D / 8 threads and H heads of values of D / 4.
  const std::int64_t row_threads = (sizes.num_heads + 3 * std::int64_t{sizes.num_kv_heads}) * (sizes.head_dim / 8);
  launch("rotate_and_store", rotate_and_store_kernel<T>, blocks_of((num_rows * row_threads + kThreads - 1) / kThreads),
         kThreads, 0, stream, projected, sizes, positions, slots, num_rows, cos, sin, cache);
}

template <class T>
void silu_multiply(const T* gate_up, std::int64_t num_rows, std::int64_t size, T* out, cudaStream_t stream) {
  if (num_rows == 0) return;
  const std::int64_t row_vectors = size / Vector<T>::kSize;
  const std::int64_t num_vectors = num_rows * row_vectors;
  launch("silu_multiply", silu_multiply_kernel<T>, blocks_of((num_vectors + kThreads - 1) / kThreads), kThreads, 0,
         stream, gate_up, num_vectors, row_vectors, out);
}

#define MINI_ENGINE_OPS_OF(T)                                                                                     \
  template void embed<T>(const T*, const TokenId*, std::int64_t, std::int64_t, float*, cudaStream_t);             \
  template void gather_rows<T>(const T*, const std::int32_t*, std::int64_t, std::int64_t, T*, cudaStream_t);      \
  template void rmsnorm<T>(const float*, std::int64_t, std::int64_t, const float*, float, T*, cudaStream_t);      \
  template void rotate_and_store<T>(T*, const HeadSizes&, const std::int32_t*, const std::int64_t*, std::int64_t, \
                                    const float*, const float*, const CacheLayer&, cudaStream_t);                 \
  template void silu_multiply<T>(const T*, std::int64_t, std::int64_t, T*, cudaStream_t);
MINI_ENGINE_OPS_OF(float)
MINI_ENGINE_OPS_OF(__nv_bfloat16)
#undef MINI_ENGINE_OPS_OF

}  // namespace mini_engine::gpu
