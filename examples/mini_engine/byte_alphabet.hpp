// The alphabet in which byte-level vocabularies are written: every byte has a printable character. Bytes that are
// printable in Latin-1 stand for themselves, the other 68 for U+0100 and up, in ascending order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mini_engine {

/// The bytes that `piece` stands for, or nothing when it is not UTF-8 or holds a character outside the alphabet.
[[nodiscard]] std::optional<std::string> bytes_of_piece(std::string_view piece);

/// The inverse: `bytes` written in the alphabet, in UTF-8.
[[nodiscard]] std::string piece_of_bytes(std::string_view bytes);

}  // namespace mini_engine
