// The corpus that ships with the demo: that its questions can be answered from it, and found.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "rag_demo/answer_metrics.hpp"
#include "rag_demo/bm25.hpp"
#include "rag_demo/corpus.hpp"
#include "rag_demo/words.hpp"

namespace {

using rag_demo::Bm25Hit;
using rag_demo::Bm25Index;
using rag_demo::Corpus;
using rag_demo::Document;
using rag_demo::Question;

const Corpus& shipped() {
  static const Corpus corpus =
      rag_demo::load_corpus(std::filesystem::path(PIKV_TEST_DATA) / ".." / "examples" / "rag_demo" / "corpus");
  return corpus;
}

const Document& document(const std::string& id) { return *std::ranges::find(shipped().documents, id, &Document::id); }

TEST_CASE("the shipped corpus has the promised size and mix") {
  CHECK(shipped().documents.size() >= 64);
  CHECK(shipped().questions.size() >= 40);
  const auto num_with = [](std::size_t num_documents) {
    return std::ranges::count_if(shipped().questions,
                                 [&](const Question& q) { return q.documents.size() == num_documents; });
  };
  CHECK(num_with(1) >= 30);
  CHECK(num_with(2) >= 8);

  std::set<std::string> titles;
  for (const Document& d : shipped().documents) {
    CAPTURE(d.id);
    CHECK(titles.insert(d.title).second);
    const std::size_t num_words = rag_demo::split_words(d.text, rag_demo::StopWords::kKeep).size();
    CHECK(num_words >= 60);
    CHECK(num_words <= 200);
  }
}

TEST_CASE("every accepted answer stands in a document that the question names") {
  for (const Question& q : shipped().questions) {
    CAPTURE(q.id);
    for (const std::string& answer : q.answers) {
      CAPTURE(answer);
      CHECK(std::ranges::any_of(q.documents, [&](const std::string& id) {
        return rag_demo::contains_answer(document(id).text, std::vector<std::string>{answer});
      }));
      CHECK_FALSE(rag_demo::contains_answer(q.question + " " + q.answer_prefix, std::vector<std::string>{answer}));
    }
  }
}

TEST_CASE("retrieval finds the documents that hold the answers") {
  std::vector<std::string> texts;
  for (const Document& d : shipped().documents) texts.push_back(d.text);
  const Bm25Index index(texts);

  std::size_t num_wanted = 0;
  std::size_t num_found = 0;
  for (const Question& q : shipped().questions) {
    const std::vector<Bm25Hit> hits = index.search(q.question, 5);
    for (const std::string& id : q.documents) {
      ++num_wanted;
      const bool found = std::ranges::any_of(
          hits, [&](const Bm25Hit& hit) { return shipped().documents[hit.document_index].id == id; });
      num_found += found ? 1 : 0;
      if (!found) MESSAGE("not among the first five: " << id << " for " << q.id);
    }
  }
  MESSAGE("recall at 5: " << num_found << " of " << num_wanted << " documents");
  CHECK(static_cast<double>(num_found) >= 0.95 * static_cast<double>(num_wanted));
}

}  // namespace
