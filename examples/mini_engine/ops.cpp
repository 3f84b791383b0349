#include "ops.hpp"

#include "simd/kernels.hpp"

namespace mini_engine {

void rmsnorm_rows(ThreadPool& pool, std::int64_t num_rows, InputRows x, const std::vector<float>& weight, float epsilon,
                  OutputRows y) {
  const auto size = static_cast<int>(weight.size());
  for_ranges(pool, num_rows, size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      simd::kernels().rmsnorm(x.data + row * x.stride, weight.data(), epsilon, y.data + row * y.stride, size);
    }
  });
}

void silu_multiply_rows(ThreadPool& pool, std::int64_t num_rows, OutputRows gate_up, std::int64_t size) {
  // An exponential and a division cost as much as moving about eight elements.
  for_ranges(pool, num_rows, 8 * size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      float* gate = gate_up.data + row * gate_up.stride;
      simd::kernels().silu_multiply(gate, gate + size, gate, size);
    }
  });
}

}  // namespace mini_engine
