#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "mini_engine/error.hpp"
#include "rag_bench/mode.hpp"
#include "rag_bench/report.hpp"
#include "rag_bench/zipf_workload.hpp"

namespace {

using rag_bench::Mode;
using rag_bench::ZipfOptions;
using rag_bench::ZipfWorkload;

TEST_CASE("documents are drawn by Zipf's law, without repeats and in random order") {
  const ZipfWorkload workload({.num_documents = 50, .documents_per_request = 1, .zipf = 0.8, .vocab_size = 1000});
  constexpr int kDraws = 40000;
  std::vector<double> counts(50);
  for (std::uint64_t i = 0; i < kDraws; ++i) ++counts[static_cast<std::size_t>(workload.documents_of(i)[0])];
  double sum = 0;
  for (int i = 1; i <= 50; ++i) sum += std::pow(i, -0.8);
  double chi_squared = 0;
  for (int i = 0; i < 50; ++i) {
    const double expected = kDraws * std::pow(i + 1, -0.8) / sum;
    chi_squared += std::pow(counts[static_cast<std::size_t>(i)] - expected, 2) / expected;
  }
  CHECK(chi_squared < 85.4);  // 49 degrees of freedom, 0.1 %

  const ZipfWorkload several({.num_documents = 10, .documents_per_request = 8, .vocab_size = 1000});
  int num_descending = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const std::vector<int> chosen = several.documents_of(i);
    CHECK(std::set<int>(chosen.begin(), chosen.end()).size() == 8);
    num_descending += chosen[0] > chosen[1] ? 1 : 0;
  }
  CHECK(std::abs(num_descending - 1000) < 110);
}

TEST_CASE("a workload is the same whatever was asked before, and questions differ") {
  const ZipfOptions options{.num_documents = 20, .document_tokens = 30, .vocab_size = 500, .seed = 3};
  const ZipfWorkload a(options);
  const ZipfWorkload b(options);
  (void)b.request(17);
  const auto first = a.request(5);
  const auto second = b.request(5);
  REQUIRE(first.segments.size() == 9);
  for (std::size_t i = 0; i < 9; ++i) CHECK(first.segments[i].tokens == second.segments[i].tokens);
  CHECK(first.segments[8].tokens != a.request(6).segments[8].tokens);
  CHECK(a.document(3) != a.document(4));
  CHECK(first.max_tokens == 64);
  ZipfOptions other = options;
  other.seed = 4;
  CHECK(ZipfWorkload(other).document(3) != a.document(3));
}

TEST_CASE("workloads that cannot be are refused by name") {
  CHECK_THROWS_WITH_AS(ZipfWorkload({.num_documents = 3, .documents_per_request = 4, .vocab_size = 9}),
                       "workload: 4 documents per request, there are 3", mini_engine::Error);
  CHECK_THROWS_WITH_AS(ZipfWorkload({.question_tokens = 0, .vocab_size = 9}), "workload: tokens of a question is 0",
                       mini_engine::Error);
}

TEST_CASE("modes by name") {
  CHECK(rag_bench::parse_mode("full").kind == Mode::Kind::kFull);
  CHECK(rag_bench::parse_mode("prefix").kind == Mode::Kind::kExactPrefix);
  const Mode mode = rag_bench::parse_mode("pinned-fp8+16");
  CHECK(mode.kind == Mode::Kind::kChunks);
  CHECK(mode.place == mini_engine::ChunkPlace::kPinned);
  CHECK(mode.format == pikv::SlabFormat::kFloat8);
  REQUIRE(mode.repair != nullptr);
  CHECK(mode.repair->name() == "first:16");
  CHECK(mode.name == "pinned-fp8+16");
  CHECK(rag_bench::parse_mode("device").repair == nullptr);
  CHECK(rag_bench::parse_mode("device+first:16,skip=1").repair->name() == "first:16,skip=1");
  CHECK(rag_bench::parse_mode("pinned-bf16+ends:4").repair->name() == "ends:4");
  for (const char* wrong : {"", "chunks", "full+3", "full+first:3", "prefix+first:3", "device+", "device+0", "device+x",
                            "device+-1", "device+first:0", "device+16,skip", "device+16+16", "pinned"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS((void)rag_bench::parse_mode(wrong), mini_engine::Error);
  }
}

TEST_CASE("modes whose repair a batch cannot follow are refused by name") {
  for (const std::string wrong : {"blend:0.2", "prophet:0.2", "blend:0"}) {
    CHECK_THROWS_WITH_AS((void)rag_bench::parse_mode("device+" + wrong),
                         ("repair: the policy '" + wrong +
                          "' chooses rows while it computes, which only a request served on its own can do")
                             .c_str(),
                         mini_engine::Error);
  }
}

TEST_CASE("a list of modes that was split at commas keeps the options of its specs") {
  const std::vector<std::string> parts{"full", "device+first:16", "skip=1", "device+random:0.5", "seed=3", "device+7"};
  std::vector<std::string> names;
  for (const Mode& mode : rag_bench::parse_modes(parts)) names.push_back(mode.name);
  CHECK(names == std::vector<std::string>{"full", "device+first:16,skip=1", "device+random:0.5,seed=3", "device+7"});
  CHECK(rag_bench::parse_modes({}).empty());
  CHECK_THROWS_AS((void)rag_bench::parse_modes(std::vector<std::string>{"skip=1"}), mini_engine::Error);
  CHECK_THROWS_AS((void)rag_bench::parse_modes(std::vector<std::string>{"device", "skip=1"}), mini_engine::Error);
}

TEST_CASE("percentiles are values that occurred") {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  CHECK(rag_bench::percentile(values, 0.5) == 50);
  CHECK(rag_bench::percentile(values, 0.95) == 95);
  CHECK(rag_bench::percentile(values, 0.99) == 99);
  CHECK(rag_bench::percentile(values, 1.0) == 100);
  CHECK(rag_bench::percentile({7}, 0.01) == 7);
  CHECK(rag_bench::percentile({}, 0.5) == 0);
}

TEST_CASE("a summary counts what happened") {
  rag_bench::LoadResult result;
  for (int i = 0; i < 20; ++i) {
    result.samples.push_back({.sent = 1.0,
                              .first_token = 1.5 + i,
                              .finished = 30,
                              .num_prompt_tokens = 100,
                              .num_cached_tokens = i < 10 ? 0 : 80,
                              .num_generated_tokens = 5});
  }
  result.token_gaps = {0.1, 0.2, 0.3};
  result.seconds = 10;
  const rag_bench::Summary summary = rag_bench::summarize("device", result);
  CHECK(summary.requests_per_second == 2);
  CHECK(summary.tokens_per_second == 10);
  CHECK(summary.first_token_p50 == doctest::Approx(9.5));
  CHECK(summary.gap_p50 == doctest::Approx(0.2));
  REQUIRE(summary.hit_rates.size() == 10);
  CHECK(summary.hit_rates[0] == 0);
  CHECK(summary.hit_rates[9] == doctest::Approx(0.8));
  CHECK(rag_bench::to_table({summary}).find("device") != std::string::npos);
}

}  // namespace
