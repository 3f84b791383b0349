// Readers of data sets: each format as its publisher writes it, how each kind of broken file is refused, and the
// published files themselves where they are at hand.
#include "lab/data/readers.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"

namespace {

using lab::QuestionSet;
using Indices = std::vector<std::size_t>;

constexpr std::string_view kSquad =
    R"({"version": "1.1", "data": [{"title": "T", "paragraphs": [)"
    R"({"context": "One.", "qas": [{"id": "a", "question": "Why?", "answers": [{"answer_start": 0, "text": "One"}]},)"
    R"({"id": "b", "question": "Who?", "answers": [{"text": "x"}, {"text": "y"}]}]},)"
    R"({"context": "Two.", "qas": [{"id": "c", "question": "How?", "answers": [{"text": "Two"}]}]}]}]})";
constexpr std::string_view kNq =
    R"({"question": "who", "answers": ["me", "I"], "ctxs": [{"title": "T", "text": "I.", "isgold": true},)"
    R"( {"title": "U", "text": "You.", "isgold": false}]})"
    "\n\n"
    R"({"question": "again who", "answers": ["me"], "ctxs": [{"title": "T", "text": "I.", "isgold": true}]})"
    "\n";
constexpr std::string_view kMusique =
    R"([{"question": "q?", "answers": ["a"], "ctxs": [{"title": "", "text": "x"}, {"title": "T", "text": "y"}]},)"
    R"({"question": "r?", "answers": ["b"], "ctxs": [{"title": "", "text": "z"}, {"title": "", "text": "x"}]}])";
constexpr std::string_view kHotpot =
    R"([{"id": "h", "question": "q?", "answer": "yes", "type": "bridge", "supporting_facts": ["B", "C"],)"
    R"("context": {"title": ["A", "B", "C"], "sentences": [["a."], ["b1.", " b2."], ["c."]]}}])";

using Reader = QuestionSet (*)(const std::filesystem::path&);

class Folder {
 public:
  [[nodiscard]] std::filesystem::path file(std::string_view text) const {
    test_support::write_file(directory_.path() / "set", text);
    return directory_.path() / "set";
  }
  /// What reading the text throws, behind the file's name; empty when it is read.
  [[nodiscard]] std::string complaint(Reader read, std::string_view text) const {
    const std::filesystem::path path = file(text);
    try {
      (void)read(path);
    } catch (const mini_engine::Error& error) {
      const std::string message = error.what();
      REQUIRE(message.starts_with(path.string()));
      return message.substr(path.string().size());
    }
    return {};
  }

 private:
  test_support::TempDirectory directory_;
};

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string result(text);
  result.replace(result.find(what), what.size(), by);
  return result;
}

TEST_CASE("SQuAD: paragraphs are the passages, each gold for its own questions") {
  const Folder folder;
  const QuestionSet set = lab::read_squad(folder.file(kSquad));
  CHECK(set.pool.texts() == std::vector<std::string>{"One.", "Two."});
  REQUIRE(set.questions.size() == 3);
  CHECK(set.questions[1].id == "b");
  CHECK(set.questions[1].text == "Who?");
  CHECK(set.questions[1].answers == std::vector<std::string>{"x", "y"});
  CHECK(set.questions[1].gold == Indices{0});
  CHECK(set.questions[2].gold == Indices{1});
  CHECK(set.questions[2].given.empty());
  CHECK(folder.complaint(lab::read_squad, replaced(kSquad, "\"id\": \"c\"", "\"ID\": \"c\"")) ==
        ": data[0].paragraphs[1].qas[0].id: is missing");
  CHECK(folder.complaint(lab::read_squad, replaced(kSquad, "\"Why?\"", "\" \"")) ==
        ": data[0].paragraphs[0].qas[0].question: is blank");
  CHECK(folder.complaint(lab::read_squad, replaced(kSquad, R"([{"text": "Two"}])", "[]")) ==
        ": data[0].paragraphs[1].qas[0].answers: is empty");
  CHECK(folder.complaint(lab::read_squad, kMusique) == ": JSON: is not an object");
}

TEST_CASE("NQ-open: gold passages of all questions together, each once, under their titles") {
  const Folder folder;
  const QuestionSet set = lab::read_nq_open(folder.file(kNq));
  CHECK(set.pool.texts() == std::vector<std::string>{"T\nI."});
  REQUIRE(set.questions.size() == 2);
  CHECK(set.questions[0].answers == std::vector<std::string>{"me", "I"});
  CHECK(set.questions[1].id == "q1");
  CHECK(set.questions[1].gold == Indices{0});
  CHECK(folder.complaint(lab::read_nq_open, replaced(kNq, "\"isgold\": true}]}\n", "\"isgold\": false}]}\n")) ==
        ", line 3: ctxs: has no passage that is gold");
  CHECK(folder.complaint(lab::read_nq_open, replaced(kNq, "[\"me\"]", "[]")) == ", line 3: answers: is empty");
  CHECK(folder.complaint(lab::read_nq_open, replaced(kNq, "\"isgold\": false", "\"isgold\": 0")) ==
        ", line 1: ctxs[1].isgold: is neither true nor false");
}

