// A tile of query vectors times a tile of keys, in a block of kThreads: each warp has 16 vectors and all keys.
//
// Products lie in registers as the tensor cores leave them: of group = lane / 4 and place = lane % 4, lane holds of
// column block n the keys 8 * n + 2 * place and the next one, for the vectors `group` and `group + 8` of its warp.
// Other types are multiplied by ordinary instructions into the same places, so that all that follows is written once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element_access.cuh"
#include "memory_access.cuh"
#include "score_params.hpp"
#include "score_row.cuh"

namespace pikv::kernels {

inline constexpr int kWarpVectors = 16;
inline constexpr int kColumnBlocks = kTileKeys / 8;
static_assert(kTileVectors == kThreads / kWarpLanes * kWarpVectors);

using Products = float[kColumnBlocks][4];

/// Channels of a row in shared memory: padded with zeros to whole steps of the tensor cores.
[[nodiscard]] __host__ __device__ constexpr std::int32_t padded_channels(std::int32_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}

[[nodiscard]] __device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
[[nodiscard]] __device__ __forceinline__ int group_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarpLanes / 4;
}
[[nodiscard]] __device__ __forceinline__ int place_of_thread() { return static_cast<int>(threadIdx.x) % 4; }

/// 16-bit types on tensor cores: products are exact, sums are fp32.
template <SourceKind kKind>
struct TensorCores {
  using Storage = std::uint16_t;
  /// 16 bytes more than the channels: rows then begin four banks apart, and fragments are read without conflicts.
  [[nodiscard]] static __host__ __device__ constexpr std::int32_t row_elements(std::int32_t head_dim) {
    return padded_channels(head_dim) + 8;
  }
  [[nodiscard]] static __device__ Storage element(const std::byte* p, SourceKind /*kind*/) {
    return load_as<std::uint16_t>(p);
  }

  static __device__ void multiply(const Storage* vectors, const Storage* keys, std::int32_t head_dim,
                                  Products& products) {
    const std::int32_t row = row_elements(head_dim);
    const Storage* const a =
        vectors + (warp_of_thread() * kWarpVectors + group_of_thread()) * row + 2 * place_of_thread();
    const Storage* const b = keys + group_of_thread() * row + 2 * place_of_thread();
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) products[n][i] = 0;
    }
    const std::int32_t channels = padded_channels(head_dim);
#pragma unroll 2
    for (std::int32_t d = 0; d < channels; d += 16) {
      const std::uint32_t a0 = two(a + d);
      const std::uint32_t a1 = two(a + 8 * row + d);
      const std::uint32_t a2 = two(a + d + 8);
      const std::uint32_t a3 = two(a + 8 * row + d + 8);
#pragma unroll
      for (int n = 0; n < kColumnBlocks; ++n) {
        const std::uint32_t b0 = two(b + 8 * n * row + d);
        const std::uint32_t b1 = two(b + 8 * n * row + d + 8);
        float(&c)[4] = products[n];
        if constexpr (kKind == SourceKind::kBFloat16) {
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
              "{%0, %1, %2, %3};"
              : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
              : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        } else {
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
              "{%0, %1, %2, %3};"
              : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
              : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        }
      }
    }
  }

 private:
  [[nodiscard]] static __device__ __forceinline__ std::uint32_t two(const Storage* p) {
    return *reinterpret_cast<const std::uint32_t*>(p);
  }
};

/// Any types, as fp32.
struct Scalars {
  using Storage = float;
  [[nodiscard]] static __host__ __device__ constexpr std::int32_t row_elements(std::int32_t head_dim) {
    return padded_channels(head_dim) + 4;
  }
  [[nodiscard]] static __device__ Storage element(const std::byte* p, SourceKind kind) { return load_float(p, kind); }

  static __device__ void multiply(const Storage* vectors, const Storage* keys, std::int32_t head_dim,
                                  Products& products) {
    const std::int32_t row = row_elements(head_dim);
    const float* const a = vectors + (warp_of_thread() * kWarpVectors + group_of_thread()) * row;
    const float* const b = keys + 2 * place_of_thread() * row;
#pragma unroll
    for (int n = 0; n < kColumnBlocks; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) products[n][i] = 0;
    }
    const std::int32_t channels = padded_channels(head_dim);
    for (std::int32_t d = 0; d < channels; d += 4) {
      const float4 upper = four(a + d);
      const float4 lower = four(a + 8 * row + d);
#pragma unroll
      for (int n = 0; n < kColumnBlocks; ++n) {
        const float4 left = four(b + 8 * n * row + d);
        const float4 right = four(b + (8 * n + 1) * row + d);
        products[n][0] = add_dot(products[n][0], upper, left);
        products[n][1] = add_dot(products[n][1], upper, right);
        products[n][2] = add_dot(products[n][2], lower, left);
        products[n][3] = add_dot(products[n][3], lower, right);
      }
    }
  }

 private:
  [[nodiscard]] static __device__ __forceinline__ float4 four(const float* p) {
    return *reinterpret_cast<const float4*>(p);
  }
  [[nodiscard]] static __device__ __forceinline__ float add_dot(float sum, const float4& a, const float4& b) {
    sum = __fmaf_rn(a.x, b.x, sum);
    sum = __fmaf_rn(a.y, b.y, sum);
    sum = __fmaf_rn(a.z, b.z, sum);
    return __fmaf_rn(a.w, b.w, sum);
  }
};

