// Folders of documents and questions: what is read, and how each kind of broken folder is refused.
#include "rag_demo/corpus.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "rag_demo/utf8.hpp"
#include "support/temp_directory.hpp"

namespace {

using rag_demo::Corpus;
using rag_demo::CorpusError;
using rag_demo::find_invalid_utf8;
using rag_demo::load_corpus;
using test_support::TempDirectory;
using test_support::write_file;

// The message of the CorpusError that loading the folder throws; empty when it loads.
std::string complaint(const std::filesystem::path& folder) {
  try {
    (void)load_corpus(folder);
  } catch (const CorpusError& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST_CASE("a folder of documents and questions is read in order") {
  const TempDirectory folder;
  write_file(folder.path() / "b.txt", "\xEF\xBB\xBFThe boat\r\n\r\nIt is caf\xC3\xA9 brown.\r\n\r\n");
  write_file(folder.path() / "a.txt", "  The anchor  \nIt weighs 3 tonnes.");
  write_file(folder.path() / "README.txt", "no document");
  write_file(folder.path() / "notes.md", "no document either");
  std::filesystem::create_directory(folder.path() / "more");
  write_file(folder.path() / "more" / "c.txt", "not searched");
  write_file(
      folder.path() / "questions.jsonl",
      "{\"id\": \"q1\", \"question\": \"How heavy?\", \"answers\": [\"3 tonnes\"], \"documents\": [\"a\"], \"x\": "
      "1}\r\n"
      "\n"
      "{\"id\": \"q2\", \"question\": \"Which?\", \"answers\": [\"brown\", \"caf\xC3\xA9 brown\"],"
      " \"documents\": [\"b\", \"a\"], \"answer_prefix\": \"It is\"}");

  const Corpus corpus = load_corpus(folder.path());
  REQUIRE(corpus.documents.size() == 2);
  CHECK(corpus.documents[0].id == "a");
  CHECK(corpus.documents[0].title == "The anchor");
  CHECK(corpus.documents[0].text == "The anchor  \nIt weighs 3 tonnes.");
  CHECK(corpus.documents[1].id == "b");
  CHECK(corpus.documents[1].title == "The boat");
  CHECK(corpus.documents[1].text == "The boat\n\nIt is caf\xC3\xA9 brown.");

  REQUIRE(corpus.questions.size() == 2);
  CHECK(corpus.questions[0].id == "q1");
  CHECK(corpus.questions[0].question == "How heavy?");
  CHECK(corpus.questions[0].answer_prefix.empty());
  CHECK(corpus.questions[1].answers == std::vector<std::string>{"brown", "caf\xC3\xA9 brown"});
  CHECK(corpus.questions[1].documents == std::vector<std::string>{"b", "a"});
  CHECK(corpus.questions[1].answer_prefix == "It is");
}

TEST_CASE("questions are optional") {
  const TempDirectory folder;
  write_file(folder.path() / "only.txt", "x");
  const Corpus corpus = load_corpus(folder.path());
  CHECK(corpus.documents.size() == 1);
  CHECK(corpus.questions.empty());
  write_file(folder.path() / "questions.jsonl", "\n \n");
  CHECK(load_corpus(folder.path()).questions.empty());
}

TEST_CASE("a folder that is none or holds no documents is named") {
  const TempDirectory folder;
  CHECK(contains(complaint(folder.path() / "gone"), "gone: no such folder"));
  CHECK(contains(complaint(folder.path()), folder.path().string() + ": holds no documents"));
  write_file(folder.path() / "file", "x");
  CHECK(contains(complaint(folder.path() / "file"), "is not a folder"));
  std::filesystem::create_directory(folder.path() / "dir.txt");
  CHECK(contains(complaint(folder.path()), "dir.txt: is not a regular file"));
}

TEST_CASE("a document that cannot be used is named with the byte") {
  struct Case {
    std::string text;
    std::string complaint;
  };
  const std::vector<Case> cases = {
      {"", "bad.txt: is blank"},
      {"\xEF\xBB\xBF \r\n\t\n", "bad.txt: is blank"},
      {"good \xFF", "bad.txt: invalid UTF-8 at byte 5"},
      {"caf\xE9", "bad.txt: invalid UTF-8 at byte 3"},
      {std::string("a\0b", 3), "bad.txt: NUL character at byte 1"},
      {std::string((1 << 20) + 1, 'x'), "bad.txt: has 1048577 bytes, more than the 1048576 allowed"},
  };
  const TempDirectory folder;
  write_file(folder.path() / "good.txt", "x");
  for (const Case& c : cases) {
    CAPTURE(c.complaint);
    write_file(folder.path() / "bad.txt", c.text);
    CHECK(contains(complaint(folder.path()), c.complaint));
  }
  write_file(folder.path() / "bad.txt", std::string(1 << 20, 'x'));
  CHECK(complaint(folder.path()) == "");
}

TEST_CASE("a link that leads nowhere is refused") {
  const TempDirectory folder;
  std::filesystem::create_symlink("nowhere", folder.path() / "link.txt");
  CHECK(contains(complaint(folder.path()), "link.txt: is not a regular file"));
  std::filesystem::remove(folder.path() / "link.txt");
  write_file(folder.path() / "a.txt", "x");
  std::filesystem::create_directory(folder.path() / "questions.jsonl");
  CHECK(contains(complaint(folder.path()), "questions.jsonl: is not a regular file"));
  std::filesystem::remove(folder.path() / "questions.jsonl");
  std::filesystem::create_symlink("nowhere", folder.path() / "questions.jsonl");
  CHECK(contains(complaint(folder.path()), "questions.jsonl: is not a regular file"));
}

TEST_CASE("a question that cannot be used is named by line and field") {
  struct Case {
    std::string line;
    std::string complaint;
  };
  const std::vector<Case> cases = {
      {R"({"id": "q2")", ":2: not valid JSON near byte"},
      {R"({"id": "q2"} trailing)", ":2: not valid JSON near byte 16"},
      {R"(["q2"])", ":2: must be a JSON object, is array"},
      {std::string(100000, '['), ":2: not valid JSON"},
      {R"({"question": "?", "answers": ["x"], "documents": ["a"]})", R"(:2: field "id" is missing)"},
      {R"({"id": 7, "question": "?", "answers": ["x"], "documents": ["a"]})",
       R"(:2: field "id" must be a string, is n)"},
      {R"({"id": "q2", "question": " \n", "answers": ["x"], "documents": ["a"]})",
       R"(:2: field "question" must not be blank)"},
      {R"({"id": "q2", "question": "?", "answers": [], "documents": ["a"]})",
       R"(:2: field "answers" must not be empty)"},
      {R"({"id": "q2", "question": "?", "answers": "x", "documents": ["a"]})",
       R"(:2: field "answers" must be a list of strings, is string)"},
      {R"({"id": "q2", "question": "?", "answers": ["x", null], "documents": ["a"]})",
       R"(:2: field "answers[1]" must be a string, is null)"},
      {R"({"id": "q2", "question": "?", "answers": ["x", ""], "documents": ["a"]})",
       R"(:2: field "answers[1]" must not be blank)"},
      {R"({"id": "q2", "question": "?", "answers": ["x"]})", R"(:2: field "documents" is missing)"},
      {R"({"id": "q2", "question": "?", "answers": ["x"], "documents": ["z"]})",
       R"(:2: field "documents" names "z", which is no document here)"},
      {R"({"id": "q2", "question": "?", "answers": ["x"], "documents": ["a", "a"]})",
       R"(:2: field "documents" names "a" twice)"},
      {R"({"id": "q2", "question": "?", "answers": ["x"], "documents": ["a"], "answer_prefix": 1})",
       R"(:2: field "answer_prefix" must be a string, is number)"},
      {R"({"id": "q1", "question": "?", "answers": ["x"], "documents": ["a"]})",
       R"(:2: field "id" "q1" was already used on line 1)"},
      {"\xC3(", "questions.jsonl: invalid UTF-8 at byte 68"},
  };
  const std::string good_line = R"({"id": "q1", "question": "?", "answers": ["x"], "documents": ["a"]})";
  REQUIRE(good_line.size() == 67);
  const TempDirectory folder;
  write_file(folder.path() / "a.txt", "x");
  for (const Case& c : cases) {
    CAPTURE(c.complaint);
    write_file(folder.path() / "questions.jsonl", good_line + "\n" + c.line + "\n");
    const std::string message = complaint(folder.path());
    CAPTURE(message);
    CHECK(contains(message, "questions.jsonl"));
    CHECK(contains(message, c.complaint));
  }
}

TEST_CASE("UTF-8 is told from what merely looks like it") {
  for (const std::string_view good : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                                      "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    CHECK_FALSE(find_invalid_utf8(good));
  }
  for (const std::string_view bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xE1\x80", "\xE1\x80\x41", "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF", "\xF1\x80\x80", "\xF1\x80\x80\x41", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE"}) {
    CAPTURE(bad.size());
    CHECK(find_invalid_utf8(bad) == 0U);
    CHECK(find_invalid_utf8("\xE2\x82\xAC" + std::string(bad)) == 3U);
  }
}

}  // namespace