TEST_CASE("MuSiQue: questions bring their passages, which others may share") {
  const Folder folder;
  const QuestionSet set = lab::read_musique(folder.file(kMusique));
  CHECK(set.pool.texts() == std::vector<std::string>{"x", "T\ny", "z"});
  REQUIRE(set.questions.size() == 2);
  CHECK(set.questions[0].given == Indices{0, 1});
  CHECK(set.questions[1].given == Indices{2, 0});
  CHECK(set.questions[1].gold.empty());
  CHECK(folder.complaint(lab::read_musique, replaced(kMusique, "\"z\"", "\"x\"")) == ": [1].ctxs[1]: is there already");
  CHECK(folder.complaint(lab::read_musique, replaced(kMusique, "\"z\"", "7")) == ": [1].ctxs[0].text: is not a string");
}

TEST_CASE("HotpotQA: sentences are joined, gold passages known by title") {
  const Folder folder;
  const QuestionSet set = lab::read_hotpotqa(folder.file(kHotpot));
  CHECK(set.pool.texts() == std::vector<std::string>{"A\na.", "B\nb1. b2.", "C\nc."});
  REQUIRE(set.questions.size() == 1);
  CHECK(set.questions[0].answers == std::vector<std::string>{"yes"});
  CHECK(set.questions[0].gold == Indices{1, 2});
  CHECK(set.questions[0].given == Indices{0, 1, 2});
  CHECK(folder.complaint(lab::read_hotpotqa, replaced(kHotpot, R"(["A", "B", "C"])", R"(["A", "B"])")) ==
        ": [0].context: has 2 titles and 3 paragraphs");
  CHECK(folder.complaint(lab::read_hotpotqa, replaced(kHotpot, R"(["B", "C"])", R"(["X"])")) ==
        ": [0].supporting_facts: names no passage");
}

TEST_CASE("plain text without what Project Gutenberg puts around it") {
  const Folder folder;
  CHECK(lab::read_plain_text(folder.file("\xEF\xBB\xBFHead\r\n*** START OF THIS BOOK ***\r\n\r\nOne.\r\nTwo.\r\n\r\n"
                                         "*** END OF THIS BOOK ***\r\nTail *** START OF X\r\n")) == "One.\nTwo.");
  CHECK(lab::read_plain_text(folder.file(" plain\ntext\n")) == "plain\ntext");
  CHECK_THROWS_AS((void)lab::read_plain_text(folder.file("\n*** START OF A ***\n*** END OF A ***\n")),
                  mini_engine::Error);
  const std::filesystem::path latin = folder.file("caf\xE9");
  CHECK_THROWS_WITH_AS((void)lab::read_plain_text(latin), (latin.string() + ": invalid UTF-8 at byte 3").c_str(),
                       mini_engine::Error);
}

TEST_CASE("gzip that is damaged is refused") {
  const Folder folder;
  const std::filesystem::path path = folder.file("\x1F\x8B\x08 nothing of the sort");
  CHECK_THROWS_AS((void)lab::read_plain_text(path), mini_engine::Error);
}

TEST_CASE("the data sets as published") {
  const std::filesystem::path datasets = PIKV_TEST_DATASETS;
  if (!std::filesystem::exists(datasets / "xquad_en")) {
    MESSAGE("skipped: no data sets in " << datasets.string());
    return;
  }
  const QuestionSet xquad = lab::read_squad(datasets / "xquad_en/xquad.en.json");
  CHECK(xquad.questions.size() == 1190);
  CHECK(xquad.pool.texts().size() == 240);
#ifdef PIKV_LAB_ZLIB
  const QuestionSet nq = lab::read_nq_open(datasets / "nq_open_oracle/nq-open-oracle.jsonl.gz");
  CHECK(nq.questions.size() == 2655);
  CHECK(nq.pool.texts().size() == 2600);
#endif
  const QuestionSet musique = lab::read_musique(datasets / "musique_s/musique_s.json");
  CHECK(musique.questions.size() == 150);
  CHECK(musique.pool.texts().size() == 1255);
  const QuestionSet hotpot = lab::read_hotpotqa(datasets / "hotpotqa_distractor_100/hotpotqa_distractor_100.json");
  CHECK(hotpot.questions.size() == 100);
  std::size_t num_gold = 0;
  for (const lab::SourceQuestion& question : hotpot.questions) num_gold += question.gold.size();
  CHECK(num_gold == 200);
  const std::string book = lab::read_plain_text(datasets / "gutenberg_1342/1342-0.txt");
  CHECK(book.find("Project Gutenberg") == std::string::npos);
  CHECK(book.find("It is a truth universally acknowledged") != std::string::npos);
}

}  // namespace
