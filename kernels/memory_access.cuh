// Loads and stores of the vector kernel. Everything it moves is touched once, so those loads leave the first-level
// cache to the rotation table and to scales.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pikv::kernels {

/// What no other thread reads. T: 4, 8 or 16 bytes, on a multiple of its size.
template <class T>
[[nodiscard]] __device__ __forceinline__ T load_once(const std::byte* p) {
  T words;
  if constexpr (sizeof(T) == 16) {
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
        : "l"(p));
  } else if constexpr (sizeof(T) == 8) {
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "l"(p));
  } else {
    static_assert(sizeof(T) == 4);
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(words) : "l"(p));
  }
  return words;
}

/// What neighbouring threads and tokens read again.
template <class T>
[[nodiscard]] __device__ __forceinline__ T load_again(const void* p) {
  return __ldg(static_cast<const T*>(p));
}

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

}  // namespace pikv::kernels
