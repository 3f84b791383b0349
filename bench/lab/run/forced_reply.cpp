#include "lab/run/forced_reply.hpp"

#include <algorithm>
#include <limits>

#include "rag_demo/distribution_metrics.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;

TokenId likeliest(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::span<const float> row_of(const std::vector<float>& logits, std::size_t row, std::size_t vocab_size) {
  return std::span<const float>(logits).subspan(row * vocab_size, vocab_size);
}

/// Of the prompt's last row, and of all `tokens` but the last behind it.
std::vector<float> predictions(std::span<const float> logits, std::span<const TokenId> tokens, const Extend& extend) {
  std::vector<float> rows(logits.begin(), logits.end());
  if (tokens.size() < 2) return rows;
  const std::vector<float> others = extend(tokens.first(tokens.size() - 1), 0);
  rows.insert(rows.end(), others.begin(), others.end());
  return rows;
}

}  // namespace

ForcedReply::ForcedReply(std::span<const float> logits, std::span<const TokenId> eos_ids, std::size_t num_tokens,
                         const Extend& extend)
    : eos_ids_(eos_ids.begin(), eos_ids.end()) {
  std::vector<float> row(logits.begin(), logits.end());
  while (true) {
    logits_.insert(logits_.end(), row.begin(), row.end());
    choices_.push_back(likeliest(row));
    for (const TokenId eos : eos_ids_) {
      if (eos < row.size()) row[eos] = -std::numeric_limits<float>::infinity();
    }
    tokens_.push_back(likeliest(row));
    if (tokens_.size() == num_tokens) break;
    row = extend({&tokens_.back(), 1}, 0);
  }
}

bool ForcedReply::ends(TokenId token) const {
  return std::find(eos_ids_.begin(), eos_ids_.end(), token) != eos_ids_.end();
}

ReplyComparison ForcedReply::compare(std::span<const float> logits, const Extend& extend,
                                     const std::function<void(std::size_t)>& keep, bool generates) const {
  const std::size_t vocab_size = logits.size();
  const std::vector<float> rows = predictions(logits, tokens_, extend);
  ReplyComparison result;
  std::vector<TokenId> choices;
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const std::span<const float> reference = row_of(logits_, i, vocab_size);
    const std::span<const float> other = row_of(rows, i, vocab_size);
    result.kl.push_back(rag_demo::kl_divergence(reference, other));
    choices.push_back(likeliest(other));
    if (choices.back() == choices_[i]) result.top1 += 1.0 / static_cast<double>(tokens_.size());
  }
  result.rms_dp = rag_demo::rms_probability_difference(rag_demo::token_log_probabilities(logits_, vocab_size, tokens_),
                                                       rag_demo::token_log_probabilities(rows, vocab_size, tokens_));
  if (generates) result.generated = generate(choices, extend, keep);
  return result;
}

/// While it would have chosen what is forced, its own answer is known already.
std::vector<TokenId> ForcedReply::generate(const std::vector<TokenId>& choices, const Extend& extend,
                                           const std::function<void(std::size_t)>& keep) const {
  std::vector<TokenId> reply;
  TokenId next = choices[0];
  bool is_on_path = true;
  while (!ends(next)) {
    const std::size_t index = reply.size();
    reply.push_back(next);
    if (reply.size() == tokens_.size()) break;
    if (is_on_path && next == tokens_[index]) {
      next = choices[index + 1];
      continue;
    }
    if (is_on_path) keep(index);
    is_on_path = false;
    next = likeliest(extend({&reply.back(), 1}, 0));
  }
  return reply;
}

double mean_nll(std::span<const float> logits, std::span<const TokenId> tokens, const Extend& extend) {
  return rag_demo::mean_nll(
      rag_demo::token_log_probabilities(predictions(logits, tokens, extend), logits.size(), tokens));
}

}  // namespace lab
