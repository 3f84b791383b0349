#include "mini_engine/text_stream.hpp"

#include <span>

#include "mini_engine/utf8.hpp"

namespace mini_engine {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

std::string TextStream::push(TokenId id) {
  const std::string bytes = tokenizer_.decode(std::span(&id, 1));
  // A special token ends whatever stood before it.
  if (tokenizer_.data().is_special[id]) return finish();

  pending_ += bytes;
  std::string ready;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Unit unit = next_utf8_unit(rest);
    if (unit.state == Utf8State::kIncomplete) break;
    ready += unit.state == Utf8State::kValid ? rest.substr(0, unit.num_bytes) : kReplacement;
    rest.remove_prefix(unit.num_bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return ready;
}

std::string TextStream::finish() {
  // What is held back is the start of one character, so it makes one replacement.
  const bool is_unfinished = !pending_.empty();
  pending_.clear();
  return std::string(is_unfinished ? kReplacement : std::string_view());
}

}  // namespace mini_engine
