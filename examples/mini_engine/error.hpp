// The one exception type of the engine. What it says names the file, the field and the byte offset where the
// trouble was found, so that a user can act on the message alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mini_engine {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An Error about a place in a file: "<file>: <field> at byte <offset>: <what>".
[[nodiscard]] inline Error file_error(std::string_view file, std::string_view field, std::uint64_t offset,
                                      std::string_view what) {
  std::string text(file);
  text.append(": ").append(field).append(" at byte ").append(std::to_string(offset)).append(": ").append(what);
  return Error(text);
}

/// An Error about a file as a whole, or about a field that stands nowhere in it: "<file>: <field>: <what>".
[[nodiscard]] inline Error file_error(std::string_view file, std::string_view field, std::string_view what) {
  std::string text(file);
  text.append(": ").append(field).append(": ").append(what);
  return Error(text);
}

/// Text from a file as messages show it: in quotes, and no more of it than a reader needs.
[[nodiscard]] inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMaxBytes = 64;
  std::string result("'");
  result.append(text.substr(0, kMaxBytes)).append(text.size() > kMaxBytes ? "...'" : "'");
  return result;
}

}  // namespace mini_engine
