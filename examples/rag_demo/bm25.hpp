// Okapi BM25: ranking documents for a query by the words they share.
//
//   const Bm25Index index(texts);
//   for (const Bm25Hit& hit : index.search("how high is the tower", 5)) use(texts[hit.document_index]);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "rag_demo/words.hpp"

namespace rag_demo {

struct Bm25Options {
  double k1 = 1.2;  ///< how fast repeats of a word stop counting; finite, at least 0
  double b = 0.75;  ///< how much long documents are held back; in [0, 1]
  StopWords stop_words = StopWords::kDrop;
};

struct Bm25Hit {
  std::size_t document_index = 0;  ///< into the span the index was built from
  double score = 0.0;              ///< above 0
};

/// Immutable once built, so any number of threads may search it.
///
/// A word that occurs f times in a document of n words, in a collection of N documents of which d hold it and whose
/// mean length is m, adds  ln(1 + (N - d + 0.5) / (d + 0.5)) * f * (k1 + 1) / (f + k1 * (1 - b + b * n / m)).
/// The weight of a word is never negative, however common it is. A word repeated in the query counts each time.
class Bm25Index {
 public:
  /// `documents`: [N] texts, which need not outlive the call; N may be 0. Throws std::invalid_argument for options
  /// outside their domain or more than 2^32 - 1 documents.
  explicit Bm25Index(std::span<const std::string> documents, const Bm25Options& options = {});

  /// At most `max_hits` documents that share a word with `query`, best first and lower index first among equals.
  [[nodiscard]] std::vector<Bm25Hit> search(std::string_view query, std::size_t max_hits) const;

  [[nodiscard]] std::size_t num_documents() const { return length_factors_.size(); }

 private:
  struct Posting {
    std::uint32_t document_index;
    std::uint32_t num_occurrences;
  };

  Bm25Options options_;
  std::vector<double> length_factors_;                              // [N] k1 * (1 - b + b * n / m)
  std::unordered_map<std::string, std::vector<Posting>> postings_;  // by word, in the order of the documents
};

}  // namespace rag_demo
