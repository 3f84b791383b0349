// How fast the parts are, each as a ratio to what the machine itself can do, measured in the same run.
#pragma once

#include <cstdint>

#include "mini_engine/config.hpp"
#include "pikv/pikv.hpp"

namespace rag_demo {

struct SpeedReport {
  double memcpy_gigabytes_per_s = 0;    ///< bytes copied, by all threads at once
  double reanchor_gigabytes_per_s = 0;  ///< bytes moved from a slab to randomly ordered pages
  double sgemm_gflops = 0;              ///< OpenBLAS, square matrices
  double prefill_gflops = 0;            ///< of a full recomputation of the demo
  double hash_ns_per_token = 0;         ///< keys of 512-token chunks

  [[nodiscard]] double reanchor_of_memcpy() const { return reanchor_gigabytes_per_s / memcpy_gigabytes_per_s; }
  [[nodiscard]] double prefill_of_sgemm() const { return prefill_gflops / sgemm_gflops; }
};

/// Floating-point operations of computing `num_tokens` tokens of a prompt with causal attention and one row of logits.
[[nodiscard]] double prefill_flops(const mini_engine::ModelConfig& config, std::int64_t num_tokens);

/// Everything but prefill_gflops, in about a second. num_threads: positive; OpenBLAS is left with as many.
/// Throws std::runtime_error when pikv refuses a call.
[[nodiscard]] SpeedReport measure_speed(const pikv::KvGeometry& geometry, const pikv::ChunkKeyer& keyer,
                                        int num_threads);

}  // namespace rag_demo
