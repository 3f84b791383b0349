// The operations between matrix products, over many rows at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "matmul.hpp"
#include "thread_pool.hpp"

namespace mini_engine {

/// Calls body(begin, end) on ranges that cover [0, count), on the pool's threads when the work is worth it.
/// `cost` is the number of elements one item touches.
template <typename Body>
void for_ranges(ThreadPool& pool, std::int64_t count, std::int64_t cost, const Body& body) {
  // Some microseconds of work; less is done sooner by one thread than handed to two.
  constexpr std::int64_t kLeastWork = 16 * 1024;
  constexpr std::int64_t kRangesPerThread = 4;
  const std::int64_t least = std::max<std::int64_t>(1, kLeastWork / std::max<std::int64_t>(1, cost));
  const std::int64_t even = count / (pool.num_threads() * kRangesPerThread) + 1;
  const std::int64_t size = std::max(least, even);
  pool.run(static_cast<int>((count + size - 1) / size),
           [&](int task, int) { body(task * size, std::min(count, (task + 1) * size)); });
}

/// y[r] = weight * x[r] / sqrt(mean(x[r]^2) + epsilon); rows have weight.size() elements.
void rmsnorm_rows(ThreadPool& pool, std::int64_t num_rows, InputRows x, const std::vector<float>& weight, float epsilon,
                  OutputRows y);

/// gate_up is [num_rows][2*size], gate first. gate = silu(gate) * up, in place.
void silu_multiply_rows(ThreadPool& pool, std::int64_t num_rows, OutputRows gate_up, std::int64_t size);

}  // namespace mini_engine
