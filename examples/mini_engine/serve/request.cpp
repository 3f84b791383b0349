#include "mini_engine/serve/request.hpp"

#include <array>

namespace mini_engine::serve {

std::vector<TokenId> prompt_tokens(const Request& request) {
  std::vector<TokenId> tokens;
  for (const PromptSegment& segment : request.segments) {
    tokens.insert(tokens.end(), segment.tokens.begin(), segment.tokens.end());
  }
  return tokens;
}

std::size_t num_prompt_tokens(const Request& request) {
  std::size_t count = 0;
  for (const PromptSegment& segment : request.segments) count += segment.tokens.size();
  return count;
}

std::string_view name_of(EndReason reason) {
  constexpr std::array<std::string_view, kNumEndReasons> kNames = {
      "end_of_text", "token_limit", "context_limit", "stopped", "cancelled", "shutdown", "failed"};
  return kNames.at(static_cast<std::size_t>(reason));
}

std::string_view name_of(Refusal::Reason reason) {
  constexpr std::array<std::string_view, kNumRefusalReasons> kNames = {"invalid", "too_long", "queue_full", "stopping"};
  return kNames.at(static_cast<std::size_t>(reason));
}

}  // namespace mini_engine::serve
