// Where each tensor of a layer goes among weights that are stacked by what they are multiplied with.
#pragma once

#include <cstdint>

#include "config.hpp"
#include "model_file.hpp"

namespace mini_engine {

/// A tensor of a model; `layer` is 0 for the roles without one.
struct TensorName {
  TensorRole role;
  int layer;
};

/// Calls sink.vector(member, name) for each norm of a layer, and sink.matrix(member, first_row, num_rows, name) for each
/// tensor that is some rows of a matrix of it. Layer has the members of Weights::Layer.
template <typename Layer, typename Sink>
void for_each_tensor(Layer& layer, int index, const ModelConfig& config, Sink&& sink) {
  const std::int64_t query = std::int64_t{config.num_heads} * config.head_dim;
  const std::int64_t key = std::int64_t{config.num_kv_heads} * config.head_dim;
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t ffn = config.ffn_size;
  sink.vector(layer.attention_norm, TensorName{TensorRole::kAttentionNorm, index});
  sink.matrix(layer.query_key_value, 0, query, TensorName{TensorRole::kQuery, index});
  sink.matrix(layer.query_key_value, query, key, TensorName{TensorRole::kKey, index});
  sink.matrix(layer.query_key_value, query + key, key, TensorName{TensorRole::kValue, index});
  sink.matrix(layer.attention_output, 0, hidden, TensorName{TensorRole::kAttentionOutput, index});
  sink.vector(layer.ffn_norm, TensorName{TensorRole::kFfnNorm, index});
  sink.matrix(layer.gate_up, 0, ffn, TensorName{TensorRole::kFfnGate, index});
  sink.matrix(layer.gate_up, ffn, ffn, TensorName{TensorRole::kFfnUp, index});
  sink.matrix(layer.down, 0, hidden, TensorName{TensorRole::kFfnDown, index});
}

}  // namespace mini_engine
