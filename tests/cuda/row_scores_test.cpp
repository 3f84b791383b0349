// Scores of rows on a GPU, against the oracle that the CPU is held to.
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/device_mirror.hpp"
#include "pikv/cuda.hpp"
#include "pikv/row_scores.hpp"
#include "support/device_array.hpp"
#include "support/row_score_cases.hpp"

namespace {

using test_support::Comparison;
using test_support::DeviceArray;
using test_support::DeviceMirror;
using test_support::gpu_or_skip;
using test_support::RowScoreCase;
using test_support::RowScoreWorld;
using test_support::ScoreArray;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

/// Tensor cores cut sums off where fp32 rounds them: several bits in products of long heads.
constexpr double kTensorCoreSlack = 16;

std::unique_ptr<pikv::RowScorer> make(pikv::Backend& gpu) {
  return pikv::make_cuda_row_scorer({.memory = &gpu.memory_resource()}).value();
}

template <class T>
void add(DeviceMirror& mirror, std::span<T> array) {
  if (!array.empty()) mirror.add(array.data(), static_cast<std::int64_t>(array.size_bytes()));
}

/// What the device holds of an array, put where the host has it.
void fetch(DeviceMirror& mirror, std::span<float> array) {
  if (array.empty()) return;
  const std::vector<std::byte> bytes = mirror.download(array.data(), static_cast<std::int64_t>(array.size_bytes()));
  std::memcpy(array.data(), bytes.data(), bytes.size());
}

TEST_CASE("every deviation equals the oracle") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto scorer = make(*gpu);
  CHECK(scorer->space() == pikv::MemorySpace::kDevice);
  for (const RowScoreCase& c : test_support::row_score_cases()) {
    const RowScoreWorld world(c);
    ScoreArray scores(static_cast<std::size_t>(c.num_rows));
    DeviceMirror mirror(*gpu);
    mirror.add(world.cache());
    mirror.add(world.fresh());
    add(mirror, scores.span());
    const pikv::Status status =
        scorer->add_deviation_async(mirror.translate(world.deviation(scores.span()), world.table()), kStream);
    REQUIRE_MESSAGE(status.ok(), (c.name + ": " + status.to_string()));
    fetch(mirror, scores.span());
    Comparison comparison(c.name);
    compare_scores(scores.span(), world.expected_deviation(), "scores", comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK_MESSAGE(mirror.guards_intact(), c.name);
  }
}

TEST_CASE("all attention equals the oracle, and again bit for bit") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto scorer = make(*gpu);
  for (const RowScoreCase& c : test_support::row_score_cases()) {
    RowScoreWorld world(c);
    world.poison_unattended();
    const auto expected = world.expected_attention();
    std::vector<float> first;
    for (int round = 0; round < 2; ++round) {
      ScoreArray keys(world.num_key_scores());
      ScoreArray segments(world.num_segment_scores());
      DeviceMirror mirror(*gpu);
      mirror.add(world.cache());
      mirror.add(world.queries());
      mirror.add(world.key_segments());
      const pikv::AttentionScoring scoring = world.attention(keys.span(), segments.span());
      add(mirror, scoring.query_rows);
      add(mirror, keys.span());
      add(mirror, segments.span());
      // Empty arrays have no address on the device.
      pikv::AttentionScoring asked = scoring;
      if (asked.query_rows.empty()) {
        asked.query_rows = {};
        asked.queries = nullptr;
      }
      if (asked.key_scores.empty()) asked.key_scores = {};
      if (asked.segment_scores.empty()) asked.segment_scores = {};
      const pikv::Status status = scorer->add_attention_async(mirror.translate(asked), kStream);
      REQUIRE_MESSAGE(status.ok(), (c.name + ": " + status.to_string()));
      fetch(mirror, keys.span());
      fetch(mirror, segments.span());
      CHECK_MESSAGE(mirror.guards_intact(), c.name);
      std::vector<float> all(keys.span().begin(), keys.span().end());
      all.insert(all.end(), segments.span().begin(), segments.span().end());
      if (round == 1) {
        CHECK_MESSAGE(all == first, c.name);
        continue;
      }
      first = all;
      const double slack =
          c.query_dtype == c.geometry.dtype && c.query_dtype != pikv::DType::kFloat32 ? kTensorCoreSlack : 1;
      Comparison comparison(c.name);
      compare_scores(keys.span(), expected[0], "key_scores", comparison, slack);
      compare_scores(segments.span(), expected[1], "segment_scores", comparison, slack);
      CHECK_MESSAGE(comparison.ok(), comparison.report());
    }
  }
}

