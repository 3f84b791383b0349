// Conversations in the models' own templates. The text between two special tokens is encoded in one go, as it would be
// if the whole rendered conversation were encoded: pre-splits may join a role's line with the content after it.
#include <array>
#include <string>

#include "mini_engine/chat_template_texts.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/tokenizer.hpp"

namespace mini_engine {
namespace {

// What Llama 3.1's template puts before every system message; the date is the one it falls back to.
constexpr std::string_view kLlama31Dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

// What Jinja's `trim` removes: white space as Python's str.strip() knows it.
constexpr std::array<std::string_view, 29> kTrimmed = {
    "\t",           "\n",           "\v",           "\f",           "\r",
    "\x1C",         "\x1D",         "\x1E",         "\x1F",         " ",
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
    "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
    "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
    "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};

std::string_view trim(std::string_view text) {
  const auto strip_one = [&text] {
    for (const std::string_view space : kTrimmed) {
      if (text.starts_with(space)) {
        text.remove_prefix(space.size());
        return true;
      }
      if (text.ends_with(space)) {
        text.remove_suffix(space.size());
        return true;
      }
    }
    return false;
  };
  while (strip_one()) {
  }
  return text;
}

/// Appends the parts of a conversation as ids.
class Writer {
 public:
  explicit Writer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void special(std::string_view literal) { ids_.push_back(tokenizer_.special(literal)); }
  void text(std::string_view text) {
    const std::vector<TokenId> ids = tokenizer_.encode(text, SpecialTokens::kAsText);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

  std::vector<TokenId> take() { return std::move(ids_); }

 private:
  const Tokenizer& tokenizer_;
  std::vector<TokenId> ids_;
};

std::string joined(std::string_view first, std::string_view second, std::string_view third) {
  std::string text(first);
  text.append(second).append(third);
  return text;
}

void write_chat_ml(Writer& out, std::span<const ChatMessage> messages, std::string_view default_system,
                   bool open_turn) {
  const auto write = [&out](std::string_view role, std::string_view content) {
    out.special("<|im_start|>");
    out.text(joined(role, "\n", content));
    out.special("<|im_end|>");
    out.text("\n");
  };
  if (!default_system.empty() && !messages.empty() && messages.front().role != "system") {
    write("system", default_system);
  }
  for (const ChatMessage& message : messages) write(message.role, message.content);
  if (open_turn) {
    out.special("<|im_start|>");
    out.text("assistant\n");
  }
}

/// `dates` stands before the system message; when it is not empty there always is a system message.
void write_llama3(Writer& out, std::span<const ChatMessage> messages, std::string_view dates, bool open_turn) {
  const auto open = [&out](std::string_view role) {
    out.special("<|start_header_id|>");
    out.text(role);
    out.special("<|end_header_id|>");
  };
  const auto write = [&](std::string_view role, std::string_view preamble, std::string_view content) {
    open(role);
    out.text(joined("\n\n", preamble, trim(content)));
    out.special("<|eot_id|>");
  };
  if (!dates.empty() || !messages.empty()) out.special("<|begin_of_text|>");
  if (!dates.empty()) {
    std::string_view system;
    if (!messages.empty() && messages.front().role == "system") {
      system = messages.front().content;
      messages = messages.subspan(1);
    }
    write("system", dates, system);
  }
  for (const ChatMessage& message : messages) write(message.role, "", message.content);
  if (open_turn) {
    open("assistant");
    out.text("\n\n");
  }
}

}  // namespace

std::vector<TokenId> apply_chat_template(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
                                         bool open_assistant_turn) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string_view role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      throw Error("message " + std::to_string(i) + ": role " + in_quotes(role) +
                  " is none of system, user and assistant");
    }
  }
  Writer out(tokenizer);
  switch (tokenizer.data().chat_template) {
    case ChatTemplate::kNone:
      throw file_error(tokenizer.data().source, "chat_template", "the model has none that this engine knows");
    case ChatTemplate::kChatMl:
      write_chat_ml(out, messages, kSmolLm2System, open_assistant_turn);
      break;
    case ChatTemplate::kChatMlPlain:
      write_chat_ml(out, messages, "", open_assistant_turn);
      break;
    case ChatTemplate::kLlama3:
      write_llama3(out, messages, "", open_assistant_turn);
      break;
    case ChatTemplate::kLlama31:
      write_llama3(out, messages, kLlama31Dates, open_assistant_turn);
      break;
  }
  return out.take();
}

}  // namespace mini_engine
