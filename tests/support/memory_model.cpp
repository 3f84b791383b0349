#include "support/memory_model.hpp"

#include <cmath>
#include <random>

#include "mini_engine/error.hpp"

namespace test_support {
namespace {

using mini_engine::TensorRole;

bool has_layer(TensorRole role) {
  return role != TensorRole::kTokenEmbedding && role != TensorRole::kOutputNorm && role != TensorRole::kOutputHead;
}

}  // namespace

MemoryModel::MemoryModel(mini_engine::ModelConfig config, unsigned seed, RopeRows rope_rows)
    : config_(std::move(config)), rope_rows_(rope_rows) {
  std::mt19937 random(seed);
  const auto add = [&](TensorRole role, int layer, std::int64_t rows, std::int64_t columns, float mean, float spread) {
    std::uniform_real_distribution<float> noise(mean - spread, mean + spread);
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (float& value : values) value = noise(random);
    tensors_[{role, layer}] = {rows, columns, std::move(values)};
  };
  const std::int64_t hidden = config_.hidden_size;
  const std::int64_t query = std::int64_t{config_.num_heads} * config_.head_dim;
  const std::int64_t key = std::int64_t{config_.num_kv_heads} * config_.head_dim;
  const auto spread = [](std::int64_t num_inputs, float scale) {
    return scale * std::sqrt(3.0F / static_cast<float>(num_inputs));
  };
  add(TensorRole::kTokenEmbedding, 0, config_.vocab_size, hidden, 0.0F, 1.0F);
  add(TensorRole::kOutputNorm, 0, 1, hidden, 1.0F, 0.3F);
  if (!config_.tied_embeddings) {
    add(TensorRole::kOutputHead, 0, config_.vocab_size, hidden, 0.0F, spread(hidden, 2.0F));
  }
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    add(TensorRole::kAttentionNorm, layer, 1, hidden, 1.0F, 0.3F);
    add(TensorRole::kQuery, layer, query, hidden, 0.0F, spread(hidden, 1.5F));
    add(TensorRole::kKey, layer, key, hidden, 0.0F, spread(hidden, 1.5F));
    add(TensorRole::kValue, layer, key, hidden, 0.0F, spread(hidden, 1.0F));
    add(TensorRole::kAttentionOutput, layer, hidden, query, 0.0F, spread(query, 1.0F));
    add(TensorRole::kFfnNorm, layer, 1, hidden, 1.0F, 0.3F);
    add(TensorRole::kFfnGate, layer, config_.ffn_size, hidden, 0.0F, spread(hidden, 1.0F));
    add(TensorRole::kFfnUp, layer, config_.ffn_size, hidden, 0.0F, spread(hidden, 1.0F));
    add(TensorRole::kFfnDown, layer, hidden, config_.ffn_size, 0.0F, spread(config_.ffn_size, 1.0F));
  }
}

const MemoryModel::Tensor& MemoryModel::find(TensorRole role, int layer) const {
  if (role == TensorRole::kOutputHead && config_.tied_embeddings) role = TensorRole::kTokenEmbedding;
  return tensors_.at({role, has_layer(role) ? layer : 0});
}

mini_engine::TensorView MemoryModel::tensor(TensorRole role, int layer) const {
  const Tensor& found = find(role, layer);
  return {mini_engine::Encoding::kF32, found.rows, found.columns, std::as_bytes(std::span(found.values))};
}

const std::vector<float>& MemoryModel::values(TensorRole role, int layer) const { return find(role, layer).values; }

void MemoryModel::misreport(TensorRole role, int layer, std::int64_t rows, std::int64_t columns) {
  Tensor& found = tensors_.at({role, layer});
  found.rows = rows;
  found.columns = columns;
}

const mini_engine::TokenizerData& MemoryModel::tokenizer() const {
  throw mini_engine::Error("a model in memory has no tokenizer");
}

}  // namespace test_support
