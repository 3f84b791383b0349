#include "rag_demo/words.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace rag_demo {
namespace {

// Sorted, for binary search. Articles, pronouns, common prepositions, auxiliaries and question words, which occur in
// nearly every question and say nothing about its subject.
constexpr std::array<std::string_view, 46> kEnglishStopWords = {
    "a",    "an",    "and",   "are",  "as",    "at",    "be",   "by",   "did",  "do",   "does", "for",
    "from", "had",   "has",   "have", "how",   "in",    "is",   "it",   "its",  "of",   "on",   "or",
    "that", "the",   "their", "them", "there", "these", "they", "this", "to",   "was",  "were", "what",
    "when", "where", "which", "who",  "whom",  "whose", "why",  "will", "with", "would"};
static_assert(std::ranges::is_sorted(kEnglishStopWords));

bool is_stop_word(std::string_view word) { return std::ranges::binary_search(kEnglishStopWords, word); }

// Length of a non-ASCII separator at the start of `text`, or 0: U+00A0, or U+2000 to U+206F.
std::size_t wide_separator_bytes(std::string_view text) {
  if (text.starts_with("\xC2\xA0")) return 2;
  if (text.size() < 3 || text[0] != '\xE2') return 0;
  const auto third = static_cast<unsigned char>(text[2]);
  if (text[1] == '\x80') return 3;
  return text[1] == '\x81' && third <= 0xAF ? 3 : 0;
}

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool is_word_byte(char c) {
  return is_ascii_letter(c) || (c >= '0' && c <= '9') || static_cast<unsigned char>(c) >= 0x80;
}

}  // namespace

std::vector<std::string> split_words(std::string_view text, StopWords stop_words) {
  std::vector<std::string> words;
  std::string word;
  const auto finish_word = [&] {
    if (!word.empty() && !(stop_words == StopWords::kDrop && is_stop_word(word))) words.push_back(word);
    word.clear();
  };
  for (std::size_t i = 0; i < text.size();) {
    if (const std::size_t separator_bytes = wide_separator_bytes(text.substr(i)); separator_bytes != 0) {
      finish_word();
      i += separator_bytes;
      continue;
    }
    const char c = text[i++];
    if (!is_word_byte(c)) {
      finish_word();
    } else {
      word.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
    }
  }
  finish_word();
  return words;
}

}  // namespace rag_demo
