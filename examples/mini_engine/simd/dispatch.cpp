#include "kernels.hpp"

namespace mini_engine::simd {

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

const Kernels* kernels_at(int index) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f");
  if (has_avx512 && index-- == 0) return &kAvx512Kernels;
  if (has_avx2 && index-- == 0) return &kAvx2Kernels;
#endif
  return index == 0 ? &kPortableKernels : nullptr;
}

const Kernels& kernels() {
  static const Kernels& fastest = *kernels_at(0);
  return fastest;
}

}  // namespace mini_engine::simd
