#include "cpu_model.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "attention.hpp"
#include "cache_rows.hpp"
#include "error.hpp"
#include "matmul.hpp"
#include "model_file.hpp"
#include "ops.hpp"
#include "pass_checks.hpp"
#include "pass_rows.hpp"
#include "simd/kernels.hpp"
#include "weights.hpp"

namespace mini_engine {
namespace {

// The feed-forward layer of a long pass runs in blocks of rows, so that its wide activations stay small.
constexpr std::int64_t kFeedForwardRows = 1024;

// Moves rows `chosen` (ascending), of which `size` elements matter, to the front.
void keep_rows(OutputRows of, std::span<const std::int32_t> chosen, std::int64_t size) {
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    std::memmove(of.data + static_cast<std::int64_t>(i) * of.stride, of.data + chosen[i] * of.stride,
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
  bool shown_and_attended(PassObserver* observer, int layer, std::span<const std::int32_t> rows, OutputRows query_rows);
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

  PassRows rows(pass);
  PassObserver* const observer = pass.observer;
  std::optional<AttentionMask> mask(std::in_place, rows.rows(), pass.documents);
  for (int index = 0; index < config.num_layers; ++index) {
    const Weights::Layer& layer = weights.layer(index);
    const Matrix& stacked = layer.query_key_value;
    const OutputRows hidden_rows{hidden.data(), size};
    const InputRows normed_rows{normed.data(), size};
    const OutputRows attended_rows{attended.data(), query_size};
    // Past the K and V of the last layer only rows whose logits are wanted go on. Nobody then needs the others' queries
    // but an observer.
    const bool is_last = index + 1 == config.num_layers;
    const bool narrows_early =
        is_last && observer == nullptr && pass.logit_rows.size() < static_cast<std::size_t>(rows.size());
    if (observer != nullptr) observer->before_layer(index);

    normalize(rows.size(), layer.attention_norm);
    OutputRows query_rows{projected.data(), projected_size};
    const OutputRows key_rows{projected.data() + query_size, projected_size};
    if (narrows_early) {
      matmul(normed_rows, rows.size(), {stacked, query_size, projected_size}, key_rows);
    } else {
      matmul(normed_rows, rows.size(), stacked, query_rows);
    }
    split_keys_values(rows.size(), {key_rows.data, key_rows.stride}, precision);
    std::optional<std::vector<std::int32_t>> chosen;
    if (observer != nullptr) {
      observer->on_projected(index, {.num_rows = rows.size(),
                                     .rows = rows.rows(),
                                     .row_stride = key_size,
                                     .keys = keys.data(),
                                     .values = values.data()});
      chosen = rows.ask_which_go_on(index);
    }
    if (precision == Precision::kFloat32) {
      write_cache<float>(index, rows.rows(), sequence);
    } else {
      write_cache<BFloat16>(index, rows.rows(), sequence);
    }

    const auto keep = [&](std::span<const std::int32_t> kept) {
      keep_rows(hidden_rows, kept, size);
      rows.keep(kept);
      mask.emplace(rows.rows(), pass.documents);
    };
    if (narrows_early) {
      keep_rows({normed.data(), size}, pass.logit_rows, size);
      keep(pass.logit_rows);
      query_rows = {queries.grow(rows.size() * query_size), query_size};
      matmul(normed_rows, rows.size(), {stacked, 0, query_size}, query_rows);
    } else if (chosen) {
      keep_rows(query_rows, *chosen, query_size);
      keep(*chosen);
    }
    rotate_queries(rows.rows(), query_rows);
    if (!shown_and_attended(observer, index, rows.rows(), query_rows)) {
      attention(sequence, index, *mask, {query_rows.data, query_rows.stride}, attended_rows);
    }
    if (is_last && observer != nullptr) {
      const std::vector<std::int32_t> wanted(rows.pass().logit_rows.begin(), rows.pass().logit_rows.end());
      keep_rows(attended_rows, wanted, query_size);
      keep(wanted);
    }
    matmul({attended.data(), query_size}, rows.size(), layer.attention_output, hidden_rows, Store::kAdd);
    normalize(rows.size(), layer.ffn_norm);
    feed_forward(rows.size(), layer);
  }
  return logits(rows.size());
}

// Shows the observer the queries; returns whether it has put the layer's attention where the model's would be.
bool CpuModel::Impl::shown_and_attended(PassObserver* observer, int layer, std::span<const std::int32_t> rows,
                                        OutputRows query_rows) {
  if (observer == nullptr) return false;
  const TurnedQueries turned{.rows = rows, .row_stride = query_rows.stride, .data = query_rows.data};
  observer->on_queries(layer, turned);
  return observer->attend(layer, turned, attended.data());
}

CpuModel::CpuModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CpuModel::~CpuModel() = default;
CpuModel::CpuModel(CpuModel&&) noexcept = default;

CpuModel::CpuModel(const ModelFile& file, const ModelOptions& options)
    : impl_(std::make_unique<Impl>(file.config(), options, [&](ThreadPool& pool) {
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
