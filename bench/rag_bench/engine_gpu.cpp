#include <cuda_runtime_api.h>

#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "pikv/cuda.hpp"
#include "rag_bench/engine.hpp"

namespace rag_bench {
namespace {

class GpuEngine final : public Engine {
 public:
  explicit GpuEngine(const mini_engine::ModelConfig& config)
      : backend_(mini_engine::take(pikv::make_cuda_backend())),
        pinned_(mini_engine::take(pikv::make_cuda_pinned_memory())),
        model_(mini_engine::gpu::GpuModel::random(config, 1, {})) {}

  mini_engine::Model& model() override { return model_; }
  mini_engine::PagedCache make_cache(int num_pages, int page_size) override {
    return mini_engine::gpu::make_device_cache(model_.config(), mini_engine::Precision::kBFloat16, num_pages,
                                               page_size);
  }
  mini_engine::ReuseDevice reuse_device(ChunkPlace place) override {
    return {.backend = backend_.get(),
            .chunk_memory = place == ChunkPlace::kPinned ? pinned_.get() : nullptr,
            .stream = pikv::cuda_stream(model_.stream())};
  }
  [[nodiscard]] pikv::DType store_dtype() const override { return pikv::DType::kBFloat16; }
  [[nodiscard]] std::int64_t device_bytes_in_use() const override {
    std::size_t free_bytes = 0;
    std::size_t all_bytes = 0;
    if (cudaMemGetInfo(&free_bytes, &all_bytes) != cudaSuccess) return 0;
    return static_cast<std::int64_t>(all_bytes - free_bytes);
  }

 private:
  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::MemoryResource> pinned_;
  mini_engine::gpu::GpuModel model_;
};

}  // namespace

std::unique_ptr<Engine> make_gpu_engine(const mini_engine::ModelConfig& config) {
  return std::make_unique<GpuEngine>(config);
}

}  // namespace rag_bench
