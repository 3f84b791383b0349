// The two files of a Hugging Face folder that describe its tokenizer, parsed from memory.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer.hpp"

namespace mini_engine {

/// Parses the text of a `tokenizer.json`. Ids in the result have neither holes nor duplicates; what takes an index over
/// the pieces to see, Tokenizer's constructor checks. `source` names the file in messages. Throws Error naming file and
/// field, or the byte offset where the text is no JSON.
[[nodiscard]] TokenizerData parse_tokenizer_json(std::string_view text, const std::string& source);

/// Adds what the text of a `tokenizer_config.json` says to `data`: the chat template and, unless tokenizer.json settled
/// it, which token BOS is. Throws Error when it contradicts `data`.
void parse_tokenizer_config(std::string_view text, const std::string& source, TokenizerData& data);

}  // namespace mini_engine
