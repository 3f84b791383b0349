#include <string_view>

#include "lab/data/input_file.hpp"
#include "lab/data/readers.hpp"
#include "mini_engine/error.hpp"
#include "rag_demo/utf8.hpp"

namespace lab {
namespace {

/// Without what Project Gutenberg puts around a book, where it says so.
std::string_view strip_gutenberg(std::string_view text) {
  if (const std::size_t start = text.find("\n*** START OF "); start != std::string_view::npos) {
    const std::size_t line_end = text.find('\n', start + 1);
    text = line_end == std::string_view::npos ? std::string_view() : text.substr(line_end);
  }
  for (const char* end : {"\n*** END OF ", "\nEnd of the Project Gutenberg", "\nEnd of Project Gutenberg"}) {
    text = text.substr(0, text.find(end));
  }
  return text;
}

}  // namespace

std::string read_plain_text(const std::filesystem::path& path) {
  std::string text = read_input(path);
  if (const auto offset = rag_demo::find_invalid_utf8(text)) {
    throw mini_engine::Error(path.string() + ": invalid UTF-8 at byte " + std::to_string(*offset));
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  std::erase(text, '\r');
  std::string_view body = strip_gutenberg(text);
  const std::size_t begin = body.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) throw mini_engine::Error(path.string() + ": holds no text");
  return std::string(body.substr(begin, body.find_last_not_of(" \t\r\n") + 1 - begin));
}

}  // namespace lab
