#include "generate.hpp"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>

#include "error.hpp"

namespace mini_engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Adds tokens to the sequence and computes them; returns the logits of the last.
std::vector<float> append(Model& model, Sequence& sequence, std::span<const TokenId> tokens) {
  const int begin = sequence.size();
  sequence.grow(static_cast<int>(tokens.size()));
  std::vector<std::int32_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), begin);
  const std::int32_t last = static_cast<std::int32_t>(tokens.size()) - 1;
  return model.forward({.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}}, sequence);
}

}  // namespace

Generation decode(Model& model, Sequence& sequence, std::vector<float> logits, Sampler& sampler, int max_tokens,
                  const TokenCallback& on_token) {
  if (max_tokens < 0) throw Error("cannot generate " + std::to_string(max_tokens) + " tokens");
  const std::vector<TokenId>& ends = model.config().eos_ids;
  Generation generation;
  const Clock::time_point start = Clock::now();
  while (static_cast<int>(generation.tokens.size()) < max_tokens) {
    const TokenId token = sampler.next(logits);
    if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
      generation.stop_reason = StopReason::kEndOfText;
      break;
    }
    generation.tokens.push_back(token);
    if (on_token && !on_token(token)) {
      generation.stop_reason = StopReason::kCaller;
      break;
    }
    if (static_cast<int>(generation.tokens.size()) == max_tokens) break;
    if (sequence.size() == model.config().max_positions) {
      generation.stop_reason = StopReason::kContextLimit;
      break;
    }
    logits = append(model, sequence, {&token, 1});
    ++generation.num_decode_passes;
  }
  generation.decode_seconds = seconds_since(start);
  return generation;
}

Generation generate(Model& model, Sequence& sequence, std::span<const TokenId> prompt, Sampler& sampler, int max_tokens,
                    const TokenCallback& on_token) {
  if (prompt.empty()) throw Error("the prompt has no tokens");
  const auto num_positions = static_cast<std::size_t>(model.config().max_positions);
  if (prompt.size() > num_positions - static_cast<std::size_t>(sequence.size())) {
    throw Error("a prompt of " + std::to_string(prompt.size()) + " tokens behind " + std::to_string(sequence.size()) +
                " does not fit the model's " + std::to_string(num_positions) + " positions");
  }
  const Clock::time_point start = Clock::now();
  std::vector<float> logits = append(model, sequence, prompt);
  const double prefill_seconds = seconds_since(start);
  Generation generation = decode(model, sequence, std::move(logits), sampler, max_tokens, on_token);
  generation.prefill_seconds = prefill_seconds;
  return generation;
}

}  // namespace mini_engine
