#include "cpu_model.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "attention.hpp"
#include "cache_rows.hpp"
#include "error.hpp"
#include "matmul.hpp"
#include "model_file.hpp"
#include "ops.hpp"
#include "pass_checks.hpp"
#include "simd/kernels.hpp"
#include "weights.hpp"

namespace mini_engine {
namespace {

// The feed-forward layer of a long pass runs in blocks of rows, so that its wide activations stay small.
constexpr std::int64_t kFeedForwardRows = 1024;

// Moves rows `chosen` (ascending) of `size` elements to the front.
void keep_rows(float* data, std::span<const std::int32_t> chosen, std::int64_t size) {
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    std::memmove(data + static_cast<std::int64_t>(i) * size, data + chosen[i] * size,
                 static_cast<std::size_t>(size) * sizeof(float));
  }
}

ModelConfig validated(ModelConfig config, const std::string& source) {
  validate(config, source);
  return config;
}

std::string source_of(const ModelConfig& config) { return config.name.empty() ? "model" : config.name; }

}  // namespace

struct CpuModel::Impl {
  ModelConfig config;
  ThreadPool pool;
  RotaryTable rotary;
  Weights weights;
  MatMul matmul;
  Attention attention;
  std::int64_t query_size;  // Q*D
  std::int64_t key_size;    // H*D

  // Scratch of a pass, [R] rows each.
  AlignedBuffer<float> hidden;     // [E] the residual stream
  AlignedBuffer<float> normed;     // [E]
  AlignedBuffer<float> projected;  // [Q*D + 2*H*D]
  AlignedBuffer<float> queries;    // [Q*D] of the last layer, when few of its rows go on
  AlignedBuffer<float> keys;       // [H*D]
  AlignedBuffer<float> values;     // [H*D]
  AlignedBuffer<float> attended;   // [Q*D]
  AlignedBuffer<float> gate_up;    // [2F] of a block of rows

  template <typename MakeWeights>
  Impl(const ModelConfig& from, const ModelOptions& options, const MakeWeights& make_weights)
      : config(validated(from, source_of(from))),
        pool(options.num_threads),
        rotary(make_rotary_table(config.rope, config.head_dim, config.max_positions)),
        weights(make_weights(pool)),
        matmul(pool),
        attention(config, pool),
        query_size(std::int64_t{config.num_heads} * config.head_dim),
        key_size(std::int64_t{config.num_kv_heads} * config.head_dim) {}

  void embed(std::span<const TokenId> tokens);
  void normalize(std::int64_t num_rows, const std::vector<float>& weight) {
    rmsnorm_rows(pool, num_rows, {hidden.data(), config.hidden_size}, weight, config.rms_eps,
                 {normed.data(), config.hidden_size});
  }
  void split_keys_values(std::int64_t num_rows, InputRows from, Precision precision);
  template <typename T>
  void write_cache(int layer, std::span<const std::int32_t> rows, Sequence& sequence);
  void rotate_queries(std::span<const std::int32_t> rows, OutputRows of);
  void feed_forward(std::int64_t num_rows, const Weights::Layer& layer);
  std::vector<float> logits(std::int64_t num_rows);
  std::vector<float> forward(const Pass& pass, Sequence& sequence);
};

void CpuModel::Impl::embed(std::span<const TokenId> tokens) {
  const std::int64_t size = config.hidden_size;
  for_ranges(pool, static_cast<std::int64_t>(tokens.size()), size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      weights.embedding().get_row(tokens[static_cast<std::size_t>(row)], hidden.data() + row * size);
    }
  });
}

// `from` is [R][K then V]; rounds as the cache's precision asks.
void CpuModel::Impl::split_keys_values(std::int64_t num_rows, InputRows from, Precision precision) {
  for_ranges(pool, num_rows, 2 * key_size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* key = from.data + row * from.stride;
      const auto copy = [&](const float* x, float* y) {
        if (precision == Precision::kFloat32) {
          std::memcpy(y, x, static_cast<std::size_t>(key_size) * sizeof(float));
        } else {
          simd::kernels().round_to_bf16(x, y, key_size);
        }
      };
      copy(key, keys.data() + row * key_size);
      copy(key + key_size, values.data() + row * key_size);
    }
  });
}

