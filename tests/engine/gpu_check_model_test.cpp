// What check_model() says of the engine on a GPU.
#include <doctest/doctest.h>

#include "mini_engine/check_probe.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "pikv/cuda.hpp"
#include "support/gpu_runs.hpp"

TEST_CASE("the GPU's engine is vouched for") {
  if (!test_support::has_gpu()) return;
  mini_engine::ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 128;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.ffn_size = 256;
  config.vocab_size = 512;
  config.max_positions = 1024;
  for (const mini_engine::Precision precision : {mini_engine::Precision::kFloat32, mini_engine::Precision::kBFloat16}) {
    auto model = mini_engine::gpu::GpuModel::random(config, 7, {.precision = precision});
    const auto backend = mini_engine::take(pikv::make_cuda_backend());
    mini_engine::PagedCache cache = mini_engine::gpu::make_device_cache(config, precision, 64, 16);
    mini_engine::CheckProbe probe(model, cache,
                                  {.store_dtype = mini_engine::dtype_of(precision),
                                   .device = {.backend = backend.get(), .stream = pikv::cuda_stream(model.stream())}});
    const pikv::CheckReport report = pikv::check_model(probe);
    INFO(to_text(report));
    CHECK(report.vouched);
  }
}
