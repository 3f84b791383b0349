#include "mini_engine/cpu_model.hpp"
#include "mini_engine/engine/engine_kinds.hpp"
#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

class CpuEngine final : public Engine {
 public:
  CpuEngine(CpuModel model, Precision cache) : model_(std::move(model)), cache_(cache) {}

  Model& model() override { return model_; }
  PagedCache make_cache(int num_pages, int page_size) override {
    return PagedCache(model_.config(), cache_, num_pages, page_size);
  }
  ReuseDevice reuse_device(ChunkPlace place) override {
    if (place != ChunkPlace::kDevice) throw Error("the CPU engine keeps chunks in its own memory only");
    return {};
  }
  [[nodiscard]] pikv::DType store_dtype() const override { return dtype_of(cache_); }
  [[nodiscard]] std::int64_t device_bytes_in_use() const override { return 0; }

 private:
  CpuModel model_;
  Precision cache_;
};

}  // namespace

std::unique_ptr<Engine> make_cpu_engine(const ModelFile* file, const ModelConfig& config,
                                        const EngineOptions& options) {
  if (options.attention != AttentionKind::kOwn) {
    throw Error("the CPU engine computes attention itself; cuDNN's is a GPU's");
  }
  const ModelOptions of_model{
      .weights = options.weights, .num_threads = options.num_threads, .progress = options.progress};
  return std::make_unique<CpuEngine>(
      file != nullptr ? CpuModel(*file, of_model) : CpuModel::random(config, options.seed, of_model), options.cache);
}

}  // namespace mini_engine
