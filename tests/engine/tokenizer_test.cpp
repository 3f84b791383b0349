#include "mini_engine/tokenizer.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

#include "engine/tokenizer_golden.hpp"
#include "mini_engine/byte_alphabet.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/model_file.hpp"

using namespace mini_engine;
using namespace mini_engine::testing;

namespace {

std::string without(const std::string& text, const std::string& bytes) {
  std::string kept;
  for (const char byte : text) {
    if (bytes.find(byte) == std::string::npos) kept += byte;
  }
  return kept;
}

void check_ids(const Tokenizer& tokenizer, const nlohmann::json& cases, SpecialTokens specials) {
  CHECK_FALSE(cases.empty());
  for (const auto& entry : cases) {
    const auto text = entry.at("text").get<std::string>();
    CAPTURE(text);
    const std::vector<TokenId> ids = tokenizer.encode(text, specials);
    CHECK(ids == entry.at("ids").get<std::vector<TokenId>>());
    CHECK(tokenizer.decode(ids) == without(text, tokenizer.missing_bytes()));
  }
}

void check_against_golden(const Tokenizer& tokenizer, const std::string& name) {
  const nlohmann::json golden = tokenizer_golden(name);
  CHECK(golden.at("texts").size() > 150);
  // These texts spell out no special token, so that it makes no difference whether one is looked for.
  check_ids(tokenizer, golden.at("texts"), SpecialTokens::kAsText);
  check_ids(tokenizer, golden.at("texts"), SpecialTokens::kParse);
  check_ids(tokenizer, golden.at("parsed"), SpecialTokens::kParse);
  check_ids(tokenizer, golden.at("plain"), SpecialTokens::kAsText);
}

/// Random bytes with long valid runs, so that pieces of both kinds meet.
std::string random_bytes(std::mt19937_64& random, std::size_t size) {
  static const std::string kRuns[] = {" the", "\xE4\xB8\x96", "\xF0\x9F\x91\x8D", "\r\n", "42", "\xC3\xA9", "'s "};
  std::string text;
  while (text.size() < size) {
    if (random() % 2 == 0) {
      text += kRuns[random() % std::size(kRuns)];
    } else {
      text += static_cast<char>(random() % 256);
    }
  }
  return text;
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<TokenId> ids = tokenizer.encode(text);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  CHECK(tokenizer.decode(ids) == text);
  return elapsed.count();
}

/// A tokenizer of the 256 bytes, the given further pieces and one special token.
TokenizerData byte_tokenizer(std::vector<std::string> pieces, std::vector<std::pair<std::string, std::string>> merges) {
  TokenizerData data;
  for (int byte = 0; byte < 256; ++byte) data.pieces.push_back(piece_of_bytes(std::string(1, static_cast<char>(byte))));
  data.pieces.insert(data.pieces.end(), pieces.begin(), pieces.end());
  data.is_special.assign(data.pieces.size(), false);
  data.pieces.emplace_back("<end>");
  data.is_special.push_back(true);
  data.merges = std::move(merges);
  data.source = "made up";
  return data;
}

std::string error_of(TokenizerData data) {
  try {
    const Tokenizer tokenizer(std::move(data));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("ids agree with the reference for a tokenizer of Llama 3's kind") {
  check_against_golden(small_tokenizer("llama3_small"), "llama3_small");
}

TEST_CASE("ids agree with the reference for a tokenizer of SmolLM2's kind, which lacks bytes") {
  const Tokenizer tokenizer = small_tokenizer("smol_small");
  CHECK(tokenizer.missing_bytes() == "\x04\x06\x13\x14\x16\xC0\xC1\xF1\xF2");
  check_against_golden(tokenizer, "smol_small");
}

TEST_CASE("ids agree with the reference for SmolLM2") {
  const char* path = std::getenv("PIKV_SMOLLM2");
  if (path == nullptr) {
    MESSAGE("skipped: PIKV_SMOLLM2 does not name SmolLM2's GGUF file");
    return;
  }
  const Tokenizer tokenizer(open_model(path)->tokenizer());
  CHECK(tokenizer.missing_bytes().size() == 21);
  check_against_golden(tokenizer, "smollm2");
}

TEST_CASE("any bytes survive encoding and decoding") {
  const Tokenizer tokenizer = small_tokenizer("llama3_small");
  REQUIRE(tokenizer.missing_bytes().empty());
  std::mt19937_64 random(7);
  for (std::size_t size = 0; size < 400; ++size) {
    const std::string text = random_bytes(random, size);
    CAPTURE(text);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
    CHECK(tokenizer.decode(tokenizer.encode(text, SpecialTokens::kParse)) == text);
  }
}

TEST_CASE("a byte that is no part of a character is one token and does not join its neighbours") {
  // The merge would join the continuation byte with the letter if they were one piece.
  const std::string stray = piece_of_bytes("\x80");
  const Tokenizer tokenizer(byte_tokenizer({stray + "!", "!" + stray, "!!"}, {{stray, "!"}, {"!", stray}, {"!", "!"}}));
  CHECK(tokenizer.encode("!\x80!!") == std::vector<TokenId>{'!', 0x80, 258});
  CHECK(tokenizer.encode("\xED\xA0\x80") == std::vector<TokenId>{0xED, 0xA0, 0x80});  // a surrogate
  CHECK(tokenizer.encode("!\xF0\x9F\x91") == std::vector<TokenId>{'!', 0xF0, 0x9F, 0x91});
}

TEST_CASE("pairs are joined by rank, the leftmost first") {
  TokenizerData data = byte_tokenizer({"ab", "bc", "abc", "aa", "aaaa"},
                                      {{"b", "c"}, {"a", "bc"}, {"a", "b"}, {"a", "a"}, {"aa", "aa"}});
  const TokenId ab = 256, bc = 257, abc = 258, aa = 259, aaaa = 260;
  SUBCASE("by merges alone") {
    const Tokenizer tokenizer(data);
    CHECK(tokenizer.encode("abc") == std::vector<TokenId>{abc});
    CHECK(tokenizer.encode("ab") == std::vector<TokenId>{ab});
    CHECK(tokenizer.encode("bbc") == std::vector<TokenId>{'b', bc});
    CHECK(tokenizer.encode("aaaaaaa") == std::vector<TokenId>{aaaa, aa, 'a'});
  }
  SUBCASE("a whole piece counts without merges only with ignore_merges") {
    data.merges.pop_back();
    CHECK(Tokenizer(data).encode("aaaa") == std::vector<TokenId>{aa, aa});
    data.ignore_merges = true;
    CHECK(Tokenizer(data).encode("aaaa") == std::vector<TokenId>{aaaa});
  }
}

TEST_CASE("special tokens are taken as such only on request") {
  TokenizerData data = byte_tokenizer({}, {});
  data.ignore_merges = true;
  data.pieces.emplace_back("<end>>");
  data.is_special.push_back(true);
  const Tokenizer tokenizer(data);
  const TokenId end = 256, longer = 257;
  CHECK(tokenizer.special("<end>") == end);
  CHECK(tokenizer.encode("<end>") == std::vector<TokenId>{'<', 'e', 'n', 'd', '>'});
  CHECK(tokenizer.encode("x<end>>\xFF<end><end", SpecialTokens::kParse) ==
        std::vector<TokenId>{'x', longer, 0xFF, end, '<', 'e', 'n', 'd'});
  CHECK_THROWS_WITH_AS((void)tokenizer.special("<start>"), "made up: tokenizer: no special token '<start>'", Error);
}

TEST_CASE("time grows about linearly with the length of a piece") {
  // A piece of a million letters takes quadratic merging half an hour.
  TokenizerData data = byte_tokenizer({"aa", "aaaa"}, {{"a", "a"}, {"aa", "aa"}});
  for (const PreSplit pre_split : {PreSplit::kLlama3, PreSplit::kSmolLm}) {
    data.pre_split = pre_split;
    const Tokenizer tokenizer(data);
    const std::size_t million = std::size_t{1} << 20U;
    CHECK(seconds_to_encode(tokenizer, std::string(million, 'a')) < 20.0);
    CHECK(seconds_to_encode(tokenizer, std::string(million, ' ') + "x") < 20.0);
    CHECK(seconds_to_encode(tokenizer, std::string(million, '\x80')) < 20.0);
    CHECK(seconds_to_encode(tokenizer, std::string(million, '\n')) < 20.0);
    CHECK(seconds_to_encode(tokenizer, std::string(million, '1')) < 20.0);
  }
}

TEST_CASE("several threads may encode at once") {
  const Tokenizer tokenizer = small_tokenizer("llama3_small");
  const std::string text = "The other day, 12345 people didn't \xE4\xB8\x96\xE7\x95\x8C.\n";
  const std::vector<TokenId> expected = tokenizer.encode(text);
  std::vector<int> num_equal(4, 0);
  std::vector<std::thread> threads;
  for (int& count : num_equal) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += tokenizer.encode(text) == expected ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(num_equal == std::vector<int>(4, 200));
}

TEST_CASE("ids out of range are refused") {
  const Tokenizer tokenizer(byte_tokenizer({}, {}));
  const std::vector<TokenId> ids = {0, 257};
  CHECK_THROWS_WITH_AS((void)tokenizer.decode(ids), "token id 257 is outside the vocabulary of 257", Error);
}

TEST_CASE("malformed tokenizer data is refused, naming source and place") {
  TokenizerData data = byte_tokenizer({"ab"}, {{"a", "b"}});
  SUBCASE("no vocabulary") {
    data.pieces.clear(), data.is_special.clear();
    CHECK(error_of(data) == "made up: tokenizer: the vocabulary is empty");
  }
  SUBCASE("flags of another length") {
    data.is_special.pop_back();
    CHECK(error_of(data) == "made up: tokenizer: 258 pieces but 257 special flags");
  }
  SUBCASE("duplicate piece") {
    data.pieces[256] = "b";
    CHECK(error_of(data) == "made up: token 256: 'b' appears twice");
  }
  SUBCASE("empty piece") {
    data.pieces[256].clear();
    CHECK(error_of(data) == "made up: token 256: '' is empty");
  }
  SUBCASE("outside the alphabet") {
    for (const char* piece : {"a b", "\xE4\xB8\x96", "\xC5\x84", "\xC4", "\xC2\xAD", "\xFF"}) {
      data.pieces[256] = piece;
      CHECK(error_of(data) ==
            "made up: token 256: '" + std::string(piece) + "' holds a character outside the byte-level alphabet");
    }
  }
  SUBCASE("merge of an unknown piece") {
    data.merges.emplace_back("ab", "xyz");
    CHECK(error_of(data) == "made up: merge 1: 'xyz' is not an ordinary piece of the vocabulary");
  }
  SUBCASE("merge into an unknown piece") {
    data.merges.emplace_back("b", "a");
    CHECK(error_of(data) == "made up: merge 1: 'ba' is not an ordinary piece of the vocabulary");
  }
  SUBCASE("merge into a special token") {
    data.pieces.push_back("<end"), data.is_special.push_back(false);
    data.merges.emplace_back("<end", ">");
    CHECK(error_of(data) == "made up: merge 1: '<end>' is not an ordinary piece of the vocabulary");
  }
  SUBCASE("duplicate merge") {
    data.merges.emplace_back("a", "b");
    CHECK(error_of(data) == "made up: merge 1: 'a b' has an earlier rank already");
  }
  SUBCASE("BOS outside the vocabulary") {
    data.adds_bos = true;
    data.bos_id = 258;
    CHECK(error_of(data) == "made up: tokenizer: BOS id 258 is outside the vocabulary of 258");
  }
}

TEST_CASE("the byte alphabet is a bijection") {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  const std::string piece = piece_of_bytes(bytes);
  CHECK(bytes_of_piece(piece) == bytes);
  CHECK(piece_of_bytes(" \n") == "\xC4\xA0\xC4\x8A");
}
