#include "rag_demo/request.hpp"

#include <random>
#include <unordered_map>
#include <utility>

#include "rag_demo/shuffle.hpp"

namespace rag_demo {
namespace {

/// The row at which each document of `order` begins.
std::unordered_map<std::size_t, pikv::Position> begin_rows(std::span<const std::size_t> order,
                                                           std::size_t system_tokens,
                                                           std::span<const std::vector<TokenId>> passages) {
  std::unordered_map<std::size_t, pikv::Position> rows;
  std::size_t row = system_tokens;
  for (const std::size_t document : order) {
    rows.emplace(document, static_cast<pikv::Position>(row));
    row += passages[document].size();
  }
  return rows;
}

}  // namespace

std::vector<std::vector<TokenId>> encode_passages(const PromptBuilder& builder, const Corpus& corpus) {
  std::vector<std::vector<TokenId>> passages;
  passages.reserve(corpus.documents.size());
  for (const Document& document : corpus.documents) passages.push_back(builder.passage(document.text));
  return passages;
}

std::vector<Request> make_requests(const std::vector<Question>& questions, const Bm25Index& index, std::size_t top_k,
                                   std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::size_t> order(questions.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  shuffle(order, random);

  std::vector<Request> requests;
  for (const std::size_t question_index : order) {
    const Question& question = questions[question_index];
    Request request{.question = question.question,
                    .reply_begins = question.answer_prefix,
                    .answers = question.answers,
                    .documents = {},
                    .earlier_order = {}};
    for (const Bm25Hit& hit : index.search(question.question, top_k)) request.documents.push_back(hit.document_index);
    request.earlier_order = request.documents;
    shuffle(request.documents, random);
    shuffle(request.earlier_order, random);
    requests.push_back(std::move(request));
  }
  return requests;
}

pikv::Prompt make_prompt(const Request& request, Mode mode, const PromptBuilder& builder,
                         std::span<const std::vector<TokenId>> passages, const pikv::ChunkRecipe& recipe) {
  const auto earlier_rows = begin_rows(request.earlier_order, builder.system().size(), passages);
  pikv::Prompt prompt;
  prompt.add_fresh(builder.system());
  for (const std::size_t document : request.documents) {
    const std::vector<TokenId>& tokens = passages[document];
    switch (mode) {
      case Mode::kFull:
      case Mode::kExactPrefix:
        prompt.add_fresh(tokens);
        break;
      case Mode::kReuseLocal:
        prompt.add_chunk(tokens, recipe, pikv::Anchor::at(0));
        break;
      case Mode::kReuseStale:
        prompt.add_chunk(tokens, recipe, pikv::Anchor::at(earlier_rows.at(document)));
        break;
      case Mode::kReanchored:
        prompt.add_chunk(tokens, recipe);
        break;
    }
  }
  prompt.add_fresh(builder.question(request.question, request.reply_begins));
  return prompt;
}

pikv::Prompt make_earlier_prompt(const Request& request, const PromptBuilder& builder,
                                 std::span<const std::vector<TokenId>> passages) {
  pikv::Prompt prompt;
  prompt.add_fresh(builder.system());
  for (const std::size_t document : request.earlier_order) prompt.add_fresh(passages[document]);
  prompt.add_fresh(builder.question(request.question, request.reply_begins));
  return prompt;
}

}  // namespace rag_demo
