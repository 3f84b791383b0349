#include "mini_engine/byte_alphabet.hpp"

#include <array>
#include <cstdint>

namespace mini_engine {
namespace {

constexpr unsigned kFirstSubstitute = 0x100;
constexpr unsigned kNumSubstitutes = 68;
constexpr unsigned kNumCharacters = kFirstSubstitute + kNumSubstitutes;
constexpr std::int16_t kNoByte = -1;

constexpr bool stands_for_itself(unsigned byte) {
  // 0xAD, the soft hyphen, is invisible.
  return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
}

struct Alphabet {
  std::array<std::uint16_t, 256> character_of_byte{};
  std::array<std::int16_t, kNumCharacters> byte_of_character{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (std::int16_t& byte : alphabet.byte_of_character) byte = kNoByte;
  unsigned next_substitute = kFirstSubstitute;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const unsigned character = stands_for_itself(byte) ? byte : next_substitute++;
    alphabet.character_of_byte[byte] = static_cast<std::uint16_t>(character);
    alphabet.byte_of_character[character] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.character_of_byte[' '] == 0x120 && kAlphabet.character_of_byte[0xAD] == kNumCharacters - 1);

}  // namespace

std::optional<std::string> bytes_of_piece(std::string_view piece) {
  std::string bytes;
  bytes.reserve(piece.size());
  for (std::size_t i = 0; i < piece.size(); ++i) {
    unsigned character = static_cast<unsigned char>(piece[i]);
    if (character >= 0x80) {
      // The alphabet ends below U+0800, so its characters take at most two bytes: 110xxxxx 10xxxxxx.
      if (character < 0xC2 || character > 0xDF || i + 1 == piece.size()) return std::nullopt;
      const unsigned second = static_cast<unsigned char>(piece[++i]);
      if ((second & 0xC0U) != 0x80U) return std::nullopt;
      character = (character & 0x1FU) << 6U | (second & 0x3FU);
    }
    if (character >= kNumCharacters || kAlphabet.byte_of_character[character] == kNoByte) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte_of_character[character]));
  }
  return bytes;
}

std::string piece_of_bytes(std::string_view bytes) {
  std::string piece;
  piece.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const unsigned character = kAlphabet.character_of_byte[static_cast<unsigned char>(byte)];
    if (character < 0x80) {
      piece.push_back(static_cast<char>(character));
    } else {
      piece.push_back(static_cast<char>(0xC0U | character >> 6U));
      piece.push_back(static_cast<char>(0x80U | (character & 0x3FU)));
    }
  }
  return piece;
}

}  // namespace mini_engine
