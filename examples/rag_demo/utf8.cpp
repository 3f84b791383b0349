#include "rag_demo/utf8.hpp"

#include "mini_engine/utf8.hpp"

namespace rag_demo {

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  const std::size_t valid_bytes = mini_engine::valid_utf8_prefix(text);
  if (valid_bytes == text.size()) return std::nullopt;
  return valid_bytes;
}

}  // namespace rag_demo
