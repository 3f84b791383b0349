// From data sets to cases, and from results to scores, with a tokenizer of bytes.
#include "lab/data/make_cases.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "lab/data/opening.hpp"
#include "lab/data/score.hpp"
#include "lab/data/tokenizer_fingerprint.hpp"
#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"
#include "support/tiny_model.hpp"

namespace {

using lab::Case;
using lab::QuestionSet;
using mini_engine::Tokenizer;

Tokenizer byte_tokenizer() {
  mini_engine::TokenizerData data = test_support::tiny_tokenizer(mini_engine::PreSplit::kSmolLm);
  data.chat_template = mini_engine::ChatTemplate::kChatMl;
  return Tokenizer(std::move(data));
}

/// Each question names its own animal; nobody's passage says "dragon".
QuestionSet animals() {
  QuestionSet set;
  for (const std::string name : {"otter", "heron", "badger", "stoat", "adder"}) {
    const std::size_t passage = set.pool.add("The " + name + " lives in a burrow.");
    set.questions.push_back(
        {.id = name, .text = name + " burrow?", .answers = {"a " + name, "it"}, .gold = {passage}, .given = {}});
  }
  set.questions.push_back({.id = "dragon", .text = "dragon burrow?", .answers = {"x"}, .gold = {4}, .given = {}});
  return set;
}

constexpr lab::CaseOptions kOptions{.top_k = 3, .with_gold = true, .seed = 7, .max_tokens = 5000, .answer_tokens = 128};

const Case& by_id(const lab::MadeCases& made, const std::string& id) {
  const auto found = std::ranges::find(made.cases, id, &Case::id);
  REQUIRE(found != made.cases.end());
  return *found;
}

TEST_CASE("a case is a conversation whose passages keep their tokens") {
  const Tokenizer tokenizer = byte_tokenizer();
  const lab::MadeCases made = lab::make_question_cases(animals(), tokenizer, kOptions);
  REQUIRE(made.cases.size() == 6);
  const Case& badger = by_id(made, "badger");
  CHECK(badger.cluster == "p2");
  REQUIRE(badger.passages.size() == 3);
  CHECK(badger.passages[0].id == "p2");
  CHECK(badger.passages[0].gold);
  CHECK_FALSE(badger.passages[1].gold);
  CHECK(tokenizer.decode(badger.passages[0].tokens) == "The badger lives in a burrow.\n\n");
  CHECK(tokenizer.decode(badger.question) ==
        "Question: badger burrow?" + std::string(lab::kQuestionEnd) + "<|im_end|>\n<|im_start|>assistant\n");
  CHECK(tokenizer.decode(badger.answer_tokens) == "a badger");
  CHECK(badger.answers == std::vector<std::string>{"a badger", "it"});
  CHECK(tokenizer.decode(badger.system).ends_with("<|im_start|>user\n"));

  // All together are what the template makes of the whole conversation.
  std::vector<mini_engine::TokenId> prompt = badger.system;
  std::string user;
  for (const std::size_t index : badger.served) {
    const lab::CasePassage& passage = badger.passages[index];
    prompt.insert(prompt.end(), passage.tokens.begin(), passage.tokens.end());
    user += tokenizer.decode(passage.tokens);
  }
  prompt.insert(prompt.end(), badger.question.begin(), badger.question.end());
  std::vector<mini_engine::ChatMessage> messages(lab::kOpening.begin(), lab::kOpening.end());
  user += "Question: badger burrow?" + std::string(lab::kQuestionEnd);
  messages.push_back({"user", user});
  CHECK(tokenizer.decode(prompt) == tokenizer.decode(mini_engine::apply_chat_template(tokenizer, messages, true)));
}

TEST_CASE("orders are drawn from the seed and differ, and fewer questions are the first of more") {
  const Tokenizer tokenizer = byte_tokenizer();
  const auto make = [&](std::size_t count, std::uint64_t seed) {
    lab::CaseOptions options = kOptions;
    options.num_cases = count;
    options.seed = seed;
    return lab::make_question_cases(animals(), tokenizer, options).cases;
  };
  const std::vector<Case> all = make(0, 7);
  const std::vector<Case> some = make(3, 7);
  REQUIRE(some.size() == 3);
  std::set<std::string> ids;
  for (std::size_t i = 0; i < all.size(); ++i) {
    CHECK(all[i].served != all[i].earlier);
    CHECK(std::ranges::is_permutation(all[i].served, std::vector<std::size_t>{0, 1, 2}));
    ids.insert(all[i].id);
    if (i >= some.size()) continue;
    CHECK(all[i].id == some[i].id);
    CHECK(all[i].served == some[i].served);
    CHECK(all[i].earlier == some[i].earlier);
  }
  CHECK(ids.size() == all.size());
  const std::vector<Case> other = make(0, 8);
  CHECK_FALSE(std::ranges::equal(all, other, {}, &Case::id, &Case::id));
}

TEST_CASE("gold that retrieval misses takes the last place, and only where it is to") {
  const Tokenizer tokenizer = byte_tokenizer();
  const lab::MadeCases made = lab::make_question_cases(animals(), tokenizer, kOptions);
  const Case& dragon = by_id(made, "dragon");
  REQUIRE(dragon.passages.size() == 3);
  CHECK(dragon.passages[2].id == "p4");
  CHECK(dragon.passages[2].gold);
  CHECK(made.num_with_gold == 6);
  CHECK(made.num_found == std::vector<std::size_t>{5, 5, 5});

  lab::CaseOptions options = kOptions;
  options.with_gold = false;
  const lab::MadeCases plain = lab::make_question_cases(animals(), tokenizer, options);
  CHECK(std::ranges::none_of(by_id(plain, "dragon").passages, &lab::CasePassage::gold));
}

TEST_CASE("passages that come with a question are taken as they are, and what is too long is left out") {
  const Tokenizer tokenizer = byte_tokenizer();
  QuestionSet set = animals();
  set.questions.resize(2);
  set.questions[0].given = {3, 1};
  set.questions[1].given = {0, 1, 2, 3, 4};
  lab::CaseOptions options = kOptions;
  const lab::MadeCases all = lab::make_question_cases(set, tokenizer, options);
  REQUIRE(all.cases.size() == 2);
  const Case& otter = by_id(all, "otter");
  CHECK(otter.cluster == "otter");
  CHECK(otter.passages[0].id == "p3");
  CHECK(otter.passages[1].id == "p1");

  options.max_tokens = otter.num_tokens() + options.answer_tokens;
  const lab::MadeCases some = lab::make_question_cases(set, tokenizer, options);
  REQUIRE(some.cases.size() == 1);
  CHECK(some.cases[0].id == "otter");
  CHECK(some.num_too_long == 1);
  --options.max_tokens;
  CHECK(lab::make_question_cases(set, tokenizer, options).num_too_long == 2);
}

TEST_CASE("windows of a text are its own tokens in their own order") {
  const Tokenizer tokenizer = byte_tokenizer();
  std::string text;
  for (int i = 0; i < 60; ++i) text.push_back(static_cast<char>('b' + i % 20));
  const lab::WindowOptions options{
      .num_cases = 2, .num_blocks = 3, .block_tokens = 4, .question_tokens = 2, .answer_tokens = 5, .seed = 1};
  const std::vector<Case> cases = lab::make_window_cases(text, tokenizer, options);
  REQUIRE(cases.size() == 2);
  CHECK(cases[0].id != cases[1].id);
  for (const Case& one : cases) {
    CHECK(one.served == std::vector<std::size_t>{0, 1, 2});
    CHECK(one.earlier != one.served);
    CHECK(one.answers.empty());
    REQUIRE(one.passages.size() == 3);
    CHECK(one.passages[1].id == one.cluster + ".b1");
    std::string whole;
    for (const lab::CasePassage& passage : one.passages) whole += tokenizer.decode(passage.tokens);
    whole += tokenizer.decode(one.question) + tokenizer.decode(one.answer_tokens);
    CHECK(whole == text.substr(19 * std::stoul(one.cluster.substr(1)), 19));
  }
  CHECK_THROWS_WITH_AS((void)lab::make_window_cases("short", tokenizer, options),
                       "a text of 5 tokens is shorter than a window of 19", mini_engine::Error);
}

TEST_CASE("a fingerprint tells tokenizers apart") {
  const Tokenizer tokenizer = byte_tokenizer();
  const std::string fingerprint = lab::tokenizer_fingerprint(tokenizer.data());
  CHECK(fingerprint.size() == 16);
  mini_engine::TokenizerData data = tokenizer.data();
  CHECK(lab::tokenizer_fingerprint(data) == fingerprint);
  data.source = "elsewhere";
  CHECK(lab::tokenizer_fingerprint(data) == fingerprint);
  std::swap(data.merges[0], data.merges[1]);
  CHECK(lab::tokenizer_fingerprint(data) != fingerprint);
}

TEST_CASE("answers are scored and all other lines left alone") {
  const Tokenizer tokenizer = byte_tokenizer();
  lab::CaseFile file{.header = {.set = "s",
                                .tokenizer_fingerprint = lab::tokenizer_fingerprint(tokenizer.data()),
                                .vocab_size = tokenizer.data().pieces.size()},
                     .cases = lab::make_question_cases(animals(), tokenizer, kOptions).cases};
  const auto generated = [&](const std::string& id, const std::string& reply) {
    std::string ids;
    for (const mini_engine::TokenId token : tokenizer.encode(reply))
      ids += (ids.empty() ? "" : ",") + std::to_string(token);
    return R"({"case":")" + id + R"(","arm":"A0","generated":[)" + ids + "]}";
  };
  const test_support::TempDirectory folder;
  const std::filesystem::path path = folder.path() / "results.jsonl";
  const std::string other = R"({"kl" :  1.50, "case": "otter"})";
  const auto score = [&](const std::string& text) {
    test_support::write_file(path, text);
    std::ostringstream out;
    const lab::ScoreCounts counts = lab::score_results(path, file, tokenizer, out);
    CHECK(counts.num_scored + counts.num_passed == static_cast<std::size_t>(std::ranges::count(text, '\n')));
    return out.str();
  };
  CHECK(score(other + "\n") == other + "\n");
  CHECK(score(generated("otter", " The Otter.\nQuestion") + "\n")
            .ends_with(R"(],"answer":"The Otter.","em":1,"f1":1.0,"subspan":1})"
                       "\n"));
  CHECK(score(generated("heron", "a grey heron") + "\n")
            .ends_with(R"(],"answer":"a grey heron","em":0,"f1":0.6666666666666666,"subspan":1})"
                       "\n"));
  CHECK(score(generated("heron", "\nheron") + "\n")
            .ends_with(R"(],"answer":"","em":0,"f1":0.0,"subspan":0})"
                       "\n"));
  CHECK_THROWS_WITH_AS((void)score(generated("lynx", "x")),
                       (path.string() + ", line 1: case: 'lynx' is no case").c_str(), mini_engine::Error);
  file.header.tokenizer_fingerprint = "0";
  CHECK_THROWS_AS((void)score(other), mini_engine::Error);
}

}  // namespace
