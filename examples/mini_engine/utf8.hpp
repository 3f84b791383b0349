// Reading UTF-8 that may be broken or cut off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace mini_engine {

enum class Utf8State : std::uint8_t {
  kValid,       ///< one whole character
  kInvalid,     ///< bytes that no continuation can turn into a character
  kIncomplete,  ///< the text ends inside a character that more bytes could complete
};

/// What stands at the start of a text, and how many bytes of it (at least one). For kInvalid these are the bytes that
/// Unicode recommends to replace by one U+FFFD.
struct Utf8Unit {
  Utf8State state;
  std::size_t num_bytes;
};

/// Looks at the first character of `text`, which must not be empty. Surrogates, overlong forms and anything above
/// U+10FFFF are invalid.
[[nodiscard]] Utf8Unit next_utf8_unit(std::string_view text);

/// Length of the longest prefix of `text` that is valid UTF-8 throughout; may be 0.
[[nodiscard]] std::size_t valid_utf8_prefix(std::string_view text);

}  // namespace mini_engine
