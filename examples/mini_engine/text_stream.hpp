// Text of a stream of token ids, piece by piece, for output while a model still generates.
#pragma once

#include <string>

#include "tokenizer.hpp"

namespace mini_engine {

/// A token may end inside a character. What has been given out is always whole characters: the bytes of an unfinished
/// one are held back until the token that completes it. Bytes that are no UTF-8 come out as U+FFFD, special tokens as
/// nothing. Not thread-safe; the tokenizer must outlive it.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// The text that is ready after this token; may be empty. Throws Error for an id out of range, taking nothing in.
  [[nodiscard]] std::string push(TokenId id);
  /// The end of the text: U+FFFD when a character was left unfinished. The stream is then ready for another text.
  [[nodiscard]] std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;  // at most three bytes between calls
};

}  // namespace mini_engine
