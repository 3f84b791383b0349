#include "rag_bench/zipf_workload.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "mini_engine/error.hpp"
#include "rag_bench/made_up.hpp"

namespace rag_bench {
namespace {

using mini_engine::TokenId;
using mini_engine::serve::PromptSegment;
using mini_engine::serve::Request;

enum Kind : std::uint64_t { kDocument = 1, kQuestion = 2, kChoice = 3 };

void check_positive(const char* name, int value) {
  if (value < 1) throw mini_engine::Error(std::string("workload: ") + name + " is " + std::to_string(value));
}

}  // namespace

ZipfWorkload::ZipfWorkload(const ZipfOptions& options) : options_(options) {
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

std::vector<TokenId> ZipfWorkload::document(std::int64_t index) const {
  return made_up_tokens(generator(options_.seed, kDocument, static_cast<std::uint64_t>(index)),
                        options_.document_tokens, options_.vocab_size);
}

std::vector<int> ZipfWorkload::documents_of(std::uint64_t index) const {
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

Request ZipfWorkload::request(std::uint64_t index) const {
  Request request;
  for (const int id : documents_of(index)) {
    request.segments.push_back({.kind = PromptSegment::Kind::kDocument, .tokens = document(id)});
  }
  request.segments.push_back(
      {.kind = PromptSegment::Kind::kText, .tokens = made_up_tokens(generator(options_.seed, kQuestion, index), options_.question_tokens, options_.vocab_size)});
  request.max_tokens = options_.new_tokens;
  return request;
}

WorkloadSize ZipfWorkload::size() const {
  return {.num_documents = options_.num_documents,
          .document_tokens = std::int64_t{options_.num_documents} * options_.document_tokens,
          .max_document_tokens = options_.document_tokens,
          .max_prompt_tokens = options_.documents_per_request * options_.document_tokens + options_.question_tokens,
          .max_new_tokens = options_.new_tokens};
}

std::string ZipfWorkload::description() const {
  return nlohmann::json{{"documents", options_.num_documents},
                        {"document_tokens", options_.document_tokens},
                        {"documents_per_request", options_.documents_per_request},
                        {"zipf", options_.zipf},
                        {"question_tokens", options_.question_tokens},
                        {"new_tokens", options_.new_tokens},
                        {"seed", options_.seed}}
      .dump();
}

}  // namespace rag_bench
