// The GPU engine and the CPU engine on the same weights, and an observer that serves both.
#pragma once

#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/cpu_model.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weights.hpp"
#include "support/double_attention.hpp"
#include "support/engine_runs.hpp"

namespace test_support {

inline mini_engine::ModelConfig config_of_heads(int num_heads, int num_kv_heads, int head_dim) {
  mini_engine::ModelConfig config = test_support::small_config();
  config.hidden_size = 128;
  config.ffn_size = 256;
  config.vocab_size = 512;
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  return config;
}

inline std::size_t bytes_of(mini_engine::Precision precision) {
  return precision == mini_engine::Precision::kFloat32 ? 4 : 2;
}

inline std::vector<float> as_floats(const std::vector<std::byte>& bytes, mini_engine::Precision precision) {
  std::vector<float> out(bytes.size() / bytes_of(precision));
  if (precision == mini_engine::Precision::kFloat32) {
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    mini_engine::BFloat16 number = 0;
    std::memcpy(&number, bytes.data() + i * sizeof(number), sizeof(number));
    out[i] = mini_engine::to_float(number);
  }
  return out;
}

inline std::vector<std::byte> as_bytes(const std::vector<float>& numbers, mini_engine::Precision precision) {
  std::vector<std::byte> out(numbers.size() * bytes_of(precision));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (precision == mini_engine::Precision::kFloat32) {
      std::memcpy(out.data() + i * sizeof(float), &numbers[i], sizeof(float));
    } else {
      const mini_engine::BFloat16 number = mini_engine::to_bfloat16(numbers[i]);
      std::memcpy(out.data() + i * sizeof(number), &number, sizeof(number));
    }
  }
  return out;
}

