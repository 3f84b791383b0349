#include "rag_demo/bm25.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace rag_demo {

Bm25Index::Bm25Index(std::span<const std::string> documents, const Bm25Options& options) : options_(options) {
  if (!std::isfinite(options.k1) || options.k1 < 0.0) throw std::invalid_argument("Bm25Options::k1 must be at least 0");
  if (!(options.b >= 0.0 && options.b <= 1.0)) throw std::invalid_argument("Bm25Options::b must lie in [0, 1]");
  if (documents.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("Bm25Index: too many documents: " + std::to_string(documents.size()));
  }

  std::vector<std::size_t> num_words(documents.size());
  std::size_t total_words = 0;
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const auto document_index = static_cast<std::uint32_t>(i);
    const std::vector<std::string> words = split_words(documents[i], options.stop_words);
    num_words[i] = words.size();
    total_words += words.size();
    for (const std::string& word : words) {
      std::vector<Posting>& list = postings_[word];
      if (list.empty() || list.back().document_index != document_index) list.push_back({document_index, 0});
      ++list.back().num_occurrences;
    }
  }

  // A collection without a single word has no mean length; nothing can be found in it, so any divisor serves.
  const double mean_words =
      total_words == 0 ? 1.0 : static_cast<double>(total_words) / static_cast<double>(documents.size());
  length_factors_.reserve(documents.size());
  for (const std::size_t n : num_words) {
    length_factors_.push_back(options.k1 * (1.0 - options.b + options.b * static_cast<double>(n) / mean_words));
  }
}

std::vector<Bm25Hit> Bm25Index::search(std::string_view query, std::size_t max_hits) const {
  std::vector<double> scores(num_documents(), 0.0);
  for (const std::string& word : split_words(query, options_.stop_words)) {
    const auto found = postings_.find(word);
    if (found == postings_.end()) continue;
    const auto num_holding = static_cast<double>(found->second.size());
    const double weight = std::log1p((static_cast<double>(num_documents()) - num_holding + 0.5) / (num_holding + 0.5));
    for (const Posting& posting : found->second) {
      const double f = posting.num_occurrences;
      scores[posting.document_index] +=
          weight * f * (options_.k1 + 1.0) / (f + length_factors_[posting.document_index]);
    }
  }

  std::vector<Bm25Hit> hits;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > 0.0) hits.push_back({i, scores[i]});
  }
  const std::size_t num_hits = std::min(max_hits, hits.size());
  std::ranges::partial_sort(hits, hits.begin() + static_cast<std::ptrdiff_t>(num_hits),
                            [](const Bm25Hit& left, const Bm25Hit& right) {
                              if (left.score != right.score) return left.score > right.score;
                              return left.document_index < right.document_index;
                            });
  hits.resize(num_hits);
  return hits;
}

}  // namespace rag_demo
