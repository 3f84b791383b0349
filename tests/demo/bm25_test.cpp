// Words, and BM25 against scores worked out by hand.
#include "rag_demo/bm25.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "rag_demo/words.hpp"

namespace {

using rag_demo::Bm25Hit;
using rag_demo::Bm25Index;
using rag_demo::Bm25Options;
using rag_demo::split_words;
using rag_demo::StopWords;
using Words = std::vector<std::string>;

TEST_CASE("text is cut into words") {
  CHECK(split_words("", StopWords::kKeep) == Words{});
  CHECK(split_words(" ,;\n", StopWords::kKeep) == Words{});
  CHECK(split_words("The Widow's 1,016 LAMPS", StopWords::kKeep) == Words{"the", "widow", "s", "1", "016", "lamps"});
  CHECK(split_words("What is the range of it?", StopWords::kDrop) == Words{"range"});
  CHECK(split_words("\xC3\x89t\xC3\xA9 caf\xC3\xA9", StopWords::kKeep) == Words{"\xC3\x89t\xC3\xA9", "caf\xC3\xA9"});
  // Curly quotes, a dash and a no-break space separate; so does a word joiner, but the letter behind that block does
  // not.
  CHECK(split_words("\xE2\x80\x9Cred\xE2\x80\x9D\xE2\x80\x93sea\xC2\xA0ice\xE2\x81\xA0x", StopWords::kKeep) ==
        Words{"red", "sea", "ice", "x"});
  CHECK(split_words("a\xE2\x81\xB0z", StopWords::kKeep) == Words{"a\xE2\x81\xB0z"});
  CHECK(split_words("\xE2", StopWords::kKeep) == Words{"\xE2"});
}

// Three documents of 2, 4 and 2 words, mean 8/3. "red" is in two of them: ln(1 + 1.5 / 2.5). "sea" is in one:
// ln(1 + 2.5 / 1.5). Length factors: 1.2 * (0.25 + 0.75 * 2 / (8/3)) = 0.975 and 1.2 * (0.25 + 0.75 * 4 / (8/3))
// = 1.65.
const std::vector<std::string> kBoats = {"red lamp", "red boat, Red deck", "blue sea"};

TEST_CASE("scores are those of the formula") {
  const Bm25Index index(kBoats);
  CHECK(index.num_documents() == 3);

  const std::vector<Bm25Hit> red = index.search("RED", 10);
  REQUIRE(red.size() == 2);
  CHECK(red[0].document_index == 1);
  CHECK(red[0].score == doctest::Approx(std::log(1.6) * 2 * 2.2 / 3.65).epsilon(1e-14));
  CHECK(red[0].score == doctest::Approx(0.566579717).epsilon(1e-8));
  CHECK(red[1].document_index == 0);
  CHECK(red[1].score == doctest::Approx(std::log(1.6) * 2.2 / 1.975).epsilon(1e-14));

  const std::vector<Bm25Hit> both = index.search("the red sea", 1);
  REQUIRE(both.size() == 1);
  CHECK(both[0].document_index == 2);
  CHECK(both[0].score == doctest::Approx(std::log(1.0 + 2.5 / 1.5) * 2.2 / 1.975).epsilon(1e-14));

  const double once = index.search("lamp", 1).at(0).score;
  CHECK(index.search("lamp lamp", 1).at(0).score == doctest::Approx(2 * once).epsilon(1e-14));
}

TEST_CASE("options change the formula") {
  // k1 = 0 counts only whether a word occurs; b = 0 ignores length.
  const Bm25Index presence(kBoats, {.k1 = 0.0});
  const std::vector<Bm25Hit> equal = presence.search("red", 10);
  REQUIRE(equal.size() == 2);
  CHECK(equal[0].document_index == 0);
  CHECK(equal[0].score == doctest::Approx(std::log(1.6)).epsilon(1e-14));
  CHECK(equal[0].score == equal[1].score);
  const Bm25Index no_length(kBoats, {.b = 0.0});
  CHECK(no_length.search("lamp", 1).at(0).score == doctest::Approx(std::log(1.0 + 2.5 / 1.5)).epsilon(1e-14));

  const std::vector<std::string> with_the = {"the", "lamp"};
  CHECK(Bm25Index(with_the).search("the", 5).empty());
  CHECK(Bm25Index(with_the, {.stop_words = StopWords::kKeep}).search("the", 5).size() == 1);
}

TEST_CASE("ties go to the lower index, whatever the number of hits asked for") {
  const std::vector<std::string> same(50, "green light");
  const Bm25Index index(same);
  for (const std::size_t max_hits : {std::size_t{1}, std::size_t{7}, std::size_t{50}, std::size_t{1000}}) {
    const std::vector<Bm25Hit> hits = index.search("light", max_hits);
    REQUIRE(hits.size() == std::min<std::size_t>(max_hits, 50));
    for (std::size_t i = 0; i < hits.size(); ++i) CHECK(hits[i].document_index == i);
  }
}

TEST_CASE("nothing is found where nothing is shared") {
  CHECK(Bm25Index({}).search("x", 5).empty());
  CHECK(Bm25Index(std::vector<std::string>{"", " . "}).search("x", 5).empty());
  const Bm25Index index(kBoats);
  CHECK(index.search("", 5).empty());
  CHECK(index.search("what is the", 5).empty());
  CHECK(index.search("zebra", 5).empty());
  CHECK(index.search("red", 0).empty());
}

TEST_CASE("options outside their domain are refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double k1 : {-0.1, nan, infinity}) {
    CHECK_THROWS_WITH_AS(Bm25Index(kBoats, Bm25Options{.k1 = k1}), doctest::Contains("k1"), std::invalid_argument);
  }
  for (const double b : {-0.1, 1.1, nan}) {
    CHECK_THROWS_WITH_AS(Bm25Index(kBoats, Bm25Options{.b = b}), doctest::Contains("::b"), std::invalid_argument);
  }
}

}  // namespace
