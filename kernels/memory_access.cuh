// Vector loads and stores of re-anchoring. Everything it moves is touched once, so loads leave the first-level cache to
// the rotation table.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pikv::kernels {

[[nodiscard]] __device__ __forceinline__ uint4 load_16_bytes(const std::byte* p) {
  uint4 words;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
      : "l"(p));
  return words;
}

[[nodiscard]] __device__ __forceinline__ uint2 load_8_bytes(const std::byte* p) {
  uint2 words;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "l"(p));
  return words;
}

[[nodiscard]] __device__ __forceinline__ std::uint32_t load_4_bytes(const std::byte* p) {
  std::uint32_t word;
  asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(word) : "l"(p));
  return word;
}

/// Where a VectorSource reads codes and their scales.
struct GlobalMemory {
  template <class T>
  [[nodiscard]] static __device__ __forceinline__ T load(const std::byte* p) {
    if constexpr (sizeof(T) == 16) {
      return load_16_bytes(p);
    } else if constexpr (sizeof(T) == 8) {
      return load_8_bytes(p);
    } else {
      return load_4_bytes(p);
    }
  }
  /// What neighbouring threads and tokens read again.
  template <class T>
  [[nodiscard]] static __device__ __forceinline__ T load_again(const std::byte* p) {
    return __ldg(reinterpret_cast<const T*>(p));
  }
};
struct SharedMemory {
  template <class T>
  [[nodiscard]] static __device__ __forceinline__ T load(const std::byte* p) {
    return *reinterpret_cast<const T*>(p);
  }
  template <class T>
  [[nodiscard]] static __device__ __forceinline__ T load_again(const std::byte* p) {
    return load<T>(p);
  }
};

/// streams: the line is the first to leave the second-level cache, which large transfers would only push others out of.
template <class Vector>
__device__ __forceinline__ void store_vector(std::byte* p, const Vector& words, bool streams) {
  auto* const out = reinterpret_cast<Vector*>(p);
  if (streams) {
    __stcs(out, words);
  } else {
    *out = words;
  }
}

/// For what neighbouring threads and tokens read again.
template <class T>
[[nodiscard]] __device__ __forceinline__ T load_cached(const void* p) {
  return __ldg(static_cast<const T*>(p));
}

}  // namespace pikv::kernels
