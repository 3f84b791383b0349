// Copies from global to shared memory by the bulk copy engine, and the barriers that tell when they have arrived
// (PTX ISA, mbarrier and cp.async.bulk; compute capability 9.0).
#pragma once

#include <cstddef>
#include <cstdint>

namespace pikv::kernels {

[[nodiscard]] __device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier in shared memory that counts arrivals and bytes of bulk copies; its phases alternate in parity, from 0.
class Barrier {
 public:
  /// By one thread; the block synchronises afterwards.
  __device__ void init(std::uint32_t num_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&word_)), "r"(num_arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&word_)) : "memory");
  }
  /// The phase ends when `num_bytes` more have been copied, too.
  __device__ void arrive_expecting(std::uint32_t num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&word_)), "r"(num_bytes)
                 : "memory");
  }
  /// Until the phase of this parity has ended.
  __device__ void wait(std::uint32_t parity) {
    std::uint32_t done = 0;
    do {
      asm volatile(
          "{\n"
          ".reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p;\n"
          "}\n"
          : "=r"(done)
          : "r"(shared_address(&word_)), "r"(parity)
          : "memory");
    } while (done == 0);
  }

  /// Queues a copy that counts towards this barrier's phase. Both addresses and the size are multiples of 16.
  __device__ void copy(void* shared, const void* global, std::uint32_t num_bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(num_bytes), "r"(shared_address(&word_))
                 : "memory");
  }

 private:
  std::uint64_t word_;
};

}  // namespace pikv::kernels
