// Whether bytes are UTF-8. Documents are shown to a model and to people, so a stray Latin-1 file is better refused at
// the door, with its offset, than shown as garbage later.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace rag_demo {

/// Offset in bytes of the first byte that starts no well-formed character (overlong forms, surrogates, values above
/// U+10FFFF and cut-off characters are all ill-formed), or nothing when the text is well-formed. Pure; thread-safe.
[[nodiscard]] std::optional<std::size_t> find_invalid_utf8(std::string_view text);

}  // namespace rag_demo
