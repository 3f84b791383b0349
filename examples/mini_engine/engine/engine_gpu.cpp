#include <cuda_runtime_api.h>

#include "mini_engine/engine/engine_kinds.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "pikv/cuda.hpp"

namespace mini_engine {
namespace {

class GpuEngine final : public Engine {
 public:
  GpuEngine(const ModelFile* file, const ModelConfig& config, const EngineOptions& options)
      : precision_(options.weights),
        backend_(take(pikv::make_cuda_backend())),
        pinned_(take(pikv::make_cuda_pinned_memory())),
        model_(load(file, config, options)),
        corrector_(take(pikv::make_cuda_drift_corrector({.memory = &backend_->memory_resource()}))),
        scorer_(take(pikv::make_cuda_row_scorer({.memory = &backend_->memory_resource()}))) {}

  Model& model() override { return model_; }
  PagedCache make_cache(int num_pages, int page_size) override {
    return gpu::make_device_cache(model_.config(), precision_, num_pages, page_size);
  }
  ReuseDevice reuse_device(ChunkPlace place) override {
    return {.backend = backend_.get(),
            .chunk_memory = place == ChunkPlace::kPinned ? pinned_.get() : nullptr,
            .scorer = scorer_.get(),
            .corrector = corrector_.get(),
            .stream = pikv::cuda_stream(model_.stream())};
  }
  [[nodiscard]] pikv::DType store_dtype() const override { return dtype_of(precision_); }
  [[nodiscard]] std::int64_t device_bytes_in_use() const override {
    std::size_t free_bytes = 0;
    std::size_t all_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &all_bytes) != cudaSuccess) return 0;
    return static_cast<std::int64_t>(all_bytes - free_bytes);
  }

 private:
  static gpu::GpuModel load(const ModelFile* file, const ModelConfig& config, const EngineOptions& options) {
    const gpu::GpuModelOptions of_model{.precision = options.weights,
                                        .num_loader_threads = options.num_threads,
                                        .progress = options.progress,
                                        .attention = options.attention,
                                        .records_graphs = options.records_graphs};
    return file != nullptr ? gpu::GpuModel(*file, of_model) : gpu::GpuModel::random(config, options.seed, of_model);
  }

  Precision precision_;
  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::MemoryResource> pinned_;
  gpu::GpuModel model_;
  // These give their workspace back to the model's stream.
  std::unique_ptr<pikv::DriftCorrector> corrector_;
  std::unique_ptr<pikv::RowScorer> scorer_;
};

}  // namespace

std::unique_ptr<Engine> make_gpu_engine(const ModelFile* file, const ModelConfig& config,
                                        const EngineOptions& options) {
  return std::make_unique<GpuEngine>(file, config, options);
}

}  // namespace mini_engine
