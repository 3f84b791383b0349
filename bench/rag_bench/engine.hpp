// What a load runs on: a model of random weights on the CPU or a GPU, memory for its caches, and places for chunks.
#pragma once

#include <cstdint>
#include <memory>

#include "mini_engine/config.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/pikv_bridge.hpp"

namespace rag_bench {

/// Where chunks lie: in the memory that the model computes in, or in page-locked host memory beside it.
enum class ChunkPlace : std::uint8_t { kDevice, kPinned };

class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual mini_engine::Model& model() = 0;
  [[nodiscard]] virtual mini_engine::PagedCache make_cache(int num_pages, int page_size) = 0;
  /// Throws Error for a place that the engine has not.
  [[nodiscard]] virtual mini_engine::ReuseDevice reuse_device(ChunkPlace place) = 0;
  [[nodiscard]] virtual pikv::DType store_dtype() const = 0;
  /// Of the whole device; 0 on the CPU.
  [[nodiscard]] virtual std::int64_t device_bytes_in_use() const = 0;
};

[[nodiscard]] std::unique_ptr<Engine> make_cpu_engine(const mini_engine::ModelConfig& config, int num_threads);
/// bf16. Throws Error in a build without the GPU engine, and without a device.
[[nodiscard]] std::unique_ptr<Engine> make_gpu_engine(const mini_engine::ModelConfig& config);

}  // namespace rag_bench
