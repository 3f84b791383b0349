// Hit rates over a stream of requests: the same look-ups and plans as in serving, on a store whose chunks are a few
// bytes a token, so that a stream of any length fits and nothing has to be computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pikv/store.hpp"
#include "rag_demo/prompt_builder.hpp"
#include "rag_demo/request.hpp"

namespace rag_demo {

struct HitRates {
  double prefix = 0;  ///< tokens of prompts found by an exact prefix cache, of all tokens of prompts
  double chunk = 0;   ///< tokens found by pikv: exact prefix, then position-free chunks
  std::int64_t num_requests = 0;
  std::int64_t num_tokens = 0;
};

/// Replays the requests in their order from empty, unbounded caches; everything missed is stored.
/// Throws std::runtime_error when pikv refuses a call.
[[nodiscard]] HitRates replay_hit_rates(std::span<const Request> requests, const PromptBuilder& builder,
                                        std::span<const std::vector<TokenId>> passages);

}  // namespace rag_demo
