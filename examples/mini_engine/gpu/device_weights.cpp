#include "device_weights.hpp"

#include <cuda_bf16.h>

#include <cmath>

#include "mini_engine/matmul.hpp"
#include "mini_engine/weights.hpp"
#include "weight_upload.hpp"

namespace mini_engine::gpu {
namespace {

constexpr std::size_t kAlignment = 256;

/// Hands out one piece of memory after the other; with no memory it only counts.
class Pieces {
 public:
  explicit Pieces(std::byte* memory) : memory_(memory) {}

  [[nodiscard]] std::byte* take(std::size_t size_bytes) {
    std::byte* const piece = memory_ == nullptr ? nullptr : memory_ + size_bytes_;
    size_bytes_ += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* memory_;
  std::size_t size_bytes_ = 0;
};

void copy(const float* target, const std::vector<float>& source, cudaStream_t stream) {
  upload(const_cast<float*>(target), source.data(), source.size() * sizeof(float), stream);
}

void copy(const DeviceMatrix& target, const Matrix& source, cudaStream_t stream) {
  const auto num_elements = static_cast<std::size_t>(source.rows() * source.columns());
  const bool is_float = source.precision() == Precision::kFloat32;
  const void* const data = is_float ? static_cast<const void*>(source.float_row(0)) : source.bfloat16_row(0);
  upload(const_cast<void*>(target.data), data, num_elements * (is_float ? sizeof(float) : sizeof(BFloat16)), stream);
}

}  // namespace

DeviceWeights::DeviceWeights(const ModelConfig& config, Precision precision) : precision_(precision) {
  const std::size_t element_bytes = precision == Precision::kFloat32 ? sizeof(float) : sizeof(BFloat16);
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t key = std::int64_t{config.num_kv_heads} * config.head_dim;
  const auto lay_out = [&](Pieces& pieces) {
    const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
      return DeviceMatrix{pieces.take(static_cast<std::size_t>(rows * columns) * element_bytes), rows, columns};
    };
    const auto norm = [&] {
      return reinterpret_cast<const float*>(pieces.take(static_cast<std::size_t>(hidden) * sizeof(float)));
    };
    layers_.clear();
    for (int layer = 0; layer < config.num_layers; ++layer) {
      layers_.push_back({norm(), matrix(query + 2 * key, hidden), matrix(hidden, query), norm(),
                         matrix(2 * std::int64_t{config.ffn_size}, hidden), matrix(hidden, config.ffn_size)});
    }
    embedding_ = matrix(config.vocab_size, hidden);
    output_norm_ = norm();
    output_head_ = config.tied_embeddings ? embedding_ : matrix(config.vocab_size, hidden);
  };
  Pieces counted(nullptr);
  lay_out(counted);
  memory_.grow(counted.size_bytes());
  Pieces pieces(memory_.as<std::byte>());
  lay_out(pieces);
}

DeviceWeights DeviceWeights::load(const ModelFile& file, Precision precision, ThreadPool& pool,
                                  const LoadProgress& progress) {
  const ModelConfig& config = file.config();
  DeviceWeights made(config, precision);
  WeightUpload weights(file, precision);
  const struct {
    WeightUpload& weights;
    std::int64_t norm_size;
    void vector(const float* target, TensorName name) const { weights.vector(target, norm_size, name); }
    void matrix(const DeviceMatrix& target, std::int64_t first_row, std::int64_t num_rows, TensorName name) const {
      weights.matrix(target, first_row, num_rows, name);
    }
  } sink{weights, config.hidden_size};
  sink.matrix(made.embedding_, 0, config.vocab_size, {TensorRole::kTokenEmbedding, 0});
  for (int index = 0; index < config.num_layers; ++index) for_each_tensor(made.layer(index), index, config, sink);
  sink.vector(made.output_norm_, {TensorRole::kOutputNorm, 0});
  if (!config.tied_embeddings) sink.matrix(made.output_head_, 0, config.vocab_size, {TensorRole::kOutputHead, 0});
  weights.run(pool, progress);
  return made;
}

DeviceWeights DeviceWeights::upload(const ModelConfig& config, const Weights& weights, Precision precision) {
  DeviceWeights made(config, precision);
  const Stream stream;
  for (int index = 0; index < config.num_layers; ++index) {
    const Layer& to = made.layer(index);
    const Weights::Layer& from = weights.layer(index);
    copy(to.attention_norm, from.attention_norm, stream.get());
    copy(to.query_key_value, from.query_key_value, stream.get());
    copy(to.attention_output, from.attention_output, stream.get());
    copy(to.ffn_norm, from.ffn_norm, stream.get());
    copy(to.gate_up, from.gate_up, stream.get());
    copy(to.down, from.down, stream.get());
  }
  copy(made.embedding_, weights.embedding(), stream.get());
  copy(made.output_norm_, weights.output_norm(), stream.get());
  if (!config.tied_embeddings) copy(made.output_head_, weights.output_head(), stream.get());
  stream.synchronize();
  return made;
}

DeviceWeights DeviceWeights::random(const ModelConfig& config, std::uint64_t seed, Precision precision) {
  DeviceWeights made(config, precision);
  const Stream stream;
  const auto fill_matrix = [&](const DeviceMatrix& matrix, float gain) {
    // Of variance gain^2 / columns, so that outputs are as large as inputs times the gain.
    const float scale = gain * std::sqrt(3.0F / static_cast<float>(matrix.columns));
    const std::int64_t count = matrix.rows * matrix.columns;
    if (precision == Precision::kFloat32) {
      fill_random(static_cast<float*>(const_cast<void*>(matrix.data)), count, scale, ++seed, stream.get());
    } else {
      fill_random(static_cast<__nv_bfloat16*>(const_cast<void*>(matrix.data)), count, scale, ++seed, stream.get());
    }
  };
  // What is added to the residual stream by all layers together is as large as what enters it.
  const float residual_gain = 1.0F / std::sqrt(2.0F * static_cast<float>(config.num_layers));
  for (const Layer& layer : made.layers_) {
    fill(const_cast<float*>(layer.attention_norm), config.hidden_size, 1.0F, stream.get());
    fill(const_cast<float*>(layer.ffn_norm), config.hidden_size, 1.0F, stream.get());
    fill_matrix(layer.query_key_value, 1.0F);
    fill_matrix(layer.attention_output, residual_gain);
    fill_matrix(layer.gate_up, 1.0F);
    fill_matrix(layer.down, residual_gain);
  }
  fill_matrix(made.embedding_, std::sqrt(static_cast<float>(config.hidden_size)));  // of order one
  fill(const_cast<float*>(made.output_norm_), config.hidden_size, 1.0F, stream.get());
  if (!config.tied_embeddings) fill_matrix(made.output_head_, 1.0F);
  stream.synchronize();
  return made;
}

}  // namespace mini_engine::gpu
