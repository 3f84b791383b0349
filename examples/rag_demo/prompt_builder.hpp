// Prompts of the demo, as the token runs that pikv composes: instructions, passages, question.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/tokenizer.hpp"
#include "pikv/plan.hpp"

namespace rag_demo {

using mini_engine::TokenId;

/// Turns text into tokens, piece by piece: each passage is encoded on its own, so that its ids are the same in every
/// prompt. All arms of a comparison use these ids. The tokenizer must outlive it. Const members are thread-safe.
class PromptBuilder {
 public:
  /// Throws mini_engine::Error when the model has no chat template.
  explicit PromptBuilder(const mini_engine::Tokenizer& tokenizer);
  /// With these messages before the user's turn in place of the demo's instructions.
  PromptBuilder(const mini_engine::Tokenizer& tokenizer, std::span<const mini_engine::ChatMessage> opening);

  /// The instructions and everything else that stands before the first passage.
  [[nodiscard]] const std::vector<TokenId>& system() const { return system_; }
  [[nodiscard]] std::vector<TokenId> passage(std::string_view text) const;
  /// The question and everything behind it, up to where the reply begins. `reply_begins` may be empty.
  [[nodiscard]] std::vector<TokenId> question(const std::string& question, const std::string& reply_begins) const;

 private:
  const mini_engine::Tokenizer& tokenizer_;
  std::vector<TokenId> system_;
  std::vector<TokenId> after_user_;
};

}  // namespace rag_demo