/// More segments than one launch tells apart, more vectors and keys than one block sees.
TEST_CASE("all rows of a prompt in many segments equal the CPU") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  RowScoreCase c = test_support::row_score_cases().front();
  c.geometry = {.num_layers = 1, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kBFloat16};
  c.num_query_heads = 6;
  c.layer = 0;
  c.layout = test_support::LayoutKind::kFusedHnd;
  c.page_size = 16;
  c.query_dtype = pikv::DType::kBFloat16;
  c.num_rows = 3'001;
  c.query_rows.clear();
  for (std::int32_t row = 0; row < c.num_rows; ++row) c.query_rows.push_back(row);
  c.num_segments = 77;
  c.scores_keys = true;
  const RowScoreWorld world(c);
  const auto cpu = pikv::make_cpu_row_scorer();
  std::vector<float> keys(world.num_key_scores());
  std::vector<float> segments(world.num_segment_scores());
  REQUIRE(cpu->add_attention_async(world.attention(keys, segments), kStream).ok());
  const std::vector<float> expected_keys = keys;
  const std::vector<float> expected_segments = segments;
  std::fill(keys.begin(), keys.end(), 0.0F);
  std::fill(segments.begin(), segments.end(), 0.0F);
  DeviceMirror mirror(*gpu);
  mirror.add(world.cache());
  mirror.add(world.queries());
  mirror.add(world.key_segments());
  mirror.add(world.spec().query_rows);
  mirror.add(keys);
  mirror.add(segments);
  REQUIRE(make(*gpu)->add_attention_async(mirror.translate(world.attention(keys, segments)), kStream).ok());
  fetch(mirror, keys);
  fetch(mirror, segments);
  CHECK(mirror.guards_intact());
  Comparison comparison("3,001 rows");
  for (std::size_t i = 0; i < keys.size(); ++i) {
    comparison.expect_near(keys[i], expected_keys[i], expected_keys[i] * 0x1p-12 + 0x1p-30,
                           [&] { return "key " + std::to_string(i); });
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    comparison.expect_near(segments[i], expected_segments[i], expected_segments[i] * 0x1p-12 + 0x1p-30,
                           [&] { return "segment score " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

TEST_CASE("indices that make no sense on the device touch no memory beside the arrays") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kMin = std::numeric_limits<std::int32_t>::min();
  constexpr std::size_t kRows = 70;
  const pikv::KvGeometry geometry{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kBFloat16};
  DeviceArray<std::uint16_t> cache(*gpu, std::vector<std::uint16_t>(2 * kRows * 64, 0x3F80));
  const auto* const base = reinterpret_cast<const std::byte*>(cache.data());
  const pikv::ConstKvView view{.layout = pikv::nhd_pages(geometry, 1, kRows),
                               .k_base = base,
                               .v_base = base + kRows * 128,
                               .num_slots = kRows,
                               .space = pikv::MemorySpace::kDevice};
  std::vector<pikv::Slot> wild(kRows, pikv::Slot{1} << 40);
  for (std::size_t i = 0; i < kRows; i += 2) wild[i] = -static_cast<pikv::Slot>(i) - 1;
  DeviceArray<pikv::Slot> slots(*gpu, wild);
  std::vector<pikv::Position> far(kRows, kMax);
  for (std::size_t i = 0; i < kRows; i += 2) far[i] = kMin;
  DeviceArray<pikv::Position> positions(*gpu, far);
  DeviceArray<float> table(*gpu, std::vector<float>(64, 1.0F));
  DeviceArray<float> scores(*gpu, std::vector<float>(kRows));
  DeviceArray<std::uint16_t> queries(*gpu, std::vector<std::uint16_t>(4 * 64, 0x3F80));
  DeviceArray<std::int32_t> query_rows(*gpu, {kMax, -5, 1'000, kMin});
  std::vector<std::int32_t> odd(kRows, kMax);
  for (std::size_t i = 0; i < kRows; i += 3) odd[i] = kMin + static_cast<std::int32_t>(i);
  DeviceArray<std::int32_t> segments(*gpu, odd);
  DeviceArray<float> segment_scores(*gpu, std::vector<float>(4 * 3));
  const auto scorer = make(*gpu);
  for (const bool has_wild_slots : {false, true}) {
    const pikv::SlotMap map = has_wild_slots ? pikv::SlotMap::per_token(slots.data(), kRows)
                                             : pikv::SlotMap::consecutive(0, static_cast<std::int64_t>(kRows));
    CHECK(scorer
              ->add_deviation_async({.geometry = geometry,
                                     .fresh = view,
                                     .fresh_slots = map,
                                     .cached = view,
                                     .cached_slots = map,
                                     .positions = pikv::PositionMap::per_token(positions.data()),
                                     .rope = {.values = table.data(), .num_positions = 1, .half_dim = 32},
                                     .key_weight = 1,
                                     .scores = scores.span()},
                                    kStream)
              .ok());
    CHECK(scorer
              ->add_attention_async({.geometry = geometry,
                                     .num_query_heads = 1,
                                     .keys = view,
                                     .key_slots = map,
                                     .queries = queries.data(),
                                     .query_dtype = pikv::DType::kBFloat16,
                                     .query_stride = 64,
                                     .query_rows = query_rows.span(),
                                     .key_scores = scores.span(),
                                     .key_segments = segments.span(),
                                     .num_segments = 3,
                                     .segment_scores = segment_scores.span()},
                                    kStream)
              .ok());
    (void)scores.download();  // looks at what is beside the arrays
    (void)segment_scores.download();
    (void)cache.download();
  }
}

TEST_CASE("what lies on the host is refused, and a creator without memory") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const RowScoreWorld world(test_support::row_score_cases().front());
  std::vector<float> scores(static_cast<std::size_t>(world.spec().num_rows));
  CHECK(make(*gpu)->add_deviation_async(world.deviation(scores), kStream).code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(pikv::make_cuda_row_scorer({}).status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(pikv::make_cuda_row_scorer({.memory = &pikv::host_memory_resource()}).status().code() ==
        pikv::ErrorCode::kInvalidArgument);
}

}  // namespace
