#include "rag_demo/prompt_builder.hpp"

#include <algorithm>
#include <array>

namespace rag_demo {
namespace {

constexpr std::string_view kInstructions =
    "You answer questions from the passages of a handbook. Answer with a few words copied from the passages.";

constexpr std::array<mini_engine::ChatMessage, 1> kOpening = {{{"system", kInstructions}}};

std::vector<TokenId> conversation(const mini_engine::Tokenizer& tokenizer,
                                  std::span<const mini_engine::ChatMessage> opening, std::string_view user) {
  std::vector<mini_engine::ChatMessage> messages(opening.begin(), opening.end());
  messages.push_back({"user", user});
  return mini_engine::apply_chat_template(tokenizer, messages, /*open_assistant_turn=*/true);
}

}  // namespace

PromptBuilder::PromptBuilder(const mini_engine::Tokenizer& tokenizer) : PromptBuilder(tokenizer, kOpening) {}

PromptBuilder::PromptBuilder(const mini_engine::Tokenizer& tokenizer, std::span<const mini_engine::ChatMessage> opening)
    : tokenizer_(tokenizer) {
  // Two conversations that differ in one letter share exactly what stands before and after the user's text.
  const std::vector<TokenId> x = conversation(tokenizer, opening, "x");
  const std::vector<TokenId> y = conversation(tokenizer, opening, "y");
  system_.assign(x.begin(), std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first);
  after_user_.assign(std::mismatch(x.rbegin(), x.rend(), y.rbegin(), y.rend()).first.base(), x.end());
}

std::vector<TokenId> PromptBuilder::passage(std::string_view text) const {
  return tokenizer_.encode(std::string(text) + "\n\n");
}

std::vector<TokenId> PromptBuilder::question(const std::string& question, const std::string& reply_begins) const {
  std::vector<TokenId> tokens = tokenizer_.encode("Question: " + question);
  tokens.insert(tokens.end(), after_user_.begin(), after_user_.end());
  const std::vector<TokenId> reply = tokenizer_.encode(reply_begins);
  tokens.insert(tokens.end(), reply.begin(), reply.end());
  return tokens;
}

}  // namespace rag_demo
