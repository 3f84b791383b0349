// The small kernels between the products: each reads and writes its rows once. T is float or __nv_bfloat16; arithmetic
// is fp32. All pointers are to device memory, all calls queue on `stream` and return.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "mini_engine/types.hpp"

namespace mini_engine::gpu {

/// Where rows of keys and values go: one layer of a paged cache, in elements.
struct CacheLayer {
  void* data;  ///< K of slot 0, head 0
  std::int64_t page_stride, token_stride, head_stride, value_offset;
  std::int32_t page_size, num_pages;
};

/// Sizes of the stacked projection [R][Q*D + 2*H*D].
struct HeadSizes {
  std::int32_t num_heads, num_kv_heads, head_dim;
  [[nodiscard]] std::int64_t row() const { return std::int64_t{num_heads + 2 * num_kv_heads} * head_dim; }
};

/// out[r] = table[tokens[r]]. table: [V][size], out: [R][size].
template <class T>
void embed(const T* table, const TokenId* tokens, std::int64_t num_rows, std::int64_t size, float* out,
           cudaStream_t stream);

/// out[r] = x[r] / rms(x[r]) * weight. x, out: [R][size].
template <class T>
void rmsnorm(const float* x, std::int64_t num_rows, std::int64_t size, const float* weight, float eps, T* out,
             cudaStream_t stream);

/// out[i] = x[chosen[i]].
template <class T>
void gather_rows(const T* x, const std::int32_t* chosen, std::int64_t num_rows, std::int64_t size, T* out,
                 cudaStream_t stream);

/// Rotates the queries of `projected` in place by each row's position, and puts rotated keys and values where the cache
/// keeps them. positions, slots: [R]. cos, sin: [positions][D/2], half-split pairs.
template <class T>
void rotate_and_store(T* projected, const HeadSizes& sizes, const std::int32_t* positions, const std::int64_t* slots,
                      std::int64_t num_rows, const float* cos, const float* sin, const CacheLayer& cache,
                      cudaStream_t stream);

/// out[r] = silu(gate) * up of gate_up[r] = [gate | up]. gate_up: [R][2*size], out: [R][size].
template <class T>
void silu_multiply(const T* gate_up, std::int64_t num_rows, std::int64_t size, T* out, cudaStream_t stream);

}  // namespace mini_engine::gpu