/// Waits for the stream before it copies.
inline std::vector<std::byte> on_host(const void* data, std::size_t size_bytes, cudaStream_t stream) {
  std::vector<std::byte> out(size_bytes);
  REQUIRE(cudaMemcpyAsync(out.data(), data, size_bytes, cudaMemcpyDefault, stream) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
  return out;
}

/// The same weights on both.
struct TwoEngines {
  TwoEngines(const mini_engine::ModelConfig& of, mini_engine::Precision made_of)
      : config(of),
        precision(made_of),
        cpu(mini_engine::CpuModel::random(config, 7, {.weights = precision, .num_threads = 2})),
        gpu([&] {
          mini_engine::ThreadPool pool(2);
          return mini_engine::gpu::GpuModel::copy_of(config, mini_engine::Weights::random(config, 7, precision, pool),
                                                     {.precision = precision});
        }()),
        cpu_cache(config, precision, 64, 16),
        gpu_cache(mini_engine::gpu::make_device_cache(config, precision, 64, 16)) {}

  void poison() {
    constexpr int kPoison = 0x40;  // of every byte: a finite number in either precision
    std::memset(cpu_cache.data(), kPoison, cpu_cache.size_bytes());
    REQUIRE(cudaMemsetAsync(gpu_cache.data(), kPoison, gpu_cache.size_bytes(), gpu.stream()) == cudaSuccess);
  }

  /// Keys or values of a layer, [N][H*D].
  std::vector<float> cached(const mini_engine::Sequence& sequence, int layer, bool of_keys) {
    const std::vector<std::byte> all = on_host(sequence.cache().data(), sequence.cache().size_bytes(), gpu.stream());
    const std::vector<float> cache = as_floats(all, precision);
    const mini_engine::PagedCache::Strides& strides = sequence.cache().strides();
    std::vector<float> out;
    for (const mini_engine::Slot slot : sequence.slots()) {
      const auto row = layer * strides.layer + slot / 16 * strides.page + slot % 16 * strides.token +
                       (of_keys ? 0 : strides.value_offset);
      out.insert(out.end(), cache.begin() + row, cache.begin() + row + config.num_kv_heads * config.head_dim);
    }
    return out;
  }

  mini_engine::ModelConfig config;
  mini_engine::Precision precision;
  mini_engine::CpuModel cpu;
  mini_engine::gpu::GpuModel gpu;
  mini_engine::PagedCache cpu_cache;
  mini_engine::PagedCache gpu_cache;
};

/// Lets rows go as told, attends where told, and keeps what it is shown.
struct Watcher : mini_engine::PassObserver {
  explicit Watcher(TwoEngines& of, std::map<int, std::vector<std::int32_t>> going = {})
      : engines(of), going_on(std::move(going)) {}

  TwoEngines& engines;
  std::map<int, std::vector<std::int32_t>> going_on;  ///< by layer, as indices
  const mini_engine::Sequence* attended = nullptr;    ///< null: the model attends
  float factor = 1.0F;                                ///< of what the observer computes
  std::vector<std::vector<std::int32_t>> projected_rows = {}, query_rows = {};
  std::vector<std::vector<float>> keys = {}, queries = {};  ///< [L][R*...]

  void on_projected(int, const mini_engine::ProjectedRows& rows) override {
    CHECK(rows.num_rows == static_cast<std::int64_t>(rows.rows.size()));
    projected_rows.emplace_back(rows.rows.begin(), rows.rows.end());
    keys.push_back(packed(rows.keys, rows.num_rows, rows.row_stride,
                          engines.config.num_kv_heads * engines.config.head_dim, rows.precision));
  }
  std::optional<std::vector<std::int32_t>> rows_that_go_on(int layer) override {
    const auto found = going_on.find(layer);
    return found == going_on.end() ? std::nullopt : std::optional(found->second);
  }
  void on_queries(int, const mini_engine::TurnedQueries& shown) override {
    query_rows.emplace_back(shown.rows.begin(), shown.rows.end());
    queries.push_back(packed(shown));
  }
  bool attend(int layer, const mini_engine::TurnedQueries& shown, void* out) override {
    if (attended == nullptr) return false;
    std::vector<float> mixed =
        test_support::double_attention(engines.config, shown.rows, packed(shown),
                                       engines.cached(*attended, layer, true), engines.cached(*attended, layer, false));
    for (float& x : mixed) x *= factor;
    const std::vector<std::byte> bytes = as_bytes(mixed, shown.precision);
    const cudaStream_t stream = engines.gpu.stream();
    CHECK(cudaMemcpyAsync(out, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream) == cudaSuccess);
    return true;
  }

  std::vector<float> packed(const mini_engine::TurnedQueries& shown) const {
    return packed(shown.data, static_cast<std::int64_t>(shown.rows.size()), shown.row_stride,
                  engines.config.num_heads * engines.config.head_dim, shown.precision);
  }
  /// [num_rows][size] of wherever the rows lie.
  std::vector<float> packed(const void* data, std::int64_t num_rows, std::int64_t stride, std::int64_t size,
                            mini_engine::Precision of) const {
    std::vector<float> out;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const auto* const from = static_cast<const std::byte*>(data) + row * stride * std::int64_t(bytes_of(of));
      const std::vector<float> one =
          as_floats(on_host(from, static_cast<std::size_t>(size) * bytes_of(of), engines.gpu.stream()), of);
      out.insert(out.end(), one.begin(), one.end());
    }
    return out;
  }
};

/// A prompt whose rows are all computed in one pass.
struct Prompt {
  Prompt(int count, unsigned seed) : tokens(test_support::random_tokens(count, 512, seed)), rows(range(0, count)) {}
  [[nodiscard]] mini_engine::Sequence in(mini_engine::PagedCache& cache) const {
    mini_engine::Sequence sequence(cache);
    sequence.grow(static_cast<int>(tokens.size()));
    return sequence;
  }
  [[nodiscard]] mini_engine::Pass pass(const std::vector<std::int32_t>& logit_rows, mini_engine::PassObserver* observer,
                                       const std::vector<std::int32_t>& documents = {}) const {
    return {.tokens = tokens, .rows = rows, .logit_rows = logit_rows, .documents = documents, .observer = observer};
  }

  static std::vector<std::int32_t> range(int begin, int end) { return test_support::range(begin, end); }
  std::vector<mini_engine::TokenId> tokens;
  std::vector<std::int32_t> rows;
};

}  // namespace test_support
