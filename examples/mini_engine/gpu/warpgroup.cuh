// Hopper's warpgroup products and the barriers that feed them, as PTX has them (PTX ISA 8.7, 9.7.15 and 9.7.13.15).
//
// Operands in shared memory are bf16 in the 128-byte swizzled layout: rows of 64 elements (128 bytes), 16-byte chunk c
// of row r at chunk c ^ (r % 8), on a boundary of 1,024 bytes.
#pragma once

#include <cstdint>

namespace mini_engine::gpu::warpgroup {

inline constexpr int kThreads = 128;
inline constexpr int kRowElements = 64;   // of a swizzled row
inline constexpr int kGroupBytes = 1024;  // eight swizzled rows

/// Elements from the operand's start to a 16-byte chunk.
__device__ inline int swizzled(int row, int chunk) { return row * kRowElements + (chunk ^ (row % 8)) * 8; }

/// Describes an operand at a shared address. `block_bytes`: from 64 columns to the next 64, for operands whose rows run
/// along the sum; not read for the others.
__device__ inline std::uint64_t descriptor(std::uint32_t address, std::uint32_t block_bytes = 16) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  return std::uint64_t{(address & 0x3FFFFU) >> 4} | std::uint64_t{block_bytes >> 4} << 16 |
         std::uint64_t{kGroupBytes >> 4} << 32 | kSwizzle128;
}

/// Between writes to shared memory by threads and their use by products.
__device__ inline void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Before the first product, and after registers that it uses were written.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// In shared memory. Each thread or warp that arrives counts once a phase.
class Barrier {
 public:
  __device__ void initialize(std::uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory"); }
  /// Once all copies that this thread has issued (cp.async) are done.
  __device__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address()) : "memory");
  }
  /// Until the phase of this parity has ended.
  __device__ void wait(std::uint32_t parity) {
    std::uint32_t is_done = 0;
    do {
      asm volatile(
          "{\n.reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n}"
          : "=r"(is_done)
          : "r"(address()), "r"(parity)
          : "memory");
    } while (is_done == 0);
  }

 private:
  [[nodiscard]] __device__ std::uint32_t address() {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(&word_));
  }
  std::uint64_t word_;
};

#define MINI_ENGINE_BLOCK(d, i) "+f"((d)[i][0]), "+f"((d)[i][1]), "+f"((d)[i][2]), "+f"((d)[i][3])
#define MINI_ENGINE_BLOCKS_8(d, i)                                                                                \
  MINI_ENGINE_BLOCK(d, i), MINI_ENGINE_BLOCK(d, i + 1), MINI_ENGINE_BLOCK(d, i + 2), MINI_ENGINE_BLOCK(d, i + 3), \
      MINI_ENGINE_BLOCK(d, i + 4), MINI_ENGINE_BLOCK(d, i + 5), MINI_ENGINE_BLOCK(d, i + 6),                      \
      MINI_ENGINE_BLOCK(d, i + 7)
#define MINI_ENGINE_32                                                                                             \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define MINI_ENGINE_64                                                                                          \
  MINI_ENGINE_32                                                                                                \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/// c [64, 128] (+)= a [64, 16] * b [128, 16]^T, rows of both along the sum.
__device__ inline void multiply(float (&c)[16][4], std::uint64_t a, std::uint64_t b, bool adds) {
  asm volatile(
      "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MINI_ENGINE_64 "}, %64, %65, adds, 1, 1, 0, 0;\n}"
      : MINI_ENGINE_BLOCKS_8(c, 0), MINI_ENGINE_BLOCKS_8(c, 8)
      : "l"(a), "l"(b), "r"(adds ? 1 : 0));
}

/// c [64, 8 * kBlocks] += a [64, 16] * b [16, 8 * kBlocks], a in registers.
__device__ inline void multiply_add(float (&c)[16][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MINI_ENGINE_64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : MINI_ENGINE_BLOCKS_8(c, 0), MINI_ENGINE_BLOCKS_8(c, 8)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void multiply_add(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MINI_ENGINE_32
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : MINI_ENGINE_BLOCKS_8(c, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef MINI_ENGINE_64
#undef MINI_ENGINE_32
#undef MINI_ENGINE_BLOCKS_8
#undef MINI_ENGINE_BLOCK

}  // namespace mini_engine::gpu::warpgroup
