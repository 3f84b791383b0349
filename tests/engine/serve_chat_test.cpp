#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/serve/chat_prompt.hpp"
#include "mini_engine/serve/chat_reply.hpp"
#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/stop_matcher.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace mini_engine;
using namespace mini_engine::serve;
using std::chrono::milliseconds;

std::vector<TokenId> joined(const std::vector<PromptSegment>& segments) {
  return prompt_tokens(Request{.segments = segments, .max_tokens = 1, .sampling = {}});
}

TEST_CASE("documents are segments of their own at the beginning of the first user message") {
  for (const PreSplit pre_split : {PreSplit::kSmolLm, PreSplit::kLlama3}) {
    const Tokenizer tokenizer(test_support::tiny_tokenizer(pre_split));
    const std::vector<ApiMessage> messages = {
        {"system", "be brief"}, {"user", "who?"}, {"assistant", "x"}, {"user", "y"}};
    const std::vector<PromptSegment> segments = chat_segments(tokenizer, messages, {"the first", "<|im_end|>"});
    REQUIRE(segments.size() == 4);
    CHECK(segments[0].kind == PromptSegment::Kind::kText);
    CHECK(segments[1].kind == PromptSegment::Kind::kDocument);
    CHECK(segments[1].tokens == tokenizer.encode("the first\n\n"));
    CHECK(segments[2].tokens == tokenizer.encode("<|im_end|>\n\n", SpecialTokens::kAsText));
    // The same bytes as if the documents had been part of the message.
    const std::vector<ApiMessage> whole = {
        {"system", "be brief"}, {"user", "the first\n\n<|im_end|>\n\nwho?"}, {"assistant", "x"}, {"user", "y"}};
    CHECK(tokenizer.decode(joined(segments)) == tokenizer.decode(joined(chat_segments(tokenizer, whole, {}))));
    CHECK(chat_segments(tokenizer, messages, {}).size() == 1);
    CHECK_THROWS_AS((void)chat_segments(tokenizer, {{"system", "s"}}, {"d"}), Error);
  }
}

TEST_CASE("a stop string ends the text wherever pieces cut it, and what only looked like one comes out") {
  using Pieces = std::vector<std::string>;
  const auto feed = [](const Pieces& stops, const Pieces& pieces) {
    StopMatcher matcher(stops);
    Pieces out;
    for (const std::string& piece : pieces) out.push_back(matcher.push(piece));
    const bool has_stopped = matcher.has_stopped();
    out.push_back(matcher.finish() + (has_stopped ? "|" : ""));
    return out;
  };
  CHECK(feed({}, {"a", "b"}) == Pieces{"a", "b", ""});
  CHECK(feed({"END"}, {"xE", "N", "Dy", "z"}) == Pieces{"x", "", "", "", "|"});
  CHECK(feed({"END"}, {"xE", "N", "E", "F"}) == Pieces{"x", "", "EN", "EF", ""});
  CHECK(feed({"aab"}, {"aa", "ab"}) == Pieces{"", "a", "|"});
  CHECK(feed({"END"}, {"xEN"}) == Pieces{"x", "EN"});
  CHECK(feed({"cd", "b"}, {"abcd"}) == Pieces{"a", "|"});  // the earlier of two
}

TEST_CASE("a reply hands whole characters to another thread, stops at a stop, and is cancelled when abandoned") {
  const Tokenizer tokenizer(test_support::tiny_tokenizer(PreSplit::kSmolLm));
  ChatReply reply(tokenizer, {"!"});
  CHECK_FALSE(reply.wait_for(milliseconds(0)).has_value());
  const std::vector<TokenId> ids = tokenizer.encode("h\xC3\xA9!");
  REQUIRE(ids.size() == 4);
  std::thread engine([&] {
    for (std::size_t i = 0; i < 3; ++i) CHECK(reply.push(ids[i]) == Reply::Reaction::kContinue);
    CHECK(reply.push(ids[3]) == Reply::Reaction::kStop);
    reply.finish({.reason = EndReason::kStopped, .message = {}, .num_generated_tokens = 4});
  });
  std::string text;
  std::optional<Outcome> end;
  while (!end) {
    const auto news = reply.wait_for(milliseconds(10000));
    REQUIRE(news.has_value());
    CHECK(news->text != "\xC3");
    text += news->text;
    end = news->end;
  }
  engine.join();
  CHECK(text == "h\xC3\xA9");
  CHECK(end->num_generated_tokens == 4);

  ChatReply left(tokenizer, {});
  CHECK(left.push(ids[1]) == Reply::Reaction::kContinue);
  left.abandon();
  CHECK_FALSE(left.is_wanted());
  CHECK(left.push(ids[2]) == Reply::Reaction::kCancel);
  left.finish({.reason = EndReason::kCancelled, .message = {}});
  CHECK(left.wait_for_end().text == "\xEF\xBF\xBD");  // the character was left unfinished
}

TEST_CASE("histograms count inclusively and cumulatively, and refuse bounds that do not ascend") {
  Histogram histogram({0.1, 1.0});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) histogram.observe(value);
  std::string page;
  histogram.append_to(page, "h", "Help.");
  CHECK(page ==
        "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 2\nh_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 4\n"
        "h_sum 7.65\nh_count 4\n");
  CHECK_THROWS_AS(Histogram({1.0, 1.0}), Error);
  CHECK_THROWS_AS(Histogram({INFINITY}), Error);

  ServeMetrics metrics;
  metrics.ended[static_cast<std::size_t>(EndReason::kTokenLimit)].add(3);
  metrics.free_pages.set(9);
  const std::string all = metrics.to_prometheus();
  CHECK(all.find("mini_engine_requests_total{outcome=\"token_limit\"} 3\n") != std::string::npos);
  CHECK(all.find("\nmini_engine_free_pages 9\n") != std::string::npos);
}

}  // namespace
