// Hit rates, computed by hand on a few requests, and on RAGPulse's own trace against an independent computation.
#include "lab/data/hit_rates.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "mini_engine/error.hpp"
#include "support/temp_directory.hpp"

namespace {

using lab::CacheKind;
using lab::PassageStream;
using lab::StreamPart;

/// As served, a part of its own stands before the passages of each.
PassageStream small_stream() {
  constexpr StreamPart kA{1, 10};
  constexpr StreamPart kB{2, 20};
  constexpr StreamPart kC{3, 30};
  PassageStream stream{.name = "small", .requests = {}};
  for (const std::vector<StreamPart>& passages :
       {std::vector{kA, kB}, std::vector{kB, kA}, std::vector{kA, kC}, std::vector{kA, kB, kB}}) {
    lab::StreamRequest request{.passages = passages, .served = passages, .num_leading = 1};
    request.served.insert(request.served.begin(), {100 + static_cast<std::int64_t>(stream.requests.size()), 5});
    stream.requests.push_back(std::move(request));
  }
  return stream;
}

double rate(CacheKind kind, std::int64_t capacity_tokens) {
  return lab::replay(small_stream(), kind, capacity_tokens, 1).hit_rate;
}

TEST_CASE("caches without bound find what was there before") {
  CHECK(rate(CacheKind::kChunk, 0) == (30 + 10 + 50) / 150.0);
  CHECK(rate(CacheKind::kPrefixRetrieved, 0) == (10 + 30) / 150.0);
  CHECK(rate(CacheKind::kPrefixSorted, 0) == (30 + 10 + 30) / 150.0);
  CHECK(rate(CacheKind::kPrefixServed, 0) == 0);
  const auto tenths = lab::replay(small_stream(), CacheKind::kChunk, 0, 1).tenths;
  CHECK(tenths == std::array<double, 10>{0, 0, 1, 0, 0, 0.25, 0, 1, 0, 0});
}

TEST_CASE("caches with a bound throw out what was used least recently, prefixes leaf by leaf") {
  // The third request's second passage drives out both that were there before.
  CHECK(rate(CacheKind::kChunk, 35) == (30 + 10 + 20) / 150.0);
  // Of the third request only its first passage stays, which the fourth finds.
  CHECK(rate(CacheKind::kPrefixRetrieved, 30) == 10 / 150.0);
  CHECK(rate(CacheKind::kChunk, 1'000'000) == rate(CacheKind::kChunk, 0));
  CHECK(rate(CacheKind::kChunk, 5) == 0);
}

TEST_CASE("a shuffled order is drawn from the seed") {
  PassageStream stream = small_stream();
  for (int i = 0; i < 50; ++i) stream.requests.push_back(stream.requests[0]);
  const auto shuffled = [&](std::uint64_t seed) {
    return lab::replay(stream, CacheKind::kPrefixShuffled, 35, seed).tenths;
  };
  CHECK(shuffled(1) == shuffled(1));
  CHECK(shuffled(1) != shuffled(2));
}

TEST_CASE("a trace's requests with passages, and what stands before them") {
  const PassageStream stream = lab::read_ragpulse(PIKV_TEST_TRACE);
  REQUIRE(stream.requests.size() == 5);  // one of six has none
  const lab::StreamRequest& first = stream.requests[0];
  REQUIRE(first.passages.size() == 3);
  CHECK(first.passages[1].id == 1);
  CHECK(first.passages[1].num_tokens == 33);
  CHECK(first.num_leading == 1);
  REQUIRE(first.served.size() == 4);
  CHECK(first.served[0].id == 20);
  CHECK(first.served[3].id == 2);
}

TEST_CASE("Mooncake's blocks, the last one short, and lines that are none") {
  const test_support::TempDirectory folder;
  const std::filesystem::path path = folder.path() / "trace.jsonl";
  const auto complaint = [&](std::string_view line) {
    test_support::write_file(path, line);
    try {
      (void)lab::read_mooncake(path);
    } catch (const mini_engine::Error& error) {
      return std::string(error.what()).substr(path.string().size());
    }
    return std::string();
  };
  CHECK(complaint(R"({"input_length": 1000, "hash_ids": [0, 4]})") == "");
  const PassageStream stream = lab::read_mooncake(path);
  REQUIRE(stream.requests.size() == 1);
  CHECK(stream.requests[0].passages[0].num_tokens == 512);
  CHECK(stream.requests[0].passages[1].num_tokens == 488);
  CHECK(stream.requests[0].passages[1].id == 4);
  CHECK(complaint(R"({"input_length": 1025, "hash_ids": [0, 4]})") ==
        ", line 1: hash_ids: 2 blocks of 512 do not hold 1025 tokens");
  CHECK(complaint(R"({"input_length": 5, "hash_ids": ["x"]})") == ", line 1: hash_ids: holds what is no id: \"x\"");
  CHECK(complaint("") == ": has no request with passages");
}

TEST_CASE("RAGPulse and Mooncake as computed elsewhere") {
  const std::filesystem::path datasets = PIKV_TEST_DATASETS;
  if (!std::filesystem::exists(datasets / "ragpulse")) {
    MESSAGE("skipped: no RAGPulse in " << datasets.string());
    return;
  }
  const PassageStream stream = lab::read_ragpulse(datasets / "ragpulse");
  const auto check = [&](CacheKind kind, std::int64_t capacity, double expected, double tolerance) {
    CAPTURE(lab::cache_name(kind));
    CAPTURE(capacity);
    CHECK(std::abs(lab::replay(stream, kind, capacity, 1).hit_rate - expected) < tolerance);
  };
  check(CacheKind::kChunk, 0, 0.907, 0.0006);
  check(CacheKind::kPrefixRetrieved, 0, 0.289, 0.0006);
  check(CacheKind::kPrefixSorted, 0, 0.383, 0.0006);
  check(CacheKind::kPrefixShuffled, 0, 0.154, 0.005);
  check(CacheKind::kPrefixServed, 0, 0.0, 0.001);
  // From a dictionary in order of use, in the order of the file.
  check(CacheKind::kChunk, 820'000, 0.907, 0.0006);
  check(CacheKind::kChunk, 246'000, 0.758, 0.0006);
  check(CacheKind::kChunk, 82'000, 0.514, 0.0006);
  check(CacheKind::kChunk, 25'000, 0.302, 0.0006);
  // That computation took the trace's two weeks as one, which bounded caches notice.
  check(CacheKind::kPrefixRetrieved, 246'000, 0.121, 0.015);
  check(CacheKind::kPrefixSorted, 82'000, 0.098, 0.015);

  const PassageStream mooncake = lab::read_mooncake(datasets / "mooncake/conversation_trace.jsonl.gz");
  CHECK(mooncake.requests.size() == 12031);
  CHECK(lab::replay(mooncake, CacheKind::kChunk, 0, 1).hit_rate ==
        lab::replay(mooncake, CacheKind::kPrefixRetrieved, 0, 1).hit_rate);
}

}  // namespace
