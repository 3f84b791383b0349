#include "mini_engine/utf8.hpp"

namespace mini_engine {
namespace {

/// How a character with a given first byte goes on: its length, and the range that its second byte must lie in. That
/// range is what rules out overlong forms, surrogates and code points above U+10FFFF.
struct LeadByte {
  std::size_t num_bytes;  // 0: no character starts with this byte
  unsigned char second_low, second_high;
};

LeadByte classify(unsigned char lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Unit next_utf8_unit(std::string_view text) {
  const LeadByte lead = classify(static_cast<unsigned char>(text[0]));
  if (lead.num_bytes == 0) return {Utf8State::kInvalid, 1};
  for (std::size_t i = 1; i < lead.num_bytes; ++i) {
    if (i == text.size()) return {Utf8State::kIncomplete, i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char low = i == 1 ? lead.second_low : 0x80;
    const unsigned char high = i == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {Utf8State::kInvalid, i};
  }
  return {Utf8State::kValid, lead.num_bytes};
}

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size()) {
    const Utf8Unit unit = next_utf8_unit(text.substr(end));
    if (unit.state != Utf8State::kValid) break;
    end += unit.num_bytes;
  }
  return end;
}

}  // namespace mini_engine
