#include "lab/data/make_cases.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "lab/data/another_order.hpp"
#include "lab/data/opening.hpp"
#include "rag_bench/made_up.hpp"
#include "rag_demo/bm25.hpp"
#include "rag_demo/prompt_builder.hpp"
#include "rag_demo/shuffle.hpp"

namespace lab {
namespace {

using mini_engine::Tokenizer;

/// What of a seed is used for what.
enum Draw : std::uint64_t { kWhichQuestions, kOrderOfPassages };

std::vector<std::size_t> first_numbers(std::size_t count) {
  std::vector<std::size_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  return numbers;
}

bool contains(const std::vector<std::size_t>& values, std::size_t value) {
  return std::ranges::find(values, value) != values.end();
}

/// Ranks and forces passages into cases, and keeps count of what retrieval found.
class Ranker {
 public:
  Ranker(const QuestionSet& set, const CaseOptions& options)
      : options_(options), index_(std::span(set.pool.texts())), num_found_(options.top_k) {}

  /// Pool indices, best first.
  std::vector<std::size_t> rank(const SourceQuestion& question) const {
    if (!question.given.empty()) return question.given;
    std::vector<std::size_t> ranked;
    for (const rag_demo::Bm25Hit& hit : index_.search(question.text, options_.top_k)) {
      ranked.push_back(hit.document_index);
    }
    return ranked;
  }

  void count(const SourceQuestion& question, const std::vector<std::size_t>& ranked) {
    if (!question.given.empty() || question.gold.empty()) return;
    ++num_with_gold_;
    for (std::size_t rank = 0; rank < ranked.size(); ++rank) {
      if (!contains(question.gold, ranked[rank])) continue;
      for (std::size_t i = rank; i < num_found_.size(); ++i) ++num_found_[i];
      return;
    }
  }

  void force_gold(const SourceQuestion& question, std::vector<std::size_t>& ranked) const {
    if (!options_.with_gold || question.gold.empty()) return;
    if (std::ranges::any_of(question.gold, [&](std::size_t gold) { return contains(ranked, gold); })) return;
    if (ranked.size() == options_.top_k) ranked.pop_back();
    ranked.push_back(question.gold.front());
  }

  [[nodiscard]] std::size_t num_with_gold() const { return num_with_gold_; }
  [[nodiscard]] const std::vector<std::size_t>& num_found() const { return num_found_; }

 private:
  const CaseOptions& options_;
  rag_demo::Bm25Index index_;
  std::vector<std::size_t> num_found_;
  std::size_t num_with_gold_ = 0;
};

std::string passage_id(std::size_t index) { return "p" + std::to_string(index); }

}  // namespace

MadeCases make_question_cases(const QuestionSet& set, const Tokenizer& tokenizer, const CaseOptions& options) {
  const rag_demo::PromptBuilder builder(tokenizer, kOpening);
  Ranker ranker(set, options);
  std::vector<std::size_t> order = first_numbers(set.questions.size());
  std::mt19937_64 which = rag_bench::generator(options.seed, kWhichQuestions, 0);
  rag_demo::shuffle(order, which);

  MadeCases made;
  for (const std::size_t index : order) {
    if (options.num_cases > 0 && made.cases.size() == options.num_cases) break;
    const SourceQuestion& question = set.questions[index];
    std::vector<std::size_t> ranked = ranker.rank(question);
    const std::vector<std::size_t> found = ranked;
    ranker.force_gold(question, ranked);
    if (ranked.empty()) continue;  // shares no word with any passage

    Case one{.id = question.id,
             .cluster = question.given.empty() ? passage_id(question.gold.front()) : question.id,
             .question_text = question.text,
             .system = builder.system(),
             .passages = {},
             .question = builder.question(question.text + std::string(kQuestionEnd), ""),
             .served = {},
             .earlier = {},
             .answers = question.answers,
             .answer_tokens = tokenizer.encode(question.answers.front())};
    for (const std::size_t passage : ranked) {
      one.passages.push_back({.id = passage_id(passage),
                              .gold = contains(question.gold, passage),
                              .tokens = builder.passage(set.pool.texts()[passage])});
    }
    if (one.num_tokens() + options.answer_tokens > options.max_tokens) {
      ++made.num_too_long;
      continue;
    }
    std::mt19937_64 random = rag_bench::generator(options.seed, kOrderOfPassages, index);
    one.served = first_numbers(ranked.size());
    rag_demo::shuffle(one.served, random);
    one.earlier = another_order(one.served, random);
    ranker.count(question, found);
    made.cases.push_back(std::move(one));
  }
  made.num_found = ranker.num_found();
  made.num_with_gold = ranker.num_with_gold();
  return made;
}

}  // namespace lab