// Rotates the keys of the pass and puts K and V where the sequence keeps them.
template <typename T>
void CpuModel::Impl::write_cache(int layer, std::span<const std::int32_t> rows, Sequence& sequence) {
  const CacheRows<T> cache(sequence.cache(), layer);
  const int half = config.head_dim / 2;
  for_ranges(pool, static_cast<std::int64_t>(rows.size()), 4 * key_size, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> rotated(static_cast<std::size_t>(config.head_dim));
    const auto store = [&](const float* x, T* y) {
      if constexpr (sizeof(T) == sizeof(float)) {
        std::memcpy(y, x, rotated.size() * sizeof(float));
      } else {
        simd::kernels().round_bf16(x, y, config.head_dim);
      }
    };
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t row = rows[static_cast<std::size_t>(i)];
      const Slot slot = sequence.slots()[static_cast<std::size_t>(row)];
      const float* cos = rotary.cos.data() + std::int64_t{row} * half;
      const float* sin = rotary.sin.data() + std::int64_t{row} * half;
      for (int head = 0; head < config.num_kv_heads; ++head) {
        const std::int64_t from = i * key_size + std::int64_t{head} * config.head_dim;
        simd::kernels().rotate(keys.data() + from, cos, sin, rotated.data(), half);
        store(rotated.data(), cache.key(slot, head));
        store(values.data() + from, cache.value(slot, head));
      }
    }
  });
}

void CpuModel::Impl::rotate_queries(std::span<const std::int32_t> rows, OutputRows of) {
  const int half = config.head_dim / 2;
  for_ranges(pool, static_cast<std::int64_t>(rows.size()), 2 * query_size, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t angles = std::int64_t{rows[static_cast<std::size_t>(i)]} * half;
      for (int head = 0; head < config.num_heads; ++head) {
        float* query = of.data + i * of.stride + std::int64_t{head} * config.head_dim;
        simd::kernels().rotate(query, rotary.cos.data() + angles, rotary.sin.data() + angles, query, half);
      }
    }
  });
}

// hidden += down(silu(gate(normed)) * up(normed))
void CpuModel::Impl::feed_forward(std::int64_t num_rows, const Weights::Layer& layer) {
  const std::int64_t ffn = config.ffn_size;
  const std::int64_t size = config.hidden_size;
  const std::int64_t num_blocks = (num_rows + kFeedForwardRows - 1) / kFeedForwardRows;
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const std::int64_t first = num_rows * block / num_blocks;
    const std::int64_t count = num_rows * (block + 1) / num_blocks - first;
    const OutputRows wide{gate_up.grow(count * 2 * ffn), 2 * ffn};
    matmul({normed.data() + first * size, size}, count, layer.gate_up, wide);
    silu_multiply_rows(pool, count, wide, ffn);
    matmul({wide.data, wide.stride}, count, layer.down, {hidden.data() + first * size, size}, Store::kAdd);
  }
}

std::vector<float> CpuModel::Impl::logits(std::int64_t num_rows) {
  normalize(num_rows, weights.output_norm());
  std::vector<float> out(static_cast<std::size_t>(num_rows * config.vocab_size));
  matmul({normed.data(), config.hidden_size}, num_rows, weights.output_head(), {out.data(), config.vocab_size});
  return out;
}

