#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "rag_bench/engine.hpp"

namespace rag_bench {
namespace {

class CpuEngine final : public Engine {
 public:
  CpuEngine(const mini_engine::ModelConfig& config, int num_threads)
      : model_(mini_engine::CpuModel::random(config, 1, {.num_threads = num_threads})) {}

  mini_engine::Model& model() override { return model_; }
  mini_engine::PagedCache make_cache(int num_pages, int page_size) override {
    return mini_engine::PagedCache(model_.config(), mini_engine::Precision::kFloat32, num_pages, page_size);
  }
  mini_engine::ReuseDevice reuse_device(ChunkPlace place) override {
    if (place != ChunkPlace::kDevice) throw mini_engine::Error("the CPU engine has no memory but its own for chunks");
    return {};
  }
  [[nodiscard]] pikv::DType store_dtype() const override { return pikv::DType::kFloat32; }
  [[nodiscard]] std::int64_t device_bytes_in_use() const override { return 0; }

 private:
  mini_engine::CpuModel model_;
};

}  // namespace

std::unique_ptr<Engine> make_cpu_engine(const mini_engine::ModelConfig& config, int num_threads) {
  return std::make_unique<CpuEngine>(config, num_threads);
}

}  // namespace rag_bench
