#include "lab/data/json_lines.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include "lab/data/input_file.hpp"

namespace lab {

using mini_engine::JsonField;
using mini_engine::TokenId;

void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const JsonField&, std::string_view)>& body) {
  const std::string text = read_input(path);
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const mini_engine::JsonDocument document(line, path.string() + ", line " + std::to_string(number));
    body(JsonField(document), line);
  }
}

std::vector<TokenId> read_tokens(const JsonField& field, std::size_t vocab_size) {
  const nlohmann::json& array = field.array();
  std::vector<TokenId> tokens;
  tokens.reserve(array.size());
  for (const nlohmann::json& value : array) {
    const std::string place = "[" + std::to_string(tokens.size()) + "]";
    if (!value.is_number_unsigned()) field.fail(place, "is no token id");
    const auto token = value.get<std::uint64_t>();
    if (token >= vocab_size) {
      field.fail(place, "token " + std::to_string(token) + " is not below " + std::to_string(vocab_size));
    }
    tokens.push_back(static_cast<TokenId>(token));
  }
  return tokens;
}

std::vector<std::string> read_strings(const JsonField& field) {
  std::vector<std::string> strings;
  for (const JsonField& element : field.elements()) strings.push_back(element.string());
  return strings;
}

}  // namespace lab
