// The plain generation loop: prefill, then one token at a time.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model.hpp"
#include "paged_cache.hpp"
#include "sampler.hpp"
#include "types.hpp"

namespace mini_engine {

enum class StopReason : std::uint8_t {
  kEndOfText,     ///< the model gave one of its end tokens, which is not among the tokens
  kTokenLimit,    ///< as many tokens as were asked for
  kContextLimit,  ///< the model has no further positions
  kCaller         ///< the callback asked to stop
};

struct Generation {
  std::vector<TokenId> tokens;
  StopReason stop_reason = StopReason::kTokenLimit;
  double prefill_seconds = 0.0;  ///< until the logits of the last prompt token are there; 0 from decode()
  double decode_seconds = 0.0;   ///< all passes after that
  int num_decode_passes = 0;
};

/// Called with each token as soon as it is chosen; returns false to stop after it. May be empty.
using TokenCallback = std::function<bool(TokenId)>;

/// Continues a sequence whose rows are all computed. `logits` [V] are those of its last row. Grows the sequence by a
/// row per token that is fed back: the last token chosen has no row yet. Throws Error for a negative max_tokens, when
/// the cache has no page left, and as Model::forward() does; the sequence then holds the rows computed so far, or one
/// more.
[[nodiscard]] Generation decode(Model& model, Sequence& sequence, std::vector<float> logits, Sampler& sampler,
                                int max_tokens, const TokenCallback& on_token = {});

/// Appends `prompt` (not empty) to the sequence in one pass, then decodes.
[[nodiscard]] Generation generate(Model& model, Sequence& sequence, std::span<const TokenId> prompt, Sampler& sampler,
                                  int max_tokens, const TokenCallback& on_token = {});

}  // namespace mini_engine
