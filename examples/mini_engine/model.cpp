#include "model.hpp"

#include "error.hpp"
#include "pass_checks.hpp"
#include "sampler.hpp"

namespace mini_engine {

std::vector<float> Model::forward(const Pass& pass, Sequence& sequence) {
  const SequencePass one{.pass = pass, .sequence = &sequence};
  return forward({&one, 1})[0];
}

std::vector<NextToken> Model::next_tokens(std::span<const SequencePass> passes, std::span<Sampler* const> samplers) {
  check_samplers(passes, samplers);
  const std::vector<std::vector<float>> logits = forward(passes);
  std::vector<NextToken> tokens(passes.size());
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (samplers[i] == nullptr) continue;
    try {
      tokens[i].token = samplers[i]->next(logits[i]);
    } catch (const Error& error) {
      tokens[i].error = error.what();
    }
  }
  return tokens;
}

TokenId Model::next_token(const Pass& pass, Sequence& sequence, Sampler& sampler) {
  const SequencePass one{.pass = pass, .sequence = &sequence};
  Sampler* const by = &sampler;
  NextToken next = next_tokens({&one, 1}, {&by, 1})[0];
  if (!next.error.empty()) throw Error(next.error);
  return next.token;
}

}  // namespace mini_engine
