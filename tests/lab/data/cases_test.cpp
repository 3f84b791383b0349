// Case files: what is read and written, and how each kind of broken file is refused.
#include "lab/data/cases.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"

namespace {

using lab::CaseFile;
using test_support::TempDirectory;
using test_support::write_file;

constexpr std::string_view kHeader =
    R"({"kind":"header","set":"s","tokenizer_fingerprint":"ab","vocab_size":10,"seed":3,"top_k":2,"num_cases":1})";
constexpr std::string_view kCase =
    R"({"kind":"case","set":"s","id":"q1","cluster":"p2","question_text":"why?","system":[1,2],"passages":[)"
    R"({"id":"p2","gold":true,"tokens":[3]},{"id":"p0","gold":false,"tokens":[4,5]}],"question":[9],)"
    R"("served":[1,0],"earlier":[0,1],"answers":["so","thus"],"answer_tokens":[7]})";

class Folder {
 public:
  /// The message of what loading a file of these lines throws, behind the file's name; empty when it loads.
  std::string complaint(std::string_view header, std::string_view line) const {
    write_file(path(), std::string(header) + "\n" + std::string(line) + "\n");
    try {
      (void)lab::load_cases(path());
    } catch (const mini_engine::Error& error) {
      const std::string text = error.what();
      REQUIRE(text.starts_with(path().string()));
      return text.substr(path().string().size());
    }
    return {};
  }
  std::filesystem::path path() const { return directory_.path() / "cases.jsonl"; }

 private:
  TempDirectory directory_;
};

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string result(text);
  result.replace(result.find(what), what.size(), by);
  return result;
}

TEST_CASE("what is written is read again") {
  const Folder folder;
  REQUIRE(folder.complaint(kHeader, kCase) == "");
  const CaseFile first = lab::load_cases(folder.path());
  lab::write_cases(first, folder.path());
  const CaseFile file = lab::load_cases(folder.path());
  CHECK(file.header.set == "s");
  CHECK(file.header.tokenizer_fingerprint == "ab");
  CHECK(file.header.vocab_size == 10);
  CHECK(file.header.seed == 3);
  CHECK(file.header.top_k == 2);
  REQUIRE(file.cases.size() == 1);
  const lab::Case& one = file.cases[0];
  CHECK(one.id == "q1");
  CHECK(one.cluster == "p2");
  CHECK(one.question_text == "why?");
  CHECK(one.system == std::vector<mini_engine::TokenId>{1, 2});
  REQUIRE(one.passages.size() == 2);
  CHECK(one.passages[0].gold);
  CHECK(one.passages[1].id == "p0");
  CHECK_FALSE(one.passages[1].gold);
  CHECK(one.passages[1].tokens == std::vector<mini_engine::TokenId>{4, 5});
  CHECK(one.question == std::vector<mini_engine::TokenId>{9});
  CHECK(one.served == std::vector<std::size_t>{1, 0});
  CHECK(one.earlier == std::vector<std::size_t>{0, 1});
  CHECK(one.answers == std::vector<std::string>{"so", "thus"});
  CHECK(one.answer_tokens == std::vector<mini_engine::TokenId>{7});
  CHECK(one.num_tokens() == 6);
}

TEST_CASE("a file that is no case file is refused with line and field") {
  const Folder folder;
  const auto wrong = [&](std::string_view what, std::string_view by) {
    return folder.complaint(kHeader, replaced(kCase, what, by));
  };
  CHECK(folder.complaint(kCase, "") == ", line 1: kind: is 'case', a header comes first");
  CHECK(folder.complaint("", "") == ": has no header");
  CHECK(folder.complaint(kHeader, "") == ": num_cases: 1, there are 0");
  CHECK(folder.complaint(kHeader, kHeader) == ", line 2: kind: is 'header', not 'case'");
  CHECK(folder.complaint(replaced(kHeader, ":1}", ":2}"), std::string(kCase) + "\n" + std::string(kCase)) ==
        ", line 3: id: 'q1' is there already");
  CHECK(folder.complaint(replaced(kHeader, "10", "0"), kCase) == ", line 1: vocab_size: is 0");
  CHECK(wrong("[4,5]", "[4,10]") == ", line 2: passages[1].tokens[1]: token 10 is not below 10");
  CHECK(wrong("[4,5]", "[4,-1]") == ", line 2: passages[1].tokens[1]: is no token id");
  CHECK(wrong("[4,5]", "[]") == ", line 2: passages[1].tokens: is empty");
  CHECK(wrong("p0", "p2") == ", line 2: passages[1].id: 'p2' is there already");
  CHECK(wrong("[1,0]", "[1,1]") == ", line 2: served[1]: passage 1 is there already");
  CHECK(wrong("[1,0]", "[1,2]") == ", line 2: served[1]: 2 is not below 2");
  CHECK(wrong("[0,1]", "[0]") == ", line 2: earlier: has 1 of 2 passages");
  CHECK(wrong(R"("set":"s")", R"("set":"t")") == ", line 2: set: is not the header's, 's'");
  CHECK(wrong(R"("cluster")", R"("clutter")") == ", line 2: cluster: is missing");
  CHECK(wrong(R"(["so","thus"])", R"(["so",3])") == ", line 2: answers[1]: is not a string");
}

TEST_CASE("a file that is not there is named") {
  CHECK_THROWS_WITH_AS((void)lab::load_cases("/nowhere/cases.jsonl"),
                       "/nowhere/cases.jsonl: cannot open: No such file or directory", mini_engine::Error);
}

}  // namespace
