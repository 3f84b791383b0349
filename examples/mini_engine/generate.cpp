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

// A pass over tokens that it adds to the sequence, with logits of the last.
class AppendingPass {
 public:
  AppendingPass(Sequence& sequence, std::span<const TokenId> tokens)
      : tokens_(tokens), rows_(tokens.size()), last_(static_cast<std::int32_t>(tokens.size()) - 1) {
    std::iota(rows_.begin(), rows_.end(), sequence.size());
    sequence.grow(static_cast<int>(tokens.size()));
  }
  [[nodiscard]] Pass pass() const { return {.tokens = tokens_, .rows = rows_, .logit_rows = {&last_, 1}}; }

 private:
  std::span<const TokenId> tokens_;
  std::vector<std::int32_t> rows_;
  std::int32_t last_;
};

}  // namespace

Generation decode(Model& model, Sequence& sequence, std::vector<float> logits, Sampler& sampler, int max_tokens,
                  const TokenCallback& on_token) {
  if (max_tokens < 0) throw Error("cannot generate " + std::to_string(max_tokens) + " tokens");
  const std::vector<TokenId>& ends = model.config().eos_ids;
  Generation generation;
  const Clock::time_point start = Clock::now();
  TokenId token = max_tokens > 0 ? sampler.next(logits) : 0;
  while (static_cast<int>(generation.tokens.size()) < max_tokens) {
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
    const TokenId previous = token;
    token = model.next_token(AppendingPass(sequence, {&previous, 1}).pass(), sequence, sampler);
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
  std::vector<float> logits = model.forward(AppendingPass(sequence, prompt).pass(), sequence);
  const double prefill_seconds = seconds_since(start);
  Generation generation = decode(model, sequence, std::move(logits), sampler, max_tokens, on_token);
  generation.prefill_seconds = prefill_seconds;
  return generation;
}

}  // namespace mini_engine
