#include "lab/data/tokenizer_fingerprint.hpp"

#include <cstdint>
#include <string_view>

namespace lab {
namespace {

/// FNV-1a; texts are framed by their lengths.
class Hash {
 public:
  void add(std::uint64_t number) {
    for (int shift = 0; shift < 64; shift += 8) add_byte((number >> shift) & 0xFFU);
  }
  void add(std::string_view text) {
    add(text.size());
    for (const char c : text) add_byte(static_cast<unsigned char>(c));
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  void add_byte(std::uint64_t byte) { value_ = (value_ ^ byte) * 0x100000001B3U; }

  std::uint64_t value_ = 0xCBF29CE484222325U;
};

}  // namespace

std::string tokenizer_fingerprint(const mini_engine::TokenizerData& data) {
  Hash hash;
  hash.add(data.pieces.size());
  for (std::size_t i = 0; i < data.pieces.size(); ++i) {
    hash.add(data.pieces[i]);
    hash.add(data.is_special[i] ? 1U : 0U);
  }
  hash.add(data.merges.size());
  for (const auto& [left, right] : data.merges) {
    hash.add(left);
    hash.add(right);
  }
  hash.add(static_cast<std::uint64_t>(data.pre_split));
  hash.add(data.ignore_merges ? 1U : 0U);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (int shift = 60; shift >= 0; shift -= 4) hex.push_back(kDigits[(hash.value() >> shift) & 0xFU]);
  return hex;
}

}  // namespace lab
