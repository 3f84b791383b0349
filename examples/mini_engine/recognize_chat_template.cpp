#include "mini_engine/chat_template_texts.hpp"
#include "mini_engine/tokenizer.hpp"

namespace mini_engine {
namespace {

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace

ChatTemplate recognize_chat_template(std::string_view jinja) {
  if (contains(jinja, "<|im_start|>")) {
    if (contains(jinja, kSmolLm2System)) return ChatTemplate::kChatMl;
    // Another model's default system message is not known here.
    return contains(jinja, "<|im_start|>system") ? ChatTemplate::kNone : ChatTemplate::kChatMlPlain;
  }
  if (contains(jinja, "<|start_header_id|>")) {
    if (!contains(jinja, "Cutting Knowledge Date")) return ChatTemplate::kLlama3;
    // Later templates ask for today's date, which would make prompts differ from day to day.
    return contains(jinja, "26 Jul 2024") && !contains(jinja, "strftime_now") ? ChatTemplate::kLlama31
                                                                              : ChatTemplate::kNone;
  }
  return ChatTemplate::kNone;
}

}  // namespace mini_engine
