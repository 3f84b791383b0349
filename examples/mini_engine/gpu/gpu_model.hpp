// The forward pass on one GPU: the same rows, the same cache, the same results as the CPU's up to rounding.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "mini_engine/attention_kind.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/types.hpp"
#include "mini_engine/weight_reader.hpp"

namespace mini_engine {
class ModelFile;
class Weights;
}  // namespace mini_engine

namespace mini_engine::gpu {

struct GpuModelOptions {
  Precision precision = Precision::kBFloat16;  ///< of weights, activations and the caches it works on
  int num_loader_threads = 0;                  ///< 0: all cores
  LoadProgress progress = {};                  ///< of reading a model's file; may be empty
  /// kCudnn, bf16 only: of passes of more rows than are worth a CUDA graph, where the rows are of one sequence, follow
  /// on each other and see all before them. Other passes run the own kernels.
  AttentionKind attention = AttentionKind::kOwn;
  /// Whether small passes are recorded as CUDA graphs. Not where other threads of the process wait for the whole device
  /// or allocate of it, which a recording does not survive.
  bool records_graphs = true;
};

/// A cache for a GpuModel's sequences, in device memory, zeroed.
[[nodiscard]] PagedCache make_device_cache(const ModelConfig& config, Precision precision, int num_pages,
                                           int page_size);

/// Weights and scratch of one model on the current device. Sequences must be of a cache made by make_device_cache().
/// Device memory for activations grows with the largest pass and is kept.
class GpuModel final : public Model {
 public:
  /// Reads, decodes and uploads all weights. Throws Error as open_model() does, for sizes that are not multiples of 8,
  /// for cuDNN's attention in a build without it or in fp32, and when there is no device or too little memory.
  GpuModel(const ModelFile& file, const GpuModelOptions& options);
  /// A copy of weights of options.precision that are in host memory.
  static GpuModel copy_of(const ModelConfig& config, const Weights& weights, const GpuModelOptions& options);
  /// Random weights made on the device; deterministic in `seed`.
  static GpuModel random(const ModelConfig& config, std::uint64_t seed, const GpuModelOptions& options);
  ~GpuModel() override;
  GpuModel(GpuModel&&) noexcept;
  GpuModel& operator=(GpuModel&&) noexcept;

  [[nodiscard]] const ModelConfig& config() const override;
  [[nodiscard]] const RotaryTable& rotary() const override;
  /// Passes are computed together. What observers see lies in device memory, and they are called while layers are being
  /// queued on stream().
  std::vector<std::vector<float>> forward(std::span<const SequencePass> passes) override;
  using Model::forward;
  /// Chosen on the device; throws as forward() does.
  std::vector<NextToken> next_tokens(std::span<const SequencePass> passes, std::span<Sampler* const> samplers) override;

  /// Where the passes run; they have ended when forward() returns.
  [[nodiscard]] cudaStream_t stream() const;
  [[nodiscard]] std::size_t weight_bytes() const;

 private:
  struct Impl;
  explicit GpuModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine::gpu