/// How rows of one kind of operand lie in global memory.
struct TileSource {
  SourceKind kind;
  std::uint32_t dim_bytes;
  bool is_vectorizable;  ///< by 16 bytes, and stored as it is read
};

/// Fills a tile of 64 rows, with zeros where address_of(i) is null and behind the last channel. Waits for whatever the
/// block did with the tile before; the caller waits before it reads.
template <class Arithmetic, class AddressOf>
__device__ __forceinline__ void load_tile(typename Arithmetic::Storage* tile, std::int32_t head_dim,
                                          const TileSource& source, const AddressOf& address_of) {
  using Storage = typename Arithmetic::Storage;
  constexpr std::int32_t kRows = 64;
  static_assert(kRows == kTileKeys && kRows == kTileVectors);
  __shared__ const std::byte* addresses[kRows];
  __syncthreads();
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (thread < kRows) addresses[thread] = address_of(thread);
  __syncthreads();
  const std::int32_t row_elements = Arithmetic::row_elements(head_dim);
  if (source.is_vectorizable) {
    constexpr auto kElements = static_cast<std::int32_t>(sizeof(uint4) / sizeof(Storage));
    const std::int32_t padded = padded_channels(head_dim) / kElements;
    const std::int32_t whole = head_dim / kElements;
#pragma unroll 4
    for (std::int32_t i = thread; i < kRows * padded; i += kThreads) {
      const std::int32_t row = i / padded;
      const std::int32_t vector = i - row * padded;
      const std::byte* const from = addresses[row];
      uint4 words{};
      if (from != nullptr && vector < whole) words = load_again<uint4>(from + vector * std::int64_t{sizeof(uint4)});
      *reinterpret_cast<uint4*>(tile + row * row_elements + vector * kElements) = words;
    }
    return;
  }
  const std::int32_t padded = padded_channels(head_dim);
  for (std::int32_t i = thread; i < kRows * padded; i += kThreads) {
    const std::int32_t row = i / padded;
    const std::int32_t channel = i - row * padded;
    const std::byte* const from = addresses[row];
    Storage element = 0;
    if (from != nullptr && channel < head_dim) {
      element = Arithmetic::element(from + std::uint64_t{source.dim_bytes} * static_cast<std::uint32_t>(channel),
                                    source.kind);
    }
    tile[row * row_elements + channel] = element;
  }
}

template <class Arithmetic>
__device__ __forceinline__ void load_keys(typename Arithmetic::Storage* tile, const AttentionParams& params,
                                          std::int32_t tile_index, std::int32_t head) {
  load_tile<Arithmetic>(tile, params.head_dim, {params.keys.kind, params.keys.k.dim_bytes, params.keys_vectorizable},
                        [&](std::int32_t i) -> const std::byte* {
                          const std::int64_t key = std::int64_t{tile_index} * kTileKeys + i;
                          if (key >= params.num_keys) return nullptr;
                          const std::byte* const row = row_address<true>(params.keys, static_cast<std::uint32_t>(key));
                          if (row == nullptr) return nullptr;
                          return row + std::uint64_t{params.keys.k.head_bytes} * static_cast<std::uint32_t>(head);
                        });
}

template <class Arithmetic>
__device__ __forceinline__ void load_vectors(typename Arithmetic::Storage* tile, const AttentionParams& params,
                                             std::int32_t tile_index, std::int32_t head) {
  const std::int32_t element_bytes = params.query_kind == SourceKind::kFloat32 ? 4 : 2;
  load_tile<Arithmetic>(
      tile, params.head_dim,
      {params.query_kind, static_cast<std::uint32_t>(element_bytes), params.queries_vectorizable},
      [&](std::int32_t i) -> const std::byte* {
        const std::int64_t vector = std::int64_t{tile_index} * kTileVectors + i;
        if (vector >= params.num_vectors) return nullptr;
        const std::uint32_t row = params.group.quotient(static_cast<std::uint32_t>(vector));
        const std::int64_t query_head =
            std::int64_t{head} * params.group.value + (vector - std::int64_t{row} * params.group.value);
        return params.queries + row * params.query_row_bytes + query_head * params.head_dim * element_bytes;
      });
}

/// The last key that a vector attends; -1 for one behind the last.
[[nodiscard]] __device__ __forceinline__ std::int32_t last_key(const AttentionParams& params, std::int64_t vector) {
  if (vector >= params.num_vectors) return -1;
  const std::int32_t row = params.query_rows[params.group.quotient(static_cast<std::uint32_t>(vector))];
  return row < params.num_keys ? row : params.num_keys - 1;
}

/// The last key that any vector of a tile attends: rows ascend.
[[nodiscard]] __device__ __forceinline__ std::int32_t last_key_of_tile(const AttentionParams& params,
                                                                       std::int32_t tile_index) {
  const std::int64_t end = std::int64_t{tile_index + 1} * kTileVectors;
  return last_key(params, (end < params.num_vectors ? end : params.num_vectors) - 1);
}

}  // namespace pikv::kernels
