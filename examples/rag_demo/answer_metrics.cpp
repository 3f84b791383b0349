#include "rag_demo/answer_metrics.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace rag_demo {
namespace {

// Fixed sets: what <cctype> answers depends on the locale.
bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

std::vector<std::string> normalized_words(std::string_view answer) {
  std::vector<std::string> words;
  std::string word;
  const auto finish_word = [&] {
    if (!word.empty() && word != "a" && word != "an" && word != "the") words.push_back(word);
    word.clear();
  };
  for (const char c : answer) {
    if (is_ascii_space(c)) {
      finish_word();
    } else if (!is_ascii_punctuation(c)) {
      word.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
    }
  }
  finish_word();
  return words;
}

double f1_of_words(const std::vector<std::string>& reply, const std::vector<std::string>& reference) {
  if (reply.empty() || reference.empty()) return reply.empty() && reference.empty() ? 1.0 : 0.0;
  std::unordered_map<std::string_view, std::size_t> unmatched;
  for (const std::string& word : reference) ++unmatched[word];
  std::size_t num_shared = 0;
  for (const std::string& word : reply) {
    const auto found = unmatched.find(word);
    if (found == unmatched.end() || found->second == 0) continue;
    --found->second;
    ++num_shared;
  }
  return 2.0 * static_cast<double>(num_shared) / static_cast<double>(reply.size() + reference.size());
}

void require_references(std::span<const std::string> references) {
  if (references.empty()) throw std::invalid_argument("a reply cannot be scored without a reference answer");
}

}  // namespace

std::string normalize_answer(std::string_view answer) {
  std::string joined;
  for (const std::string& word : normalized_words(answer)) {
    if (!joined.empty()) joined.push_back(' ');
    joined += word;
  }
  return joined;
}

bool exact_match(std::string_view reply, std::span<const std::string> references) {
  require_references(references);
  const std::string normalized = normalize_answer(reply);
  return std::ranges::any_of(references,
                             [&](const std::string& answer) { return normalize_answer(answer) == normalized; });
}

double token_f1(std::string_view reply, std::span<const std::string> references) {
  require_references(references);
  const std::vector<std::string> reply_words = normalized_words(reply);
  double best = 0.0;
  for (const std::string& answer : references)
    best = std::max(best, f1_of_words(reply_words, normalized_words(answer)));
  return best;
}

bool contains_answer(std::string_view reply, std::span<const std::string> references) {
  require_references(references);
  const std::vector<std::string> reply_words = normalized_words(reply);
  return std::ranges::any_of(references, [&](const std::string& answer) {
    const std::vector<std::string> words = normalized_words(answer);
    return !words.empty() &&
           std::search(reply_words.begin(), reply_words.end(), words.begin(), words.end()) != reply_words.end();
  });
}

}  // namespace rag_demo
