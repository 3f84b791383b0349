// The first tokens of the answer that full recomputation gives, and how another way of serving the prompt predicts
// them.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "mini_engine/types.hpp"

namespace lab {

/// Appends tokens behind a served prompt and what was appended before; logits [.][V] of the first_logit-th and all
/// behind it.
using Extend = std::function<std::vector<float>(std::span<const mini_engine::TokenId> tokens, std::size_t first_logit)>;

struct ReplyComparison {
  std::vector<double> kl;  ///< KL(reference || other) at each forced token, in nats
  double top1 = 0;         ///< share of them at which both put the same token first
  double rms_dp = 0;       ///< root mean square change of the forced tokens' probabilities
  /// What the other way itself answers, greedily, up to as many tokens or its end.
  std::optional<std::vector<mini_engine::TokenId>> generated;
};

class ForcedReply {
 public:
  /// logits: [V] of the prompt's last row. An early end would leave nothing to compare: tokens that end the answer are
  /// left out of the choice of what is forced.
  ForcedReply(std::span<const float> logits, std::span<const mini_engine::TokenId> eos_ids, std::size_t num_tokens,
              const Extend& extend);

  /// keep: forgets what was appended behind the prompt but its first so many tokens. Appends, and leaves what it
  /// appended.
  [[nodiscard]] ReplyComparison compare(std::span<const float> logits, const Extend& extend,
                                        const std::function<void(std::size_t)>& keep, bool generates) const;

 private:
  [[nodiscard]] bool ends(mini_engine::TokenId token) const;
  [[nodiscard]] std::vector<mini_engine::TokenId> generate(const std::vector<mini_engine::TokenId>& choices,
                                                           const Extend& extend,
                                                           const std::function<void(std::size_t)>& keep) const;

  std::vector<mini_engine::TokenId> eos_ids_;
  std::vector<mini_engine::TokenId> tokens_;   // [F] forced
  std::vector<mini_engine::TokenId> choices_;  // [F] what is likeliest, ends of the answer included
  std::vector<float> logits_;                  // [F][V] that predict them
};

/// Mean negative log-likelihood of `tokens` behind the prompt, in nats. logits: [V] of its last row. Appends.
[[nodiscard]] double mean_nll(std::span<const float> logits, std::span<const mini_engine::TokenId> tokens,
                              const Extend& extend);

}  // namespace lab
