#include "lab/ape_attention.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "lab/cached_rows.hpp"
#include "lab/head_attention.hpp"
#include "lab/memory_copies.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/matmul.hpp"

namespace lab {

using mini_engine::Error;
using mini_engine::InputRows;
using mini_engine::ModelConfig;
using mini_engine::OutputRows;
using mini_engine::Store;
using mini_engine::TurnedQueries;

std::int32_t ApeRows::first_question_row() const { return std::accumulate(contexts.begin(), contexts.end(), prefix); }

std::int32_t ApeRows::question_shift() const {
  const std::int32_t longest = contexts.empty() ? 0 : *std::max_element(contexts.begin(), contexts.end());
  return first_question_row() - prefix - longest;
}

/// One layer of one pass, all on the host.
struct ApeAttention::Call {
  const QueryRows& queries;               // turned to positions equal to their rows
  const std::vector<float>& turned_back;  // the same rows, as they look at prefix and contexts
  const std::vector<float>& keys;         // [N][H][D]
  const std::vector<float>& values;
  std::vector<float>& out;  // [R][Q][D]
};

ApeAttention::ApeAttention(const mini_engine::Model& model, const mini_engine::Sequence& sequence, ApeRows rows,
                           const ApeOptions& options, mini_engine::ThreadPool& pool)
    : model_(model), sequence_(sequence), rows_(std::move(rows)), options_(options), pool_(pool) {
  const auto require_positive = [](const char* field, double value) {
    if (!(value > 0.0)) throw Error("APE: " + std::string(field) + " is " + std::to_string(value) + ", not positive");
  };
  require_positive("temperature", options.temperature);
  require_positive("scale", options.scale);
  if (rows_.prefix < 0) throw Error("APE: the prefix has " + std::to_string(rows_.prefix) + " rows");
  for (std::size_t i = 0; i < rows_.contexts.size(); ++i) {
    if (rows_.contexts[i] >= 0) continue;
    throw Error("APE: context " + std::to_string(i) + " has " + std::to_string(rows_.contexts[i]) + " rows");
  }
}

bool ApeAttention::attend(int layer, const TurnedQueries& queries, void* out) {
  if (queries.rows.empty()) return true;
  for (const std::int32_t row : queries.rows) {
    if (row < rows_.prefix || row >= rows_.first_question_row()) continue;
    throw Error("APE: row " + std::to_string(row) + " is of a context, which is encoded apart from this prompt");
  }
  const ModelConfig& config = model_.config();
  const mini_engine::CacheMemory memory = sequence_.cache().memory();
  const std::int64_t query_size = std::int64_t{config.num_heads} * config.head_dim;
  const QueryRows on_host = read_queries(queries, memory, query_size);
  const std::vector<float> back = turned_back(on_host);

  std::vector<std::int32_t> key_rows(static_cast<std::size_t>(queries.rows.back()) + 1);
  std::iota(key_rows.begin(), key_rows.end(), 0);
  const std::vector<float> keys = read_keys(sequence_, layer, key_rows);
  const std::vector<float> values = read_values(sequence_, layer, key_rows);

  std::vector<float> result(on_host.elements.size());
  const mini_engine::SingleThreadedBlas single_threaded_blas;
  const Call call{.queries = on_host, .turned_back = back, .keys = keys, .values = values, .out = result};
  pool_.run(config.num_heads, [&](int head, int) { attend_head(call, head); });
  write_elements({memory, queries.precision}, result.data(), static_cast<std::int64_t>(result.size()), out);
  return true;
}

// Rotations compose: from position p to p - shift is a turn by -shift. Rows of the prefix stand where they are.
std::vector<float> ApeAttention::turned_back(const QueryRows& queries) const {
  const ModelConfig& config = model_.config();
  const int half = config.head_dim / 2;
  const std::int64_t angles = std::int64_t{rows_.question_shift()} * half;
  const float* const cos = model_.rotary().cos.data() + angles;
  const float* const sin = model_.rotary().sin.data() + angles;
  std::vector<float> result = queries.elements;
  float* vector = result.data();
  for (const std::int32_t row : queries.rows) {
    for (int head = 0; head < config.num_heads; ++head, vector += config.head_dim) {
      if (row < rows_.prefix) continue;
      for (int i = 0; i < half; ++i) {
        const float x = vector[i], y = vector[i + half];
        vector[i] = x * cos[i] + y * sin[i];
        vector[i + half] = y * cos[i] - x * sin[i];
      }
    }
  }
  return result;
}

void ApeAttention::attend_head(const Call& call, int head) {
  const ModelConfig& config = model_.config();
  const int head_dim = config.head_dim;
  const std::int64_t query_size = std::int64_t{config.num_heads} * head_dim;
  const std::int64_t key_size = std::int64_t{config.num_kv_heads} * head_dim;
  const int key_head = head / (config.num_heads / config.num_kv_heads);
  const auto num_rows = static_cast<std::int64_t>(call.queries.rows.size());
  const auto num_cached = static_cast<std::int64_t>(call.keys.size()) / key_size;
  const auto rows_of = [&](const std::vector<float>& elements, std::int64_t first) {
    return head_rows(elements.data() + first * key_size, key_size, key_head, head_dim);
  };

  // A pass over rows of the prefix alone has read no keys behind them.
  const std::int64_t num_prefix = std::min<std::int64_t>(rows_.prefix, num_cached);
  const std::int64_t first_question = std::min<std::int64_t>(rows_.first_question_row(), num_cached);
  const std::int64_t num_context = first_question - num_prefix;
  const std::int64_t num_question = num_cached - first_question;
  const std::int64_t num_other = num_prefix + num_question;

  const InputRows queries = head_rows(call.queries.elements.data(), query_size, head, head_dim);
  const InputRows back = head_rows(call.turned_back.data(), query_size, head, head_dim);
  const double factor = 1.0 / std::sqrt(static_cast<double>(head_dim));
  const auto context_factor = static_cast<float>(factor / options_.temperature);
  const auto other_factor = static_cast<float>(factor);
  std::vector<float> context(static_cast<std::size_t>(num_rows * num_context));
  std::vector<float> other(static_cast<std::size_t>(num_rows * num_other));  // keys: prefix, question
  const OutputRows question_part{other.data() + num_prefix, num_other};
  attention_scores(back, num_rows, rows_of(call.keys, num_prefix), num_context, head_dim, context_factor,
                   {context.data(), num_context});
  attention_scores(back, num_rows, rows_of(call.keys, 0), num_prefix, head_dim, other_factor,
                   {other.data(), num_other});
  attention_scores(queries, num_rows, rows_of(call.keys, first_question), num_question, head_dim, other_factor,
                   question_part);

  for (std::int64_t r = 0; r < num_rows; ++r) {
    const std::int32_t row = call.queries.rows[static_cast<std::size_t>(r)];
    const bool is_prefix = row < rows_.prefix;
    float* const context_row = context.data() + r * num_context;
    float* const other_row = other.data() + r * num_other;
    const double context_lse = softmax(context_row, is_prefix ? 0 : num_context, num_context);
    const double other_lse = softmax(other_row, is_prefix ? row + 1 : num_prefix + row + 1 - first_question, num_other);
    const double context_exponent = options_.scale * options_.temperature * context_lse;
    const double context_weight = 1.0 / (1.0 + std::exp(other_lse - context_exponent));
    for (std::int64_t key = 0; key < num_context; ++key) context_row[key] *= static_cast<float>(context_weight);
    for (std::int64_t key = 0; key < num_other; ++key) other_row[key] *= static_cast<float>(1.0 - context_weight);
  }

  const OutputRows out{call.out.data() + std::int64_t{head} * head_dim, query_size};
  weighted_values({context.data(), num_context}, num_rows, rows_of(call.values, num_prefix), num_context, head_dim,
                  Store::kReplace, out);
  weighted_values({other.data(), num_other}, num_rows, rows_of(call.values, 0), num_prefix, head_dim, Store::kAdd, out);
  weighted_values({other.data() + num_prefix, num_other}, num_rows, rows_of(call.values, first_question), num_question,
                  head_dim, Store::kAdd, out);
}

}  // namespace lab
