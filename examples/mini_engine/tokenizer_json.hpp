// The two files of a Hugging Face folder that describe its tokenizer, parsed from memory.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer.hpp"

namespace mini_engine {

/// Parses the text of a `tokenizer.json`. The result has passed the checks that need no index: ids without holes or
/// duplicates, no two pieces alike. `source` names the file in messages. Throws Error naming file, field and offset.
[[nodiscard]] TokenizerData parse_tokenizer_json(std::string_view text, const std::string& source);

/// Adds what the text of a `tokenizer_config.json` says to `data`: the chat template and, unless tokenizer.json settled
/// it, which token BOS is. Throws Error when it contradicts `data`.
void parse_tokenizer_config(std::string_view text, const std::string& source, TokenizerData& data);

}  // namespace mini_engine
