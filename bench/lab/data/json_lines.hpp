// Files of one JSON object a line.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/json_fields.hpp"
#include "mini_engine/types.hpp"

namespace lab {

/// Calls body(object, its text) for each line that is not blank. Throws mini_engine::Error naming file and line for
/// malformed JSON and lines that hold no object; complaints through the object name its field as well.
void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const mini_engine::JsonField&, std::string_view)>& body);

/// An array of token ids below `vocab_size`.
[[nodiscard]] std::vector<mini_engine::TokenId> read_tokens(const mini_engine::JsonField& field,
                                                            std::size_t vocab_size);

/// An array of strings.
[[nodiscard]] std::vector<std::string> read_strings(const mini_engine::JsonField& field);

}  // namespace lab
