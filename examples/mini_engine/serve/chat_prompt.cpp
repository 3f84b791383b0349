#include "mini_engine/serve/chat_prompt.hpp"

#include <algorithm>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::serve {
namespace {

using Kind = PromptSegment::Kind;

std::vector<ChatMessage> views(const std::vector<ApiMessage>& messages) {
  std::vector<ChatMessage> out;
  for (const ApiMessage& message : messages) out.push_back({message.role, message.content});
  return out;
}

/// What stands before and behind one message's content.
struct Surroundings {
  std::vector<TokenId> before, behind;
};

// Conversations that differ in one letter share exactly that.
Surroundings surroundings_of(const Tokenizer& tokenizer, std::vector<ChatMessage> messages, std::size_t index) {
  messages[index].content = "x";
  const std::vector<TokenId> x = apply_chat_template(tokenizer, messages, true);
  messages[index].content = "y";
  const std::vector<TokenId> y = apply_chat_template(tokenizer, messages, true);
  const auto before_end = std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first;
  const auto behind_begin = std::mismatch(x.rbegin(), x.rend(), y.rbegin(), y.rend()).first.base();
  if (std::vector<TokenId>(before_end, behind_begin) != tokenizer.encode("x")) {
    throw Error("documents: this model's tokenizer joins the template's text with the content behind it");
  }
  return {.before = {x.begin(), before_end}, .behind = {behind_begin, x.end()}};
}

}  // namespace

std::vector<PromptSegment> chat_segments(const Tokenizer& tokenizer, const std::vector<ApiMessage>& messages,
                                         const std::vector<std::string>& documents) {
  if (documents.empty()) return {{Kind::kText, apply_chat_template(tokenizer, views(messages), true)}};

  const auto first_user =
      std::find_if(messages.begin(), messages.end(), [](const ApiMessage& message) { return message.role == "user"; });
  if (first_user == messages.end()) throw Error("documents: there is no user message for them to stand before");
  Surroundings around =
      surroundings_of(tokenizer, views(messages), static_cast<std::size_t>(first_user - messages.begin()));

  std::vector<PromptSegment> segments;
  segments.push_back({Kind::kText, std::move(around.before)});
  for (const std::string& document : documents) {
    segments.push_back({Kind::kDocument, tokenizer.encode(document + "\n\n")});
  }
  std::vector<TokenId> rest = tokenizer.encode(first_user->content);
  rest.insert(rest.end(), around.behind.begin(), around.behind.end());
  segments.push_back({Kind::kText, std::move(rest)});
  return segments;
}

}  // namespace mini_engine::serve
