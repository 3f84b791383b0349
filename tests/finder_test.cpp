#include "pikv/finder.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/store_world.hpp"

namespace {

using pikv::ChunkFinder;
using pikv::FoundChunk;
using test_support::key_of;
using Tokens = std::vector<pikv::TokenId>;

ChunkFinder make_finder(std::int32_t window_tokens, std::uint64_t seed = 0) {
  return std::move(ChunkFinder::create({.window_tokens = window_tokens, .seed = seed}).value());
}

/// What find() promises, by comparing everything with everything.
std::vector<FoundChunk> naive_find(const std::map<pikv::ChunkKey, Tokens>& chunks, const Tokens& prompt) {
  std::vector<FoundChunk> found;
  for (std::size_t begin = 0; begin < prompt.size();) {
    const std::pair<const pikv::ChunkKey, Tokens>* best = nullptr;
    for (const auto& chunk : chunks) {
      const Tokens& tokens = chunk.second;
      if (tokens.size() <= prompt.size() - begin && (best == nullptr || tokens.size() > best->second.size()) &&
          std::equal(tokens.begin(), tokens.end(), prompt.begin() + static_cast<std::ptrdiff_t>(begin))) {
        best = &chunk;
      }
    }
    if (best == nullptr) {
      ++begin;
      continue;
    }
    found.push_back({best->first, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(best->second.size())});
    begin += best->second.size();
  }
  return found;
}

Tokens random_tokens(std::mt19937& random, std::size_t length, unsigned alphabet) {
  Tokens tokens(length);
  for (pikv::TokenId& token : tokens) token = static_cast<pikv::TokenId>(random() % alphabet);
  return tokens;
}

Tokens fibonacci_word(std::size_t length) {
  Tokens a{0};
  Tokens b{0, 1};
  while (b.size() < length) {
    Tokens next = b;
    next.insert(next.end(), a.begin(), a.end());
    a = std::move(b);
    b = std::move(next);
  }
  b.resize(length);
  return b;
}

Tokens thue_morse_word(std::size_t length) {
  Tokens tokens(length);
  for (std::size_t i = 0; i < length; ++i) tokens[i] = static_cast<pikv::TokenId>(__builtin_popcountll(i) & 1);
  return tokens;
}

Tokens slice(const Tokens& tokens, std::size_t begin, std::size_t length) {
  return Tokens(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                tokens.begin() + static_cast<std::ptrdiff_t>(begin + length));
}

double milliseconds_to_find(const ChunkFinder& finder, const Tokens& prompt) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t start = std::clock();  // of this process's CPU time, so that busy machines do not count
    (void)finder.find(prompt);
    best = std::min(best, 1000.0 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

TEST_CASE("create refuses windows out of range") {
  CHECK(ChunkFinder::create({.window_tokens = 0}).status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(ChunkFinder::create({.window_tokens = 4097}).status().message().find("4097") != std::string_view::npos);
  CHECK(ChunkFinder::create({.window_tokens = 4096}).ok());
}

TEST_CASE("add and remove") {
  ChunkFinder finder = make_finder(4);
  const Tokens tokens{1, 2, 3, 4, 5};
  CHECK(finder.add(key_of(1), slice(tokens, 0, 3)).code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(finder.add(key_of(1), tokens).ok());
  CHECK(finder.add(key_of(1), tokens).ok());
  CHECK(finder.add(key_of(1), slice(tokens, 0, 4)).code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(finder.size() == 1);
  CHECK(finder.find(tokens) == std::vector{FoundChunk{key_of(1), 0, 5}});
  CHECK(finder.remove(key_of(1)));
  CHECK_FALSE(finder.remove(key_of(1)));
  CHECK(finder.size() == 0);
  CHECK(finder.find(tokens).empty());
}

TEST_CASE("removing half of many chunks leaves the other half") {
  std::mt19937 random(17);
  ChunkFinder finder = make_finder(4);
  std::vector<Tokens> chunks;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    chunks.push_back(random_tokens(random, 4 + random() % 3, 100000));
    REQUIRE(finder.add(key_of(i), chunks.back()).ok());
  }
  for (std::uint64_t i = 0; i < chunks.size(); i += 2) REQUIRE(finder.remove(key_of(i)));
  for (std::uint64_t i = 0; i < chunks.size(); ++i) {
    const auto found = finder.find(chunks[i]);
    REQUIRE(found.size() == i % 2);
    if (i % 2 == 1) REQUIRE(found[0].key == key_of(i));
  }
}

TEST_CASE("the longest chunk wins, from left to right, without overlap") {
  ChunkFinder finder = make_finder(2);
  REQUIRE(finder.add(key_of(1), Tokens{1, 2}).ok());
  REQUIRE(finder.add(key_of(2), Tokens{1, 2, 3, 4}).ok());
  REQUIRE(finder.add(key_of(3), Tokens{2, 3, 4, 5, 6}).ok());
  REQUIRE(finder.add(key_of(4), Tokens{1, 2, 3, 4, 5, 9, 9, 9}).ok());
  CHECK(finder.find(Tokens{1, 2, 3, 4, 5, 6}) == std::vector{FoundChunk{key_of(2), 0, 4}});
  CHECK(finder.find(Tokens{7, 1, 2, 3, 7, 1, 2}) ==
        std::vector{FoundChunk{key_of(1), 1, 2}, FoundChunk{key_of(1), 5, 2}});
  CHECK(finder.find(Tokens{}).empty());
  CHECK(finder.find(Tokens{1}).empty());
}

TEST_CASE("two keys of the same tokens: one is found, and the other once that is gone") {
  ChunkFinder finder = make_finder(2);
  const Tokens tokens{5, 6, 7};
  REQUIRE(finder.add(key_of(1), tokens).ok());
  REQUIRE(finder.add(key_of(2), tokens).ok());
  const auto first = finder.find(tokens);
  REQUIRE(first.size() == 1);
  CHECK(finder.remove(first[0].key));
  const auto second = finder.find(tokens);
  REQUIRE(second.size() == 1);
  CHECK(second[0].key != first[0].key);
  CHECK(finder.remove(second[0].key));
  CHECK(finder.find(tokens).empty());
}

TEST_CASE("agrees with a naive scan while chunks come and go") {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    const unsigned alphabet = 1 + random() % 4;  // few letters: many prefixes in common, many repeats
    const std::size_t window = 1 + random() % 4;
    ChunkFinder finder = make_finder(static_cast<std::int32_t>(window), random() % 2);
    std::map<pikv::ChunkKey, Tokens> chunks;
    std::map<Tokens, pikv::ChunkKey> by_tokens;
    for (int step = 0; step < 80; ++step) {
      if (chunks.empty() || random() % 3 != 0) {
        Tokens tokens = random_tokens(random, window + random() % 14, alphabet);
        if (!chunks.empty() && random() % 3 == 0) {  // begin like a chunk that is there
          const Tokens& other =
              std::next(chunks.begin(), static_cast<std::ptrdiff_t>(random() % chunks.size()))->second;
          tokens.insert(tokens.begin(), other.begin(), other.end());
          tokens.resize(std::max(window, tokens.size() - random() % 4));
        }
        if (by_tokens.count(tokens) != 0) continue;
        const pikv::ChunkKey key = key_of(static_cast<std::uint64_t>(step) + 1);
        REQUIRE(finder.add(key, tokens).ok());
        by_tokens.emplace(tokens, key);
        chunks.emplace(key, std::move(tokens));
      } else {
        const auto gone = std::next(chunks.begin(), static_cast<std::ptrdiff_t>(random() % chunks.size()));
        REQUIRE(finder.remove(gone->first));
        by_tokens.erase(gone->second);
        chunks.erase(gone);
      }
      Tokens prompt = random_tokens(random, random() % 30, alphabet);
      for (int i = 0; i < 3 && !chunks.empty(); ++i) {
        const Tokens& chunk = std::next(chunks.begin(), static_cast<std::ptrdiff_t>(random() % chunks.size()))->second;
        prompt.insert(prompt.begin() + static_cast<std::ptrdiff_t>(random() % (prompt.size() + 1)), chunk.begin(),
                      chunk.end());
      }
      REQUIRE(finder.find(prompt) == naive_find(chunks, prompt));
    }
  }
}

TEST_CASE("agrees with a naive scan on words made to fool polynomial hashes") {
  for (const Tokens& word : {fibonacci_word(700), thue_morse_word(700), Tokens(700, 0), Tokens(700, 4294967295U)}) {
    ChunkFinder finder = make_finder(8);
    std::map<pikv::ChunkKey, Tokens> chunks;
    std::map<Tokens, bool> seen;
    std::mt19937 random(3);
    for (std::uint64_t i = 0; i < 60; ++i) {
      const std::size_t length = 8 + random() % 120;
      Tokens tokens = slice(word, random() % (word.size() - length), length);
      if (random() % 2 == 0) tokens.back() += 1;
      if (!seen.emplace(tokens, true).second) continue;
      REQUIRE(finder.add(key_of(i), tokens).ok());
      chunks.emplace(key_of(i), std::move(tokens));
    }
    CHECK(finder.find(word) == naive_find(chunks, word));
  }
}

TEST_CASE("documents are found where they were put, at real sizes") {
  std::mt19937 random(5);
  ChunkFinder finder = make_finder(16);
  std::vector<Tokens> documents;
  for (std::uint64_t i = 0; i < 300; ++i) {
    documents.push_back(random_tokens(random, 100 + random() % 500, 128256));
    REQUIRE(finder.add(key_of(i), documents.back()).ok());
  }
  Tokens prompt;
  std::vector<FoundChunk> expected;
  for (int i = 0; i < 40; ++i) {
    const Tokens between = random_tokens(random, random() % 50, 128256);
    prompt.insert(prompt.end(), between.begin(), between.end());
    const std::size_t which = random() % documents.size();
    expected.push_back(
        {key_of(which), static_cast<std::int64_t>(prompt.size()), static_cast<std::int64_t>(documents[which].size())});
    prompt.insert(prompt.end(), documents[which].begin(), documents[which].end());
  }
  CHECK(finder.find(prompt) == expected);
}

TEST_CASE("time stays in bounds on adversarial prompts") {
  // Milliseconds when optimised; sanitizers slow it down. A quadratic scan would take minutes where this allows a
  // second.
  constexpr double kBoundMs = 1000;
  constexpr std::size_t kPromptTokens = 131072;
  SUBCASE("chunks a^k b that all begin with the prompt's only window, and none of which matches") {
    ChunkFinder finder = make_finder(16);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      Tokens tokens(16 + i, 7);
      tokens.push_back(8);
      REQUIRE(finder.add(key_of(i), tokens).ok());
    }
    const Tokens prompt(kPromptTokens, 7);
    CHECK(finder.find(prompt).empty());
    CHECK(milliseconds_to_find(finder, prompt) < kBoundMs);
  }
  SUBCASE("chunks a^k: every place matches many") {
    ChunkFinder finder = make_finder(16);
    for (std::uint64_t i = 0; i < 1000; ++i) REQUIRE(finder.add(key_of(i), Tokens(16 + i, 7)).ok());
    const Tokens prompt(kPromptTokens, 7);
    CHECK(finder.find(prompt).size() == kPromptTokens / 1015 + 1);
    CHECK(milliseconds_to_find(finder, prompt) < kBoundMs);
  }
  SUBCASE("one long chunk that fails at its last token, at every place") {
    ChunkFinder finder = make_finder(16);
    Tokens tokens(60000, 7);
    tokens.push_back(8);
    REQUIRE(finder.add(key_of(1), tokens).ok());
    const Tokens prompt(kPromptTokens, 7);
    CHECK(finder.find(prompt).empty());
    CHECK(milliseconds_to_find(finder, prompt) < kBoundMs);
  }
  SUBCASE("slices of a Fibonacci word and of a Thue-Morse word") {
    for (const Tokens& prompt : {fibonacci_word(kPromptTokens), thue_morse_word(kPromptTokens)}) {
      ChunkFinder finder = make_finder(16);
      std::mt19937 random(9);
      for (std::uint64_t i = 0; i < 1000; ++i) {
        Tokens tokens = slice(prompt, random() % 1000, 16 + random() % 1000);
        tokens.back() ^= 2;
        REQUIRE(finder.add(key_of(i), tokens).ok());
      }
      CHECK(finder.find(prompt).empty());
      CHECK(milliseconds_to_find(finder, prompt) < kBoundMs);
    }
  }
}

}  // namespace