std::vector<float> CpuModel::Impl::forward(const Pass& pass, Sequence& sequence) {
  const SingleThreadedBlas single_threaded_blas;
  const Precision precision = sequence.cache().precision();
  const auto num_rows = static_cast<std::int64_t>(pass.rows.size());
  const std::int64_t size = config.hidden_size;
  const std::int64_t projected_size = query_size + 2 * key_size;
  hidden.grow(num_rows * size);
  normed.grow(num_rows * size);
  projected.grow(num_rows * projected_size);
  attended.grow(num_rows * query_size);
  keys.grow(num_rows * key_size);
  values.grow(num_rows * key_size);
  embed(pass.tokens);

  // The rows that go on past the K and V of the last layer: only those somebody wants logits of.
  std::vector<std::int32_t> logit_rows;
  for (const std::int32_t index : pass.logit_rows) logit_rows.push_back(pass.rows[static_cast<std::size_t>(index)]);
  const auto num_logit_rows = static_cast<std::int64_t>(logit_rows.size());
  const AttentionMask mask(pass.rows, pass.documents);
  const AttentionMask last_mask(logit_rows, pass.documents);

  for (int index = 0; index < config.num_layers; ++index) {
    const Weights::Layer& layer = weights.layer(index);
    const bool narrows = index + 1 == config.num_layers && num_logit_rows < num_rows;
    if (pass.observer != nullptr) pass.observer->before_layer(index);

    normalize(num_rows, layer.attention_norm);
    OutputRows query_rows{projected.data(), projected_size};
    InputRows key_rows{projected.data() + query_size, projected_size};
    const Matrix& stacked = layer.query_key_value;
    if (narrows) {
      matmul({normed.data(), size}, num_rows, {stacked, query_size, projected_size},
             {projected.data() + query_size, projected_size});
      keep_rows(hidden.data(), pass.logit_rows, size);
      keep_rows(normed.data(), pass.logit_rows, size);
      query_rows = {queries.grow(num_logit_rows * query_size), query_size};
      matmul({normed.data(), size}, num_logit_rows, {stacked, 0, query_size}, query_rows);
    } else {
      matmul({normed.data(), size}, num_rows, stacked, query_rows);
    }

    split_keys_values(num_rows, key_rows, precision);
    if (pass.observer != nullptr) {
      pass.observer->on_projected(
          index, {.num_rows = num_rows, .row_stride = key_size, .keys = keys.data(), .values = values.data()});
    }
    if (precision == Precision::kFloat32) {
      write_cache<float>(index, pass.rows, sequence);
    } else {
      write_cache<BFloat16>(index, pass.rows, sequence);
    }

    const AttentionMask& layer_mask = narrows ? last_mask : mask;
    const auto num_active = static_cast<std::int64_t>(layer_mask.rows().size());
    rotate_queries(layer_mask.rows(), query_rows);
    attention(sequence, index, layer_mask, {query_rows.data, query_rows.stride}, {attended.data(), query_size});
    matmul({attended.data(), query_size}, num_active, layer.attention_output, {hidden.data(), size}, Store::kAdd);
    normalize(num_active, layer.ffn_norm);
    feed_forward(num_active, layer);
  }
  return logits(num_logit_rows);
}

CpuModel::CpuModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CpuModel::~CpuModel() = default;
CpuModel::CpuModel(CpuModel&&) noexcept = default;

CpuModel::CpuModel(const ModelFile& file, const ModelOptions& options)
    : impl_(std::make_unique<Impl>(file.config(), options,
                                   [&](ThreadPool& pool) {
                                     return Weights::load(file, options.weights, pool, options.progress);
                                   })) {}

CpuModel CpuModel::random(const ModelConfig& config, std::uint64_t seed, const ModelOptions& options) {
  return CpuModel(std::make_unique<Impl>(
      config, options, [&](ThreadPool& pool) { return Weights::random(config, seed, options.weights, pool); }));
}

const ModelConfig& CpuModel::config() const { return impl_->config; }
const RotaryTable& CpuModel::rotary() const { return impl_->rotary; }

std::vector<std::vector<float>> CpuModel::forward(std::span<const SequencePass> passes) {
  check_passes(passes, impl_->config, impl_->rotary.num_positions);
  std::vector<std::vector<float>> logits;
  logits.reserve(passes.size());
  for (const SequencePass& one : passes) logits.push_back(impl_->forward(one.pass, *one.sequence));
  return logits;
}

}  // namespace mini_engine
