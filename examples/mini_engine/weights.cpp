#include "weights.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "bfloat16.hpp"

namespace mini_engine {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

// Fills rows [first_row, first_row + num_rows) of a matrix.
struct Part {
  Matrix* matrix;
  std::int64_t first_row;
  std::int64_t num_rows;
};

// Calls make_row(row, values) for each row of the part, on all threads, and stores what it made.
template <typename MakeRow>
void fill(const Part& part, ThreadPool& pool, const MakeRow& make_row) {
  const auto num_tasks = static_cast<int>((part.num_rows + kRowsPerTask - 1) / kRowsPerTask);
  pool.run(num_tasks, [&](int task, int) {
    std::vector<float> values(static_cast<std::size_t>(part.matrix->columns()));
    const std::int64_t end = std::min(part.num_rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      make_row(row, std::span<float>(values));
      part.matrix->set_row(part.first_row + row, values.data());
    }
  });
}

std::int64_t matrix_bytes(const Matrix& matrix, std::int64_t num_rows) {
  const std::size_t element_bytes = matrix.precision() == Precision::kFloat32 ? sizeof(float) : sizeof(BFloat16);
  return num_rows * matrix.columns() * static_cast<std::int64_t>(element_bytes);
}

// A hash good enough for noise: each element has its own, so threads need not share a generator.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// Uniform noise of standard deviation `deviation` around `mean`, a function of (stream, index) alone.
float noise(std::uint64_t stream, std::int64_t index, float mean, float deviation) {
  const std::uint64_t bits = mixed(stream ^ mixed(static_cast<std::uint64_t>(index)));
  const float unit = static_cast<float>(bits >> 40) * 0x1p-23F - 1.0F;
  return mean + deviation * std::sqrt(3.0F) * unit;
}

class Loader {
 public:
  Loader(const ModelFile& file, ThreadPool& pool, std::int64_t num_bytes, const LoadProgress& progress)
      : file_(file), pool_(pool), num_bytes_(num_bytes), progress_(progress) {}

  void vector(std::vector<float>& out, TensorName name) const { read_vector(file_, name, out); }
  void matrix(Matrix& matrix, std::int64_t first_row, std::int64_t num_rows, TensorName name) const {
    const TensorRows rows(file_, name, num_rows, matrix.columns());
    fill({&matrix, first_row, num_rows}, pool_,
         [&](std::int64_t row, std::span<float> values) { rows.read(row, values); });
    num_bytes_done_ += matrix_bytes(matrix, num_rows);
    if (progress_) progress_(num_bytes_done_, num_bytes_);
  }

 private:
  const ModelFile& file_;
  ThreadPool& pool_;
  std::int64_t num_bytes_;
  const LoadProgress& progress_;
  mutable std::int64_t num_bytes_done_ = 0;
};

// Of all matrices.
class ByteCounter {
 public:
  void vector(const std::vector<float>&, TensorName) const {}
  void matrix(const Matrix& matrix, std::int64_t, std::int64_t num_rows, TensorName) const {
    num_bytes_ += matrix_bytes(matrix, num_rows);
  }
  [[nodiscard]] std::int64_t num_bytes() const { return num_bytes_; }

 private:
  mutable std::int64_t num_bytes_ = 0;
};

class Randomizer {
 public:
  Randomizer(const ModelConfig& config, std::uint64_t seed, ThreadPool& pool)
      : config_(config), seed_(seed), pool_(pool) {}

  void vector(std::vector<float>& out, TensorName name) const {
    const std::uint64_t stream = stream_of(name);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = noise(stream, static_cast<std::int64_t>(i), 1.0F, 0.1F);
  }
  void matrix(Matrix& matrix, std::int64_t first_row, std::int64_t num_rows, TensorName name) const {
    const std::uint64_t stream = stream_of(name);
    const std::int64_t columns = matrix.columns();
    const float deviation = deviation_of(name.role) / std::sqrt(static_cast<float>(columns));
    fill({&matrix, first_row, num_rows}, pool_, [&](std::int64_t row, std::span<float> values) {
      for (std::int64_t i = 0; i < columns; ++i) {
        values[static_cast<std::size_t>(i)] = noise(stream, row * columns + i, 0.0F, deviation);
      }
    });
  }

 private:
  [[nodiscard]] std::uint64_t stream_of(TensorName name) const {
    return mixed(mixed(seed_) + static_cast<std::uint64_t>(name.layer) * 64 + static_cast<std::uint64_t>(name.role));
  }
  // In units of 1/sqrt(inputs). What enters the residual stream is scaled so that all layers together add about as
  // much as the embedding put there; without that, logits would hardly depend on the token itself.
  [[nodiscard]] float deviation_of(TensorRole role) const {
    constexpr float kLogits = 3.0F;
    const float stream = kLogits / std::sqrt(static_cast<float>(config_.hidden_size));
    const float share = stream / std::sqrt(2.0F * static_cast<float>(config_.num_layers));
    switch (role) {
      case TensorRole::kTokenEmbedding:
      case TensorRole::kOutputHead:
        return kLogits;
      case TensorRole::kAttentionOutput:
      case TensorRole::kFfnDown:
        return 2.0F * share;
      case TensorRole::kQuery:
      case TensorRole::kKey:
        return 1.5F;
      default:
        return 1.0F;
    }
  }

  const ModelConfig& config_;
  std::uint64_t seed_;
  ThreadPool& pool_;
};

}  // namespace

Weights::Weights(const ModelConfig& config, Precision precision)
    : embedding_(precision, config.vocab_size, config.hidden_size),
      output_norm_(static_cast<std::size_t>(config.hidden_size)),
      is_tied_(config.tied_embeddings) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t key = std::int64_t{config.num_kv_heads} * config.head_dim;
  if (!is_tied_) output_head_ = Matrix(precision, config.vocab_size, hidden);
  for (int index = 0; index < config.num_layers; ++index) {
    layers_.push_back({.attention_norm = std::vector<float>(static_cast<std::size_t>(hidden)),
                       .query_key_value = Matrix(precision, query + 2 * key, hidden),
                       .attention_output = Matrix(precision, hidden, query),
                       .ffn_norm = std::vector<float>(static_cast<std::size_t>(hidden)),
                       .gate_up = Matrix(precision, 2 * std::int64_t{config.ffn_size}, hidden),
                       .down = Matrix(precision, hidden, config.ffn_size)});
  }
}

// Hands every tensor of the model to `source` (a Loader, a Randomizer or a ByteCounter).
template <typename Source>
void Weights::fill_from(const ModelConfig& config, const Source& source) {
  source.matrix(embedding_, 0, config.vocab_size, {TensorRole::kTokenEmbedding, 0});
  for (int index = 0; index < config.num_layers; ++index) {
    for_each_tensor(layers_[static_cast<std::size_t>(index)], index, config, source);
  }
  source.vector(output_norm_, {TensorRole::kOutputNorm, 0});
  if (!is_tied_) source.matrix(output_head_, 0, config.vocab_size, {TensorRole::kOutputHead, 0});
}

Weights Weights::load(const ModelFile& file, Precision precision, ThreadPool& pool, const LoadProgress& progress) {
  Weights weights(file.config(), precision);
  ByteCounter counter;
  weights.fill_from(file.config(), counter);
  weights.fill_from(file.config(), Loader(file, pool, counter.num_bytes(), progress));
  return weights;
}

Weights Weights::random(const ModelConfig& config, std::uint64_t seed, Precision precision, ThreadPool& pool) {
  Weights weights(config, precision);
  weights.fill_from(config, Randomizer(config, seed, pool));
  return weights;
}

}  // namespace mini_engine
