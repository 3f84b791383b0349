// Selection by score on the CPU, against an oracle that counts.
#include <doctest/doctest.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "pikv/cuda.hpp"
#include "pikv/selection.hpp"
#include "support/selection_cases.hpp"

namespace {

using pikv::ErrorCode;
using test_support::SelectionCase;
using test_support::SelectionOutcome;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::unique_ptr<pikv::RowSelector> make(std::int32_t max_rows) { return pikv::make_cpu_row_selector(max_rows).value(); }

void expect_refusal(const pikv::Status& status, const std::string& part) {
  CHECK(status.code() == ErrorCode::kInvalidArgument);
  CHECK_MESSAGE(status.message().find(part) != std::string_view::npos, status.to_string());
}

TEST_CASE("every case equals the oracle") {
  constexpr std::size_t kMaxOracleRows = 5'000;
  const auto cpu = pikv::make_cpu_backend();
  const auto selector = make(test_support::kMaxCaseRows);
  std::size_t num_compared = 0;
  for (const SelectionCase& c : test_support::selection_cases()) {
    CAPTURE(c.name);
    if (c.scores.size() > kMaxOracleRows) continue;
    pikv::Status status;
    const SelectionOutcome got = run_selections(*selector, *cpu, c, &status);
    REQUIRE_MESSAGE(status.ok(), status.to_string());
    const SelectionOutcome expected = oracle_outcome(c);
    CHECK(got.top_rows == expected.top_rows);
    CHECK(got.segment_row_offsets == expected.segment_row_offsets);
    CHECK(got.segment_rows == expected.segment_rows);
    CHECK(got.num_above == expected.num_above);
    CHECK(got.rows_above == expected.rows_above);
    CHECK(got.chunk_order == expected.chunk_order);
    CHECK(got.slots_above == expected.slots_above);
    ++num_compared;
  }
  CHECK(num_compared > 600);
}

TEST_CASE("the order is the one that is documented") {
  const std::vector<float> scores = {kNan, -0.0F, kInfinity, 0.0F, -kInfinity, 1.0F, kNan, kInfinity};
  std::vector<std::int32_t> order(8);
  const auto selector = make(8);
  REQUIRE(selector->order_chunks_async(scores, order, kStream).ok());
  CHECK(order == std::vector<std::int32_t>{2, 7, 5, 1, 3, 4, 0, 6});
  std::vector<std::int32_t> rows(3);
  REQUIRE(selector->select_top_rows_async(scores, rows, kStream).ok());
  CHECK(rows == std::vector<std::int32_t>{2, 5, 7});
}

TEST_CASE("empty segments, and rows outside of all segments") {
  const std::vector<float> scores = {9, 8, 1, 3, 2, 7, 9};
  const std::vector<std::int32_t> offsets = {1, 1, 2, 2, 5, 5};
  std::vector<std::int32_t> rows(7, -1);
  std::vector<std::int32_t> row_offsets(6);
  REQUIRE(
      make(7)
          ->select_top_rows_per_segment_async(
              {.scores = scores, .segment_offsets = offsets, .k = 2, .rows = rows, .row_offsets = row_offsets}, kStream)
          .ok());
  CHECK(row_offsets == std::vector<std::int32_t>{0, 0, 1, 1, 3, 3});
  CHECK(rows == std::vector<std::int32_t>{1, 3, 4, -1, -1, -1, -1});
}

TEST_CASE("sizes that contradict each other are refused, and nothing is written") {
  const std::vector<float> scores(4, 1.0F);
  const std::vector<float> many(6, 1.0F);
  std::vector<std::int32_t> rows(7, -1);
  const std::span<std::int32_t> all(rows);
  std::int32_t count = -1;
  const auto selector = make(5);
  expect_refusal(selector->select_top_rows_async(scores, all.first(5), kStream), "rows has 5 elements");
  expect_refusal(selector->select_top_rows_async(many, all.first(1), kStream), "made for 5");
  expect_refusal(selector->select_top_rows_async(scores, {static_cast<std::int32_t*>(nullptr), 2}, kStream),
                 "rows is null");
  expect_refusal(selector->select_top_rows_async({static_cast<const float*>(nullptr), 4}, all.first(2), kStream),
                 "scores is null");
  expect_refusal(selector->select_rows_above_async(scores, 0, all.first(3), &count, kStream), "rows has 3 elements");
  expect_refusal(selector->select_rows_above_async(scores, kNan, all, &count, kStream), "threshold");
  expect_refusal(selector->select_rows_above_async(scores, 0, all, nullptr, kStream), "count");
  expect_refusal(selector->order_chunks_async(scores, all.first(3), kStream), "chunks has 3 elements");
  expect_refusal(selector->order_chunks_async(scores, all.first(5), kStream), "chunks has 5 elements");
  CHECK(rows == std::vector<std::int32_t>(7, -1));
  CHECK(count == -1);
}

TEST_CASE("segments that make no sense are refused, and nothing is written") {
  const std::vector<float> scores(4, 1.0F);
  std::vector<std::int32_t> rows(4, -1);
  std::vector<std::int32_t> row_offsets(3, -1);
  const auto selector = make(4);
  const auto select = [&](std::vector<std::int32_t> offsets, std::int32_t k, std::size_t num_rows,
                          std::size_t num_offsets) {
    return selector->select_top_rows_per_segment_async({.scores = scores,
                                                        .segment_offsets = offsets,
                                                        .k = k,
                                                        .rows = std::span(rows).first(num_rows),
                                                        .row_offsets = std::span(row_offsets).first(num_offsets)},
                                                       kStream);
  };
  expect_refusal(select({}, 1, 4, 0), "segment_offsets");
  expect_refusal(select({0, 2, 4}, -1, 4, 3), "k is -1");
  expect_refusal(select({0, 2, 4}, 1, 1, 3), "rows has 1 elements, 2 are needed");
  expect_refusal(select({0, 2, 4}, 3, 3, 3), "rows has 3 elements, 4 are needed");
  expect_refusal(select({0, 2, 4}, 1, 4, 2), "row_offsets");
  expect_refusal(select({0, 3, 2}, 1, 4, 3), "segment_offsets[2] is 2");
  expect_refusal(select({-1, 3, 4}, 1, 4, 3), "segment_offsets[0] is -1");
  expect_refusal(select({0, 3, 5}, 1, 4, 3), "segment_offsets[2] is 5");
  CHECK(rows == std::vector<std::int32_t>(4, -1));
  CHECK(row_offsets == std::vector<std::int32_t>(3, -1));
  CHECK(select({0, 2, 4}, 1, 2, 3).ok());
}

TEST_CASE("gathering refuses rows and counts out of range") {
  const std::vector<pikv::Slot> slots = {10, pikv::kSkipSlot, 30};
  std::vector<pikv::Slot> target(3, 5);
  std::int32_t count = 2;
  const auto selector = make(0);  // gathering needs no workspace
  const auto gather = [&](const std::vector<std::int32_t>& rows, const std::int32_t* counted, std::size_t num_targets) {
    return selector->gather_slots_async(
        {.slots = slots, .rows = rows, .count = counted, .target = std::span(target).first(num_targets)}, kStream);
  };
  expect_refusal(gather({0, 3, 1}, nullptr, 3), "rows[1] is 3 of 3 slots");
  expect_refusal(gather({0, -1, 1}, nullptr, 3), "rows[1] is -1");
  expect_refusal(gather({0, 1, 1}, nullptr, 2), "target has 2 elements");
  count = 4;
  expect_refusal(gather({0, 1, 1}, &count, 3), "count is 4 of 3 rows");
  CHECK(target == std::vector<pikv::Slot>{5, 5, 5});
  count = 2;
  REQUIRE(gather({2, 1, 99}, &count, 3).ok());  // what does not count is not looked at
  CHECK(target == std::vector<pikv::Slot>{30, pikv::kSkipSlot, pikv::kSkipSlot});
}

TEST_CASE("creators refuse what makes no sense") {
  CHECK(pikv::make_cpu_row_selector(-1).status().code() == ErrorCode::kInvalidArgument);
  CHECK(make(0)->space() == pikv::MemorySpace::kHost);
  const auto code_of = [](const pikv::CudaRowSelectorOptions& options) {
    return pikv::make_cuda_row_selector(options).status().code();
  };
  const ErrorCode none = code_of({});
  if (none == ErrorCode::kUnsupported) return;  // a build without CUDA says so first
  pikv::MemoryResource* const host = &pikv::host_memory_resource();
  CHECK(none == ErrorCode::kInvalidArgument);
  CHECK(code_of({.max_rows = 1, .memory = nullptr}) == ErrorCode::kInvalidArgument);
  CHECK(code_of({.max_rows = 1, .memory = host}) == ErrorCode::kInvalidArgument);
  CHECK(code_of({.max_rows = 1, .max_segments = -1, .memory = host}) == ErrorCode::kInvalidArgument);
}

}  // namespace
