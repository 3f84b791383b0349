#include "support/reference_llama.hpp"

#include <cmath>
#include <numbers>

namespace test_support {
namespace {

using mini_engine::RopeParameters;
using mini_engine::RopeScaling;
using mini_engine::TensorRole;
using Row = std::vector<double>;
using Rows = std::vector<Row>;

// The nearest number with eight significant bits, ties to even.
double rounded_to_bf16(double x) {
  if (x == 0.0) return x;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

Row rounded_to_bf16(Row row) {
  for (double& x : row) x = rounded_to_bf16(x);
  return row;
}

// w is [outputs][x.size()] row-major.
Row multiplied(const std::vector<float>& w, const Row& x, bool rounds_weights) {
  Row out(w.size() / x.size());
  for (std::size_t o = 0; o < out.size(); ++o) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double weight = double{w[o * x.size() + i]};
      out[o] += (rounds_weights ? rounded_to_bf16(weight) : weight) * x[i];
    }
  }
  return out;
}

Row normalized(const Row& x, const std::vector<float>& weight, double epsilon) {
  double squares = 0.0;
  for (const double v : x) squares += v * v;
  const double root = std::sqrt(squares / static_cast<double>(x.size()) + epsilon);
  Row out;
  for (std::size_t i = 0; i < x.size(); ++i) out.push_back(double{weight[i]} * x[i] / root);
  return out;
}

void add_to(Row& x, const Row& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

double frequency(const RopeParameters& rope, int pair, int head_dim) {
  const double plain = std::pow(rope.theta, -2.0 * pair / head_dim);
  if (!rope.frequency_divisors.empty()) return plain / double{rope.frequency_divisors[static_cast<std::size_t>(pair)]};
  if (rope.scaling == RopeScaling::kLinear) return plain / rope.factor;
  if (rope.scaling == RopeScaling::kNone) return plain;
  // Llama 3: by how many turns the pair makes over the original context.
  const double turns = rope.original_max_positions * plain / (2.0 * std::numbers::pi);
  if (turns < rope.low_freq_factor) return plain / rope.factor;
  if (turns > rope.high_freq_factor) return plain;
  const double share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return share * plain + (1.0 - share) * plain / rope.factor;
}

// All heads of one row; a head's pairs are where the model's storage order puts them.
Row rotated(const Row& x, const MemoryModel& model, std::size_t position) {
  const int head_dim = model.config().head_dim;
  Row out(x.size());
  for (std::size_t head = 0; head < x.size(); head += static_cast<std::size_t>(head_dim)) {
    for (int pair = 0; pair < head_dim / 2; ++pair) {
      const bool interleaved = model.has_interleaved_rope_rows();
      const auto a = head + static_cast<std::size_t>(interleaved ? 2 * pair : pair);
      const auto b = head + static_cast<std::size_t>(interleaved ? 2 * pair + 1 : pair + head_dim / 2);
      const double angle = static_cast<double>(position) * frequency(model.config().rope, pair, head_dim);
      out[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
      out[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
    }
  }
  return out;
}

bool may_see(std::size_t row, std::size_t key, const std::vector<std::int32_t>& documents) {
  if (key > row) return false;
  if (documents.empty()) return true;
  return documents[row] == -1 || documents[row] == documents[key];
}

Row attended(const Row& query, std::size_t row, const Rows& keys, const Rows& values,
             const std::vector<std::int32_t>& documents, const mini_engine::ModelConfig& config) {
  const auto head_dim = static_cast<std::size_t>(config.head_dim);
  Row out(query.size());
  for (std::size_t head = 0; head < static_cast<std::size_t>(config.num_heads); ++head) {
    const std::size_t kv_head =
        head * static_cast<std::size_t>(config.num_kv_heads) / static_cast<std::size_t>(config.num_heads);
    Row weights(keys.size());
    double sum = 0.0;
    for (std::size_t key = 0; key < keys.size(); ++key) {
      if (!may_see(row, key, documents)) continue;
      double score = 0.0;
      for (std::size_t d = 0; d < head_dim; ++d)
        score += query[head * head_dim + d] * keys[key][kv_head * head_dim + d];
      weights[key] = std::exp(score / std::sqrt(static_cast<double>(head_dim)));
      sum += weights[key];
    }
    for (std::size_t key = 0; key < keys.size(); ++key) {
      for (std::size_t d = 0; d < head_dim; ++d) {
        out[head * head_dim + d] += weights[key] / sum * values[key][kv_head * head_dim + d];
      }
    }
  }
  return out;
}

}  // namespace

ReferenceResult reference_forward(const MemoryModel& model, std::span<const mini_engine::TokenId> tokens,
                                  const ReferenceOptions& options) {
  const mini_engine::ModelConfig& config = model.config();
  const double epsilon = double{config.rms_eps};
  const auto multiply = [&](TensorRole role, int layer, const Row& x) {
    return multiplied(model.values(role, layer), x, options.rounds_weights);
  };
  const auto norm = [&](TensorRole role, int layer, const Row& x) {
    return normalized(x, model.values(role, layer), epsilon);
  };

  Rows hidden;
  for (const mini_engine::TokenId token : tokens) {
    const std::vector<float>& embedding = model.values(TensorRole::kTokenEmbedding, 0);
    const auto begin = embedding.begin() + static_cast<std::ptrdiff_t>(token) * config.hidden_size;
    hidden.emplace_back(begin, begin + config.hidden_size);
    if (options.rounds_weights) hidden.back() = rounded_to_bf16(hidden.back());
  }

  ReferenceResult result;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    Rows queries, keys, rotated_keys, values;
    for (std::size_t row = 0; row < hidden.size(); ++row) {
      const Row x = norm(TensorRole::kAttentionNorm, layer, hidden[row]);
      queries.push_back(rotated(multiply(TensorRole::kQuery, layer, x), model, row));
      keys.push_back(multiply(TensorRole::kKey, layer, x));
      values.push_back(multiply(TensorRole::kValue, layer, x));
      if (options.rounds_cache) {
        keys.back() = rounded_to_bf16(keys.back());
        values.back() = rounded_to_bf16(values.back());
      }
      rotated_keys.push_back(rotated(keys.back(), model, row));
      if (options.rounds_cache) rotated_keys.back() = rounded_to_bf16(rotated_keys.back());
    }
    for (std::size_t row = 0; row < hidden.size(); ++row) {
      const Row mixed = attended(queries[row], row, rotated_keys, values, options.documents, config);
      add_to(hidden[row], multiply(TensorRole::kAttentionOutput, layer, mixed));
      const Row x = norm(TensorRole::kFfnNorm, layer, hidden[row]);
      Row wide = multiply(TensorRole::kFfnGate, layer, x);
      const Row up = multiply(TensorRole::kFfnUp, layer, x);
      for (std::size_t i = 0; i < wide.size(); ++i) wide[i] *= up[i] / (1.0 + std::exp(-wide[i]));
      add_to(hidden[row], multiply(TensorRole::kFfnDown, layer, wide));
    }
    result.rotated_queries.push_back(std::move(queries));
    result.keys.push_back(std::move(keys));
    result.rotated_keys.push_back(std::move(rotated_keys));
    result.values.push_back(std::move(values));
  }
  for (const Row& x : hidden) {
    result.logits.push_back(multiply(TensorRole::kOutputHead, 0, norm(TensorRole::kOutputNorm, 0, x)));
  }
  return result;
}

}  // namespace test_support
