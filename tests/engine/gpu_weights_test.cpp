// Weights that go straight from a file to the GPU against those that the CPU engine decodes.
#include <doctest/doctest.h>

#include <cuda_runtime_api.h>

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/gpu/device_weights.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weights.hpp"
#include "support/gpu_runs.hpp"
#include "support/memory_model.hpp"

namespace {

using mini_engine::Encoding;
using mini_engine::ModelConfig;
using mini_engine::Precision;
using mini_engine::TensorRole;
using mini_engine::TensorView;
using mini_engine::ThreadPool;
using mini_engine::Weights;
using mini_engine::gpu::DeviceMatrix;
using mini_engine::gpu::DeviceWeights;
using test_support::has_gpu;
using test_support::MemoryModel;
using test_support::RopeRows;

/// A MemoryModel whose matrices are stored in bf16.
class NarrowModel final : public MemoryModel {
 public:
  using MemoryModel::MemoryModel;

  [[nodiscard]] TensorView tensor(TensorRole role, int layer) const override {
    TensorView view = MemoryModel::tensor(role, layer);
    if (view.rows == 1) return view;
    std::vector<mini_engine::BFloat16>& stored = narrow_[{role, layer}];
    if (stored.empty()) {
      for (const float value : values(role, layer)) stored.push_back(mini_engine::to_bfloat16(value));
    }
    view.encoding = Encoding::kBF16;
    view.bytes = std::as_bytes(std::span(stored));
    return view;
  }

 private:
  mutable std::map<std::pair<TensorRole, int>, std::vector<mini_engine::BFloat16>> narrow_;
};

/// Matrices of several pieces, a vocabulary that no piece divides, and rows that no power of two does.
ModelConfig config_with_tied(bool tied) {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = 328;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.ffn_size = 1000;
  config.vocab_size = 20011;
  config.max_positions = 64;
  config.tied_embeddings = tied;
  return config;
}

std::vector<std::byte> fetched(const void* data, std::size_t size_bytes) {
  std::vector<std::byte> bytes(size_bytes);
  REQUIRE(cudaMemcpy(bytes.data(), data, size_bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
  return bytes;
}

bool same(const DeviceMatrix& a, const DeviceMatrix& b, Precision precision) {
  const std::size_t size_bytes = static_cast<std::size_t>(a.rows * a.columns) * (precision == Precision::kFloat32 ? 4 : 2);
  return a.rows == b.rows && a.columns == b.columns && fetched(a.data, size_bytes) == fetched(b.data, size_bytes);
}

void check_same(const mini_engine::ModelFile& file, Precision precision) {
  const ModelConfig& config = file.config();
  ThreadPool pool(3);
  std::int64_t last = 0;
  std::int64_t in_all = 0;
  bool grows = true;
  const DeviceWeights loaded =
      DeviceWeights::load(file, precision, pool, [&](std::int64_t num_bytes, std::int64_t num_bytes_in_all) {
        grows = grows && num_bytes > last && num_bytes <= num_bytes_in_all;
        last = num_bytes;
        in_all = num_bytes_in_all;
      });
  CHECK(grows);
  CHECK(last == in_all);
  const DeviceWeights expected = DeviceWeights::upload(config, Weights::load(file, precision, pool), precision);
  const std::size_t norm_bytes = static_cast<std::size_t>(config.hidden_size) * sizeof(float);
  const auto same_norm = [&](const float* a, const float* b) {
    return fetched(a, norm_bytes) == fetched(b, norm_bytes);
  };
  for (int index = 0; index < config.num_layers; ++index) {
    CAPTURE(index);
    const DeviceWeights::Layer& a = loaded.layer(index);
    const DeviceWeights::Layer& b = expected.layer(index);
    CHECK(same_norm(a.attention_norm, b.attention_norm));
    CHECK(same(a.query_key_value, b.query_key_value, precision));
    CHECK(same(a.attention_output, b.attention_output, precision));
    CHECK(same_norm(a.ffn_norm, b.ffn_norm));
    CHECK(same(a.gate_up, b.gate_up, precision));
    CHECK(same(a.down, b.down, precision));
  }
  CHECK(same(loaded.embedding(), expected.embedding(), precision));
  CHECK(same_norm(loaded.output_norm(), expected.output_norm()));
  CHECK(same(loaded.output_head(), expected.output_head(), precision));
}

}  // namespace

TEST_CASE("weights read straight to the device are those the CPU engine decodes, to the last bit") {
  if (!has_gpu()) return;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const RopeRows rows : {RopeRows::kHalfSplit, RopeRows::kInterleaved}) {
      CAPTURE(static_cast<int>(precision));
      CAPTURE(static_cast<int>(rows));
      check_same(MemoryModel(config_with_tied(false), 3, rows), precision);
      NarrowModel narrow(config_with_tied(true), 4, rows);
      ThreadPool one(1);
      (void)Weights::load(narrow, precision, one);  // makes its numbers, which it may not do in several threads
      check_same(narrow, precision);
    }
  }
}

TEST_CASE("a tensor of another shape is refused by name before anything is read") {
  if (!has_gpu()) return;
  MemoryModel model(config_with_tied(false), 3);
  model.misreport(TensorRole::kFfnUp, 1, 999, 328);
  ThreadPool pool(2);
  CHECK_THROWS_WITH_AS((void)DeviceWeights::load(model, Precision::kBFloat16, pool, {}),
                       doctest::Contains("feed-forward up of layer 1 is 999 by 328"), mini_engine::Error);
}
