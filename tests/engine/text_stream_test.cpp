#include "mini_engine/text_stream.hpp"

#include <doctest/doctest.h>

#include "engine/tokenizer_golden.hpp"
#include "mini_engine/byte_alphabet.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/utf8.hpp"

using namespace mini_engine;
using namespace mini_engine::testing;

namespace {

constexpr TokenId kEnd = 256;

/// One token a byte, and a special token.
Tokenizer byte_tokenizer() {
  TokenizerData data;
  for (int byte = 0; byte < 256; ++byte) data.pieces.push_back(piece_of_bytes(std::string(1, static_cast<char>(byte))));
  data.pieces.emplace_back("<end>");
  data.is_special.assign(256, false);
  data.is_special.push_back(true);
  return Tokenizer(std::move(data));
}

std::vector<std::string> stream(const std::string& bytes) {
  const Tokenizer tokenizer = byte_tokenizer();
  TextStream text(tokenizer);
  std::vector<std::string> pieces;
  for (const char byte : bytes) pieces.push_back(text.push(static_cast<unsigned char>(byte)));
  pieces.push_back(text.finish());
  return pieces;
}

}  // namespace

TEST_CASE("a character comes out whole, with its last byte") {
  using Pieces = std::vector<std::string>;
  CHECK(stream("a\xC3\xA9!") == Pieces{"a", "", "\xC3\xA9", "!", ""});
  CHECK(stream("\xF0\x9F\x91\x8D") == Pieces{"", "", "", "\xF0\x9F\x91\x8D", ""});
  CHECK(stream("\xE4\xB8") == Pieces{"", "", "\xEF\xBF\xBD"});
}

TEST_CASE("bytes that are no UTF-8 come out as replacement characters") {
  using Pieces = std::vector<std::string>;
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(stream("\x80z") == Pieces{bad, "z", ""});
  CHECK(stream("\xE4\xB8z") == Pieces{"", "", bad + "z", ""});
  CHECK(stream("\xC0\xAF") == Pieces{bad, bad, ""});                // overlong
  CHECK(stream("\xED\xA0\x80") == Pieces{"", bad + bad, bad, ""});  // a surrogate
  CHECK(stream("\xF4\x90") == Pieces{"", bad + bad, ""});           // beyond U+10FFFF
  CHECK(stream("\xF0\xC3\xA9") == Pieces{"", bad, "\xC3\xA9", ""});
}

TEST_CASE("special tokens yield nothing and end an unfinished character") {
  const Tokenizer tokenizer = byte_tokenizer();
  TextStream text(tokenizer);
  CHECK(text.push(kEnd).empty());
  CHECK(text.push(0xC3).empty());
  CHECK(text.push(kEnd) == "\xEF\xBF\xBD");
  CHECK(text.push('a') == "a");
  CHECK_THROWS_AS((void)text.push(257), Error);
  CHECK(text.finish().empty());
}

TEST_CASE("streamed text equals decoded text") {
  const Tokenizer tokenizer = small_tokenizer("llama3_small");
  const nlohmann::json texts = tokenizer_golden("llama3_small").at("texts");
  for (const auto& entry : texts) {
    TextStream text(tokenizer);
    std::string joined;
    for (const TokenId id : entry.at("ids").get<std::vector<TokenId>>()) {
      const std::string piece = text.push(id);
      CHECK(valid_utf8_prefix(piece) == piece.size());
      joined += piece;
    }
    joined += text.finish();
    CHECK(joined == entry.at("text").get<std::string>());
  }
}
