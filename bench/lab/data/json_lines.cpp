#include "lab/data/json_lines.hpp"

#include <fstream>
#include <string>

#include "mini_engine/error.hpp"

namespace lab {

using mini_engine::Error;
using mini_engine::JsonField;
using mini_engine::TokenId;

void for_each_json_line(const std::filesystem::path& path, const std::function<void(const JsonField&)>& body) {
  std::ifstream in(path);
  if (!in) throw Error("cannot open " + path.string());
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const mini_engine::JsonDocument document(line, path.string() + ", line " + std::to_string(number));
    body(JsonField(document));
  }
  if (in.bad()) throw Error("cannot read " + path.string());
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
