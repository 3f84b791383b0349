#include "cpu/select_row_kernels.hpp"

#include <array>
#include <cstddef>

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

struct Supported {
  std::array<const RowKernels*, 3> kernels{&kBaselineRowKernels, nullptr, nullptr};
  std::size_t count = 1;
};

Supported detect() noexcept {
  Supported supported;
#ifdef PIKV_X86_ROW_KERNELS
  __builtin_cpu_init();
  // AVX2 and AVX-512 are reported only where the operating system saves their registers; gcc 12 and clang 14 know no
  // name for F16C, and every CPU with AVX2 has it.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    supported.kernels[supported.count++] = &kAvx2RowKernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      supported.kernels[supported.count++] = &kAvx512RowKernels;
    }
  }
#endif
  return supported;
}

}  // namespace

std::span<const RowKernels* const> supported_row_kernels() noexcept {
  static const Supported supported = detect();
  return {supported.kernels.data(), supported.count};
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
