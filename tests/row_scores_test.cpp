// Scores of rows on the CPU, against an oracle in double.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "pikv/cuda.hpp"
#include "pikv/row_scores.hpp"
#include "support/row_score_cases.hpp"

namespace {

using pikv::AttentionScoring;
using pikv::DeviationScoring;
using pikv::DType;
using pikv::ErrorCode;
using test_support::Comparison;
using test_support::RowScoreCase;
using test_support::RowScoreWorld;
using test_support::ScoreArray;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

void require_ok(const pikv::Status& status) { REQUIRE_MESSAGE(status.ok(), status.to_string()); }

TEST_CASE("every deviation equals the oracle") {
  const auto scorer = pikv::make_cpu_row_scorer(2);
  CHECK(scorer->space() == pikv::MemorySpace::kHost);
  for (const RowScoreCase& c : test_support::row_score_cases()) {
    const RowScoreWorld world(c);
    ScoreArray scores(static_cast<std::size_t>(c.num_rows));
    const pikv::Status status = scorer->add_deviation_async(world.deviation(scores.span()), kStream);
    REQUIRE_MESSAGE(status.ok(), (c.name + ": " + status.to_string()));
    Comparison comparison(c.name);
    compare_scores(scores.span(), world.expected_deviation(), "scores", comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK_MESSAGE(scores.guards_intact(), c.name);
  }
}

TEST_CASE("all attention equals the oracle") {
  const auto scorer = pikv::make_cpu_row_scorer(2);
  for (const RowScoreCase& c : test_support::row_score_cases()) {
    RowScoreWorld world(c);
    world.poison_unattended();
    ScoreArray keys(world.num_key_scores());
    ScoreArray segments(world.num_segment_scores());
    const pikv::Status status = scorer->add_attention_async(world.attention(keys.span(), segments.span()), kStream);
    REQUIRE_MESSAGE(status.ok(), (c.name + ": " + status.to_string()));
    const auto expected = world.expected_attention();
    Comparison comparison(c.name);
    compare_scores(keys.span(), expected[0], "key_scores", comparison);
    compare_scores(segments.span(), expected[1], "segment_scores", comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK_MESSAGE(keys.guards_intact(), c.name);
    CHECK_MESSAGE(segments.guards_intact(), c.name);
  }
}

TEST_CASE("the same call gives the same bits on any number of threads") {
  const RowScoreCase& c = test_support::row_score_cases().back();
  RowScoreCase all = c;
  all.num_rows = 400;
  all.query_rows.clear();
  for (std::int32_t row = 0; row < all.num_rows; ++row) all.query_rows.push_back(row);
  all.num_segments = 3;
  const RowScoreWorld world(all);
  std::vector<std::vector<float>> results;
  for (const std::int32_t num_threads : {1, 2, 3, 3}) {
    const auto scorer = pikv::make_cpu_row_scorer(num_threads);
    std::vector<float> scores(3 * static_cast<std::size_t>(all.num_rows));
    std::vector<float> segments(world.num_segment_scores());
    const std::size_t num_rows = scores.size() / 3;
    require_ok(scorer->add_deviation_async(world.deviation(std::span(scores).first(num_rows)), kStream));
    for (const std::size_t begin : {num_rows, 2 * num_rows}) {
      require_ok(
          scorer->add_attention_async(world.attention(std::span(scores).subspan(begin, num_rows), segments), kStream));
    }
    scores.insert(scores.end(), segments.begin(), segments.end());
    results.push_back(scores);
    CHECK(results.back() == results.front());
    CHECK(std::equal(scores.begin() + all.num_rows, scores.begin() + 2 * all.num_rows,
                     scores.begin() + 2 * all.num_rows));
  }
}

TEST_CASE("products far beyond the range of exp leave weights finite") {
  constexpr std::int32_t kKeys = 100;
  const pikv::KvGeometry geometry{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 16, .rotary_dim = 16, .dtype = DType::kFloat32};
  const pikv::KvLayout layout = pikv::nhd_pages(geometry, 1, kKeys);
  std::vector<float> cache(2 * kKeys * 16, 1.0F);
  for (std::size_t d = 0; d < 16; ++d) cache[70 * 16 + d] = 3.0F;
  std::vector<float> query(2 * 16, 1e4F);
  for (std::size_t d = 0; d < 16; ++d) query[16 + d] = -1e4F;
  const std::vector<std::int32_t> rows = {80, 99};
  const std::vector<std::int32_t> segments(kKeys, 0);
  std::vector<float> scores(kKeys);
  std::vector<float> segment_scores(2);
  const auto* const base = reinterpret_cast<const std::byte*>(cache.data());
  require_ok(pikv::make_cpu_row_scorer(1)->add_attention_async(
      {.geometry = geometry,
       .num_query_heads = 1,
       .keys = {.layout = layout, .k_base = base, .v_base = base + kKeys * 64, .num_slots = kKeys},
       .key_slots = pikv::SlotMap::consecutive(0, kKeys),
       .queries = query.data(),
       .query_stride = 16,
       .query_rows = rows,
       .key_scores = scores,
       .key_segments = segments,
       .num_segments = 1,
       .segment_scores = segment_scores},
      kStream));
  CHECK(scores[70] == 1.0F);                       // all of row 80, nothing of row 99
  CHECK(std::abs(scores[0] - 1.0F / 99) < 1e-6F);  // row 99 alone
  CHECK(std::abs(segment_scores[0] - 1) + std::abs(segment_scores[1] - 1) < 1e-6F);
}

/// A world to refuse things of: everything is used.
RowScoreCase full_case() {
  RowScoreCase c = test_support::row_score_cases().front();
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 32, .dtype = DType::kBFloat16};
  c.num_query_heads = 4;
  c.layout = test_support::LayoutKind::kNhd;
  c.page_size = 16;
  c.slots = test_support::SlotKind::kPageTable;
  c.key_weight = c.value_weight = 1;
  c.positions_per_token = true;
  c.num_rows = 20;
  c.query_rows = {3, 7, 19};
  c.num_segments = 4;
  c.scores_keys = true;
  return c;
}

void expect_code(const pikv::Status& status, ErrorCode code, const std::string& part) {
  CHECK_MESSAGE(status.code() == code, (part + ": " + status.to_string()));
  CHECK_MESSAGE(status.message().find(part) != std::string_view::npos, (part + ": " + status.to_string()));
}

TEST_CASE("deviations that make no sense are refused by field, and nothing is written") {
  const RowScoreWorld world(full_case());
  ScoreArray scores(20);
  const auto scorer = pikv::make_cpu_row_scorer(1);
  const auto refused = [&](const auto& spoil, const std::string& part, ErrorCode code = ErrorCode::kInvalidArgument) {
    DeviationScoring scoring = world.deviation(scores.span());
    spoil(scoring);
    expect_code(scorer->add_deviation_async(scoring, kStream), code, part);
  };
  const std::vector<pikv::Slot> outside(20, world.deviation({}).cached.num_slots);
  const std::vector<pikv::Slot> skipped(20, pikv::kSkipSlot);
  const std::vector<std::int32_t> pages(3, -2);
  const std::vector<pikv::Position> late(20, 4'096);
  refused([](DeviationScoring& s) { s.geometry.num_kv_heads = 0; }, "geometry");
  refused([](DeviationScoring& s) { s.geometry.head_dim = 320; }, "head_dim is 320", ErrorCode::kUnsupported);
  refused([](DeviationScoring& s) { s.layer = 2; }, "layer is 2");
  refused([](DeviationScoring& s) { s.layer = -1; }, "layer is -1");
  refused([](DeviationScoring& s) { s.fresh.k_base = nullptr; }, "fresh: KvView: k_base");
  refused([](DeviationScoring& s) { s.fresh.space = pikv::MemorySpace::kDevice; }, "fresh.space");
  refused([](DeviationScoring& s) { s.fresh.layout.dtype = DType::kFloat8E4M3; }, "fresh.layout.dtype",
          ErrorCode::kUnsupported);
  refused([](DeviationScoring& s) { s.cached.layout.dtype = DType::kFloat8E4M3; }, "cached.layout.dtype",
          ErrorCode::kUnsupported);
  refused([](DeviationScoring& s) { s.cached.v_base = nullptr; }, "cached: KvView: v_base");
  refused([](DeviationScoring& s) { s.cached.layout.k.token = 0; }, "cached");
  refused([](DeviationScoring& s) { s.fresh_slots = pikv::SlotMap::consecutive(1'000, 20); }, "fresh_slots");
  refused([](DeviationScoring& s) { s.fresh_slots = pikv::SlotMap::consecutive(0, 19); }, "cached_slots.num_tokens");
  refused([&](DeviationScoring& s) { s.fresh_slots = pikv::SlotMap::per_token(skipped.data(), 20); },
          "fresh_slots.slots[0] is -1");
  refused([&](DeviationScoring& s) { s.cached_slots = pikv::SlotMap::per_token(outside.data(), 20); },
          "cached_slots.slots[0]");
  refused([&](DeviationScoring& s) { s.cached_slots = pikv::SlotMap::page_table(pages.data(), 16, 0, 20); },
          "cached_slots.pages[0] is -2");
  refused([](DeviationScoring& s) { s.cached_slots = pikv::SlotMap::per_token(nullptr, 20); }, "cached_slots");
  refused([](DeviationScoring& s) { s.positions = pikv::PositionMap::per_token(nullptr); }, "positions");
  refused([](DeviationScoring& s) { s.positions = pikv::PositionMap::consecutive(4'090); }, "positions");
  refused([&](DeviationScoring& s) { s.positions = pikv::PositionMap::per_token(late.data()); },
          "positions[0] is 4096");
  refused([](DeviationScoring& s) { s.rope.half_dim = 32; }, "rope.half_dim");
  refused([](DeviationScoring& s) { s.rope.values = nullptr; }, "rope.values");
  refused([](DeviationScoring& s) { s.key_weight = kNan; }, "key_weight");
  refused([](DeviationScoring& s) { s.value_weight = kNan; }, "value_weight");
  refused([](DeviationScoring& s) { s.scores = s.scores.first(19); }, "scores has 19 elements, 20 are needed");
  refused([](DeviationScoring& s) { s.scores = {static_cast<float*>(nullptr), 20}; }, "scores is null");
  for (std::size_t i = 0; i < 20; ++i) CHECK(scores.span()[i] == test_support::score_before(i));

  // Without keys nobody asks for their positions.
  DeviationScoring values_only = world.deviation(scores.span());
  values_only.key_weight = 0;
  values_only.rope = {.values = nullptr, .num_positions = -1, .half_dim = 7};
  values_only.positions = pikv::PositionMap::per_token(nullptr);
  // What the strides and bases of other layers of the fresh rows are is nobody's business either.
  values_only.fresh.layout.k.layer = values_only.fresh.layout.v.layer = -5;
  CHECK(scorer->add_deviation_async(values_only, kStream).ok());
}

TEST_CASE("attention that makes no sense is refused by field, and nothing is written") {
  const RowScoreWorld world(full_case());
  ScoreArray keys(world.num_key_scores());
  ScoreArray segments(world.num_segment_scores());
  const auto scorer = pikv::make_cpu_row_scorer(1);
  const auto refused = [&](const auto& spoil, const std::string& part, ErrorCode code = ErrorCode::kInvalidArgument) {
    AttentionScoring scoring = world.attention(keys.span(), segments.span());
    spoil(scoring);
    expect_code(scorer->add_attention_async(scoring, kStream), code, part);
  };
  const std::vector<pikv::Slot> skipped(20, pikv::kSkipSlot);
  const std::vector<std::int32_t> falling = {7, 3, 19};
  const std::vector<std::int32_t> beyond = {3, 7, 20};
  const std::vector<std::int32_t> before = {-1, 7, 19};
  const std::vector<std::int32_t> unknown(20, 4);
  refused([](AttentionScoring& s) { s.geometry.num_layers = 0; }, "geometry");
  refused([](AttentionScoring& s) { s.geometry.head_dim = 257; }, "head_dim is 257", ErrorCode::kUnsupported);
  refused([](AttentionScoring& s) { s.num_query_heads = 0; }, "num_query_heads is 0");
  refused([](AttentionScoring& s) { s.num_query_heads = 5; }, "num_query_heads is 5");
  refused([](AttentionScoring& s) { s.layer = 2; }, "layer is 2");
  refused([](AttentionScoring& s) { s.keys.k_base = nullptr; }, "keys: KvView: k_base");
  refused([](AttentionScoring& s) { s.keys.space = pikv::MemorySpace::kDevice; }, "keys.space");
  refused([](AttentionScoring& s) { s.keys.layout.dtype = DType::kFloat8E4M3; }, "keys.layout.dtype",
          ErrorCode::kUnsupported);
  refused([](AttentionScoring& s) { s.key_slots = pikv::SlotMap::consecutive(1'000, 20); }, "key_slots");
  refused([&](AttentionScoring& s) { s.key_slots = pikv::SlotMap::per_token(skipped.data(), 20); },
          "key_slots.slots[0] is -1");
  refused([](AttentionScoring& s) { s.key_slots = pikv::SlotMap::consecutive(0, 0); }, "query_rows has 3 rows");
  refused([](AttentionScoring& s) { s.queries = nullptr; }, "queries is null");
  refused([](AttentionScoring& s) { s.queries = static_cast<const std::byte*>(s.queries) + 1; }, "queries is not");
  refused([](AttentionScoring& s) { s.query_dtype = DType::kFloat8E4M3; }, "query_dtype", ErrorCode::kUnsupported);
  refused([](AttentionScoring& s) { s.query_dtype = static_cast<DType>(9); }, "query_dtype");
  refused([](AttentionScoring& s) { s.query_stride = 255; }, "query_stride is 255");
  refused([](AttentionScoring& s) { s.query_stride = std::int64_t{1} << 60; }, "query_stride");
  refused([&](AttentionScoring& s) { s.query_rows = falling; }, "query_rows[1] is 3");
  refused([&](AttentionScoring& s) { s.query_rows = beyond; }, "query_rows[2] is 20");
  refused([&](AttentionScoring& s) { s.query_rows = before; }, "query_rows[0] is -1");
  refused(
      [](AttentionScoring& s) {
        s.query_rows = {static_cast<const std::int32_t*>(nullptr), 3};
      },
      "query_rows is null");
  refused([](AttentionScoring& s) { s.scale = kNan; }, "scale");
  refused([](AttentionScoring& s) { s.key_scores = s.key_scores.first(19); }, "key_scores has 19 elements");
  refused([](AttentionScoring& s) { s.key_scores = {static_cast<float*>(nullptr), 20}; }, "key_scores is null");
  refused([](AttentionScoring& s) { s.num_segments = -1; }, "num_segments is -1");
  refused([](AttentionScoring& s) { s.num_segments = 3; }, "segment_scores has 12 elements, 9 are needed");
  refused([](AttentionScoring& s) { s.key_segments = s.key_segments.first(19); }, "key_segments has 19 elements");
  refused([&](AttentionScoring& s) { s.key_segments = unknown; }, "key_segments[0] is 4");
  for (std::size_t i = 0; i < 20; ++i) CHECK(keys.span()[i] == test_support::score_before(i));
  for (std::size_t i = 0; i < 12; ++i) CHECK(segments.span()[i] == test_support::score_before(i));

  // Without scores of segments nobody asks for the segments of keys.
  AttentionScoring keys_only = world.attention(keys.span(), {});
  keys_only.key_segments = unknown;
  CHECK(scorer->add_attention_async(keys_only, kStream).ok());
  keys_only.key_scores = {};
  CHECK(scorer->add_attention_async(keys_only, kStream).ok());
}

TEST_CASE("a scorer on a GPU needs device memory") {
  const auto code_of = [](const pikv::CudaRowScorerOptions& options) {
    return pikv::make_cuda_row_scorer(options).status().code();
  };
  const ErrorCode none = code_of({});
  if (none == ErrorCode::kUnsupported) return;  // a build without CUDA says so first
  CHECK(none == ErrorCode::kInvalidArgument);
  CHECK(code_of({.memory = &pikv::host_memory_resource()}) == ErrorCode::kInvalidArgument);
}

}  // namespace
