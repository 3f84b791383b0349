#include "rag_bench/workload.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "mini_engine/error.hpp"

namespace rag_bench {
namespace {

using mini_engine::TokenId;
using mini_engine::serve::PromptSegment;
using mini_engine::serve::Request;

enum Kind : std::uint64_t { kDocument = 1, kQuestion = 2, kChoice = 3 };

/// A generator of its own for each thing that is made up (splitmix64's finaliser over the three numbers).
std::mt19937_64 generator(std::uint64_t seed, std::uint64_t kind, std::uint64_t index) {
  std::uint64_t x = seed * 0x9E3779B97F4A7C15U + kind * 0xBF58476D1CE4E5B9U + index;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return std::mt19937_64(x ^ (x >> 31U));
}

double fraction(std::mt19937_64& random) { return static_cast<double>(random() >> 11U) * 0x1p-53; }

void check_positive(const char* name, int value) {
  if (value < 1) throw mini_engine::Error(std::string("workload: ") + name + " is " + std::to_string(value));
}

}  // namespace

Workload::Workload(const WorkloadOptions& options) : options_(options) {
  check_positive("number of documents", options.num_documents);
  check_positive("tokens of a document", options.document_tokens);
  check_positive("documents per request", options.documents_per_request);
  check_positive("tokens of a question", options.question_tokens);
  check_positive("new tokens", options.new_tokens);
  check_positive("vocabulary", options.vocab_size);
  if (options.documents_per_request > options.num_documents) {
    throw mini_engine::Error("workload: " + std::to_string(options.documents_per_request) +
                             " documents per request, there are " + std::to_string(options.num_documents));
  }
  double sum = 0;
  for (int i = 1; i <= options.num_documents; ++i) sums_.push_back(sum += std::pow(i, -options.zipf));
}

std::vector<TokenId> Workload::tokens(std::uint64_t kind, std::uint64_t index, int count) const {
  std::mt19937_64 random = generator(options_.seed, kind, index);
  std::vector<TokenId> made(static_cast<std::size_t>(count));
  for (TokenId& token : made) token = static_cast<TokenId>(random() % static_cast<std::uint64_t>(options_.vocab_size));
  return made;
}

std::vector<TokenId> Workload::document(int index) const {
  return tokens(kDocument, static_cast<std::uint64_t>(index), options_.document_tokens);
}

std::vector<int> Workload::documents_of(std::uint64_t index) const {
  std::mt19937_64 random = generator(options_.seed, kChoice, index);
  std::vector<int> chosen;
  while (static_cast<int>(chosen.size()) < options_.documents_per_request) {
    const double place = fraction(random) * sums_.back();
    const auto document = static_cast<int>(std::upper_bound(sums_.begin(), sums_.end() - 1, place) - sums_.begin());
    if (std::find(chosen.begin(), chosen.end(), document) == chosen.end()) chosen.push_back(document);
  }
  for (std::size_t i = chosen.size() - 1; i > 0; --i) std::swap(chosen[i], chosen[random() % (i + 1)]);
  return chosen;
}

Request Workload::request(std::uint64_t index) const {
  Request request;
  for (const int id : documents_of(index)) {
    request.segments.push_back({.kind = PromptSegment::Kind::kDocument, .tokens = document(id)});
  }
  request.segments.push_back(
      {.kind = PromptSegment::Kind::kText, .tokens = tokens(kQuestion, index, options_.question_tokens)});
  request.max_tokens = options_.new_tokens;
  return request;
}

}  // namespace rag_bench
