// A model, memory for its caches and places for chunks, on the CPU or on a GPU, chosen at run time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "mini_engine/attention_kind.hpp"
#include "mini_engine/config.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/weight_reader.hpp"

namespace mini_engine {

/// Where chunks lie: in the memory that the model computes in, or in page-locked host memory beside it.
enum class ChunkPlace : std::uint8_t { kDevice, kPinned };

struct EngineOptions {
  bool on_gpu = false;
  Precision weights = Precision::kFloat32;
  Precision cache = Precision::kFloat32;  ///< on a GPU, that of the weights
  int num_threads = 0;                    ///< of the CPU, for computing or loading; 0: all cores
  std::uint64_t seed = 1;                 ///< of random weights
  LoadProgress progress = {};             ///< of reading a model's file; may be empty
  AttentionKind attention = AttentionKind::kOwn;
  bool records_graphs = true;  ///< on a GPU: see gpu::GpuModelOptions
};

/// One thread at a time, like its model. Caches and what reuse_device() names must not outlive it.
class Engine {
 public:
  virtual ~Engine() = default;
  [[nodiscard]] virtual Model& model() = 0;
  [[nodiscard]] virtual PagedCache make_cache(int num_pages, int page_size) = 0;
  /// Throws Error for a place that the engine has not.
  [[nodiscard]] virtual ReuseDevice reuse_device(ChunkPlace place) = 0;
  /// Of the caches, and of chunks that are to be exact.
  [[nodiscard]] virtual pikv::DType store_dtype() const = 0;
  /// Of the whole device; 0 on the CPU.
  [[nodiscard]] virtual std::int64_t device_bytes_in_use() const = 0;
};

/// Loads a model. Throws Error as CpuModel and GpuModel do, for a GPU in a build without one, and for cuDNN's attention
/// on the CPU.
[[nodiscard]] std::unique_ptr<Engine> make_engine(const ModelFile& file, const EngineOptions& options);
/// The same with random weights.
[[nodiscard]] std::unique_ptr<Engine> make_engine(const ModelConfig& config, const EngineOptions& options);

}  // namespace mini_engine
