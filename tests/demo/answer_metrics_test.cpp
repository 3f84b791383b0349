// Scores of replies, worked out by hand.
#include "rag_demo/answer_metrics.hpp"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "rag_demo/reply.hpp"

namespace {

using rag_demo::contains_answer;
using rag_demo::exact_match;
using rag_demo::first_phrase;
using rag_demo::normalize_answer;
using rag_demo::token_f1;
using Answers = std::vector<std::string>;

TEST_CASE("answers are normalised as SQuAD does") {
  CHECK(normalize_answer("  The  Bull. ") == "bull");
  CHECK(normalize_answer("an A the") == "");
  CHECK(normalize_answer("1,016 pieces") == "1016 pieces");
  CHECK(normalize_answer("Widow's Ledge\tlight\n") == "widows ledge light");
  CHECK(normalize_answer("half-tide") == "halftide");
  CHECK(normalize_answer("theatre another a.") == "theatre another");
  CHECK(normalize_answer("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") == "");
  CHECK(normalize_answer("caf\xC3\xA9") == "caf\xC3\xA9");
}

TEST_CASE("exact match holds for any reference") {
  CHECK(exact_match("the Bull!", Answers{"cow", "Bull"}));
  CHECK_FALSE(exact_match("the Bull of Quern", Answers{"Bull"}));
  CHECK(exact_match("the", Answers{"a"}));
}

TEST_CASE("token F1 counts shared words with repeats and takes the best reference") {
  CHECK(token_f1("41 metres", Answers{"41 metres"}) == 1.0);
  // tower is 41 metres high | 41 metres: 2 shared of 5 and 2.
  CHECK(token_f1("The tower is 41 metres high.", Answers{"41 metres"}) == doctest::Approx(4.0 / 7.0));
  CHECK(token_f1("The tower is 41 metres high.", Answers{"forty", "41 metres", "41 metres high"}) ==
        doctest::Approx(6.0 / 8.0));
  CHECK(token_f1("red red red", Answers{"red red green"}) == doctest::Approx(4.0 / 6.0));
  CHECK(token_f1("red green", Answers{"red red"}) == doctest::Approx(0.5));
  CHECK(token_f1("blue", Answers{"red"}) == 0.0);
  CHECK(token_f1("", Answers{"red"}) == 0.0);
  CHECK(token_f1("red", Answers{"the"}) == 0.0);
  CHECK(token_f1("", Answers{"the"}) == 1.0);
}

TEST_CASE("a reply contains an answer as a run of words") {
  CHECK(contains_answer("It is 41 metres high", Answers{"12", "41 metres"}));
  CHECK_FALSE(contains_answer("It is 141 metres high", Answers{"41 metres"}));
  CHECK_FALSE(contains_answer("41 or 42 metres", Answers{"41 metres"}));
  CHECK(contains_answer("known as \"The Bull\".", Answers{"the bull"}));
  CHECK_FALSE(contains_answer("anything", Answers{"the", "..."}));
  CHECK_FALSE(contains_answer("", Answers{"x"}));
}

TEST_CASE("scoring without a reference is refused") {
  CHECK_THROWS_AS((void)exact_match("x", Answers{}), std::invalid_argument);
  CHECK_THROWS_AS((void)token_f1("x", Answers{}), std::invalid_argument);
  CHECK_THROWS_AS((void)contains_answer("x", Answers{}), std::invalid_argument);
}

TEST_CASE("the first phrase of a reply ends where a reader would stop") {
  CHECK(first_phrase("") == "");
  CHECK(first_phrase(" \n ") == "");
  CHECK(first_phrase(" 41 metres high. It is") == "41 metres high");
  CHECK(first_phrase("1,016 pieces, each") == "1,016 pieces");
  CHECK(first_phrase("Wednesday at 07:00.") == "Wednesday at 07:00");
  CHECK(first_phrase("3.2 tonnes\nThe anchor") == "3.2 tonnes");
  CHECK(first_phrase("\n\nred ; or not") == "red");
  CHECK(first_phrase("...") == "..");
  CHECK(first_phrase(". then") == "");
  CHECK(first_phrase("no end") == "no end");
}

}  // namespace
