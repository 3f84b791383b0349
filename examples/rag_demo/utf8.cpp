#include "rag_demo/utf8.hpp"

namespace rag_demo {
namespace {

// The allowed range of the second byte and the length, by first byte: table 3-7 of the Unicode standard.
struct Form {
  std::size_t length = 0;  // 0: no character starts with this byte
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
};

Form form_of(unsigned char first) {
  if (first < 0x80) return {.length = 1};
  if (first < 0xC2) return {};
  if (first < 0xE0) return {.length = 2};
  if (first == 0xE0) return {.length = 3, .second_min = 0xA0};
  if (first == 0xED) return {.length = 3, .second_max = 0x9F};
  if (first < 0xF0) return {.length = 3};
  if (first == 0xF0) return {.length = 4, .second_min = 0x90};
  if (first < 0xF4) return {.length = 4};
  if (first == 0xF4) return {.length = 4, .second_max = 0x8F};
  return {};
}

}  // namespace

std::optional<std::size_t> find_invalid_utf8(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[offset + i]); };
    const Form form = form_of(byte(0));
    if (form.length == 0 || form.length > text.size() - offset) return offset;
    if (form.length > 1 && (byte(1) < form.second_min || byte(1) > form.second_max)) return offset;
    for (std::size_t i = 2; i < form.length; ++i) {
      if ((byte(i) & 0xC0) != 0x80) return offset;
    }
    offset += form.length;
  }
  return std::nullopt;
}

}  // namespace rag_demo
