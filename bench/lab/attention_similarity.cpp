#include "lab/attention_similarity.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "lab/cached_rows.hpp"
#include "lab/head_attention.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/matmul.hpp"

namespace lab {
namespace {

using mini_engine::ModelConfig;

// x ln(x), with its limit at 0.
float times_log(float x) { return x > 0.0F ? x * std::log(x) : 0.0F; }

// Jensen-Shannon divergence in the form sum of m * g(d), with m = (p + q) / 2, d = (p - q) / (p + q) and
// g(d) = ((1 + d) ln(1 + d) + (1 - d) ln(1 - d)) / 2 = d^2/2 + d^4/12 + d^6/30 + ...: no term is negative, so that
// distributions close to each other lose nothing to cancellation.
float divergence_of(float p, float q) {
  const float sum = p + q;
  if (sum == 0.0F) return 0.0F;
  const float d = (p - q) / sum;
  const float s = d * d;
  // Where the series' first term left out, d^16/240, is below what fp32 can tell.
  constexpr float kMostSquare = 0.16F;
  float g;
  if (s < kMostSquare) {
    g = s *
        (1.0F / 2 + s * (1.0F / 12 + s * (1.0F / 30 + s * (1.0F / 56 + s * (1.0F / 90 + s * (1.0F / 132 + s / 182))))));
  } else {
    g = 0.5F * (times_log(2.0F * p / sum) + times_log(2.0F * q / sum));
  }
  return 0.5F * sum * g;
}

struct RowSimilarity {
  double cosine = 0;
  double divergence = 0;
};

RowSimilarity compare(const float* p, const float* q, std::int64_t size) {
  double product = 0, p_square = 0, q_square = 0, divergence = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    product += double{p[i]} * q[i];
    p_square += double{p[i]} * p[i];
    q_square += double{q[i]} * q[i];
    divergence += divergence_of(p[i], q[i]);
  }
  return {.cosine = product / std::sqrt(p_square * q_square), .divergence = divergence};
}

void check_passages(const AttentionSource& source, std::span<const RowRange> passages) {
  for (std::size_t i = 0; i < passages.size(); ++i) {
    const RowRange& passage = passages[i];
    if (passage.begin >= 0 && passage.begin <= passage.end && passage.end <= source.sequence->size()) continue;
    throw mini_engine::Error("attention similarity: passage " + std::to_string(i) + " is rows [" +
                             std::to_string(passage.begin) + ", " + std::to_string(passage.end) +
                             ") of a sequence of " + std::to_string(source.sequence->size()));
  }
}

class Comparison {
 public:
  Comparison(const ModelConfig& config, const AttentionSource& full, const AttentionSource& arm,
             std::span<const RowRange> passages)
      : config_(config), full_(full), arm_(arm), passages_(passages) {
    const auto num_heads = static_cast<std::size_t>(config.num_layers) * static_cast<std::size_t>(config.num_heads);
    result_.cosine.resize(num_heads);
    result_.divergence.resize(num_heads);
    result_.full_mass.resize(num_heads * passages.size());
    result_.arm_mass.resize(num_heads * passages.size());
    for (int layer = 0; layer < config.num_layers; ++layer) check_rows(layer);
  }

  void compare_layer(int layer) {
    const std::vector<std::int32_t>& rows = full_.queries->layer(layer).rows;
    const std::int64_t num_keys = rows.back() + 1;
    std::vector<std::int32_t> key_rows(static_cast<std::size_t>(num_keys));
    std::iota(key_rows.begin(), key_rows.end(), 0);
    const std::vector<float> full_keys = read_keys(*full_.sequence, layer, key_rows);
    const std::vector<float> arm_keys = read_keys(*arm_.sequence, layer, key_rows);
    std::vector<float> full_weights(rows.size() * key_rows.size());
    std::vector<float> arm_weights(full_weights.size());
    for (int head = 0; head < config_.num_heads; ++head) {
      weights_of(full_.queries->layer(layer), full_keys, head, full_weights);
      weights_of(arm_.queries->layer(layer), arm_keys, head, arm_weights);
      const std::size_t index = static_cast<std::size_t>(layer * config_.num_heads + head);
      for (std::size_t r = 0; r < rows.size(); ++r) {
        const float* const p = full_weights.data() + static_cast<std::int64_t>(r) * num_keys;
        const float* const q = arm_weights.data() + static_cast<std::int64_t>(r) * num_keys;
        const RowSimilarity row = compare(p, q, rows[r] + 1);
        const double share = 1.0 / static_cast<double>(rows.size());
        result_.cosine[index] += share * row.cosine;
        result_.divergence[index] += share * row.divergence;
        add_mass(p, num_keys, share, result_.full_mass.data() + index * passages_.size());
        add_mass(q, num_keys, share, result_.arm_mass.data() + index * passages_.size());
      }
    }
  }

  [[nodiscard]] AttentionSimilarity take() { return std::move(result_); }

 private:
  void check_rows(int layer) const {
    const std::vector<std::int32_t>& rows = full_.queries->layer(layer).rows;
    const std::string where = "attention similarity: layer " + std::to_string(layer);
    if (rows.empty()) throw mini_engine::Error(where + " has no queries");
    if (rows != arm_.queries->layer(layer).rows) {
      throw mini_engine::Error(where + " has not the queries of the same rows in both passes");
    }
    const int size = std::min(full_.sequence->size(), arm_.sequence->size());
    if (rows.back() >= size) {
      throw mini_engine::Error(where + " has the query of row " + std::to_string(rows.back()) +
                               ", a sequence has only " + std::to_string(size) + " rows");
    }
  }

  // weights: [R][keys], those behind the row itself 0.
  void weights_of(const QueryRows& queries, const std::vector<float>& keys, int head,
                  std::vector<float>& weights) const {
    const int key_head = head / (config_.num_heads / config_.num_kv_heads);
    const auto num_rows = static_cast<std::int64_t>(queries.rows.size());
    const std::int64_t num_keys = queries.rows.back() + 1;
    const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    attention_scores(
        head_rows(queries.elements.data(), std::int64_t{config_.num_heads} * config_.head_dim, head, config_.head_dim),
        num_rows,
        head_rows(keys.data(), std::int64_t{config_.num_kv_heads} * config_.head_dim, key_head, config_.head_dim),
        num_keys, config_.head_dim, factor, {weights.data(), num_keys});
    for (std::int64_t r = 0; r < num_rows; ++r) {
      (void)softmax(weights.data() + r * num_keys, queries.rows[static_cast<std::size_t>(r)] + 1, num_keys);
    }
  }

  void add_mass(const float* weights, std::int64_t num_keys, double share, double* mass) const {
    for (std::size_t i = 0; i < passages_.size(); ++i) {
      const std::int64_t end = std::min<std::int64_t>(passages_[i].end, num_keys);
      for (std::int64_t key = passages_[i].begin; key < end; ++key) mass[i] += share * weights[key];
    }
  }

  const ModelConfig& config_;
  AttentionSource full_, arm_;
  std::span<const RowRange> passages_;
  AttentionSimilarity result_;
};

}  // namespace

AttentionSimilarity compare_attention(const ModelConfig& config, const AttentionSource& full,
                                      const AttentionSource& arm, std::span<const RowRange> passages,
                                      mini_engine::ThreadPool& pool) {
  check_passages(full, passages);
  check_passages(arm, passages);
  const mini_engine::SingleThreadedBlas single_threaded_blas;
  Comparison comparison(config, full, arm, passages);
  pool.run(config.num_layers, [&](int layer, int) { comparison.compare_layer(layer); });
  return comparison.take();
}

}  // namespace lab
