#include "support/selection_cases.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "support/device_array.hpp"

namespace test_support {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();

enum class ScoreKind { kDistinct, kTied, kOdd, kAllEqual, kAllNan };

std::vector<float> make_scores(ScoreKind kind, std::int32_t num_rows, std::mt19937& random) {
  constexpr float kOdd[] = {kNan, std::copysign(kNan, -1.0F), kInfinity, -kInfinity, 0.0F, -0.0F, kTiny, -kTiny};
  std::normal_distribution<float> normal;
  std::vector<float> scores(static_cast<std::size_t>(num_rows));
  for (float& score : scores) {
    const std::uint32_t draw = random() % 8;
    switch (kind) {
      case ScoreKind::kDistinct:
        score = normal(random);
        break;
      case ScoreKind::kTied:
        score = static_cast<float>(draw) - 4.0F;
        break;
      case ScoreKind::kOdd:
        score = random() % 4 == 0 ? normal(random) : kOdd[draw];
        break;
      case ScoreKind::kAllEqual:
        score = draw % 2 == 0 ? 0.0F : -0.0F;
        break;
      case ScoreKind::kAllNan:
        score = draw % 2 == 0 ? kNan : std::copysign(kNan, -1.0F);
        break;
    }
  }
  return scores;
}

/// Ascending, with empty segments and segments of one row among them; sometimes not from the first to the last row.
std::vector<std::int32_t> make_offsets(std::int32_t num_segments, std::int32_t num_rows, std::mt19937& random) {
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(num_segments) + 1);
  for (std::int32_t& offset : offsets) {
    offset = static_cast<std::int32_t>(random() % (static_cast<std::uint32_t>(num_rows) + 1));
  }
  std::sort(offsets.begin(), offsets.end());
  for (std::size_t i = 1; i + 1 < offsets.size(); i += 3) offsets[i] = offsets[i - 1];
  for (std::size_t i = 2; i + 1 < offsets.size(); i += 5) {
    offsets[i] = std::min(offsets[i - 1] + 1, offsets[i + 1]);
  }
  if (random() % 4 != 0) {
    offsets.back() = num_rows;
    offsets.front() = 0;
  }
  return offsets;
}

std::vector<SelectionCase> make_cases() {
  struct Named {
    ScoreKind kind;
    const char* name;
  };
  constexpr Named kKinds[] = {{ScoreKind::kDistinct, "distinct"},
                              {ScoreKind::kTied, "tied"},
                              {ScoreKind::kOdd, "odd numbers"},
                              {ScoreKind::kAllEqual, "zeros of both signs"},
                              {ScoreKind::kAllNan, "all NaN"}};
  constexpr float kThresholds[] = {0.0F, -0.0F, 1.0F, -kInfinity, kInfinity, -kTiny};
  std::mt19937 random(20);
  std::vector<SelectionCase> cases;
  const auto add = [&](const Named& kind, std::int32_t num_rows, std::int32_t num_segments, std::int32_t k) {
    SelectionCase c;
    c.scores = make_scores(kind.kind, num_rows, random);
    c.segment_offsets = make_offsets(num_segments, num_rows, random);
    c.k = std::min(k, num_rows);
    c.k_each = k;
    c.threshold = kThresholds[random() % 6];
    c.name = std::string(kind.name) + ", " + std::to_string(num_rows) + " rows, " + std::to_string(num_segments) +
             " segments, k " + std::to_string(k) + ", above " + std::to_string(c.threshold);
    cases.push_back(std::move(c));
  };
  for (const Named& kind : kKinds) {
    for (const std::int32_t num_rows : {0, 1, 2, 31, 255, 256, 257, 1000}) {
      for (const std::int32_t num_segments : {0, 1, 2, 20}) {
        for (const std::int32_t k : {0, 1, 7, num_rows}) add(kind, num_rows, num_segments, k);
      }
    }
    // More than one tile of every algorithm.
    add(kind, 4'097, 300, 16);
    add(kind, kMaxCaseRows, 1, 10'000);
    add(kind, kMaxCaseRows, kMaxCaseSegments, 5);
  }
  cases.back().k_each = std::numeric_limits<std::int32_t>::max();  // more than any segment has
  return cases;
}

bool beats(const std::vector<float>& scores, std::int32_t a, std::int32_t b) {
  const float x = scores[static_cast<std::size_t>(a)];
  const float y = scores[static_cast<std::size_t>(b)];
  if (std::isnan(x) && std::isnan(y)) return a < b;
  if (std::isnan(x) || std::isnan(y)) return std::isnan(y);
  return x == y ? a < b : x > y;
}

/// How many of rows [begin, end) beat `row`.
std::int32_t rank_of(const std::vector<float>& scores, std::int32_t begin, std::int32_t end, std::int32_t row) {
  std::int32_t rank = 0;
  for (std::int32_t other = begin; other < end; ++other) rank += other != row && beats(scores, other, row) ? 1 : 0;
  return rank;
}

/// Appends the rows of [begin, end) that fewer than k others beat.
void append_top(const std::vector<float>& scores, std::int32_t begin, std::int32_t end, std::int32_t k,
                std::vector<std::int32_t>& rows) {
  for (std::int32_t row = begin; row < end; ++row) {
    if (rank_of(scores, begin, end, row) < k) rows.push_back(row);
  }
}

std::size_t segment_capacity(const SelectionCase& c) {
  const std::size_t wanted = (c.segment_offsets.size() - 1) * static_cast<std::size_t>(c.k_each);
  return std::min(wanted, c.scores.size());
}

/// An outcome of which nothing has been written yet.
SelectionOutcome blank_outcome(const SelectionCase& c) {
  SelectionOutcome blank;
  blank.top_rows.assign(static_cast<std::size_t>(c.k), kUnwritten);
  blank.segment_rows.assign(segment_capacity(c), kUnwritten);
  blank.segment_row_offsets.assign(c.segment_offsets.size(), kUnwritten);
  blank.rows_above.assign(c.scores.size(), kUnwritten);
  blank.num_above = kUnwritten;
  blank.chunk_order.assign(c.scores.size(), kUnwritten);
  blank.slots_above.assign(c.scores.size(), kUnwritten);
  return blank;
}

}  // namespace

const std::vector<SelectionCase>& selection_cases() {
  static const std::vector<SelectionCase> cases = make_cases();
  return cases;
}

pikv::Slot slot_of_row(std::int32_t row) {
  return row % 5 == 3 ? pikv::kSkipSlot : (pikv::Slot{1} << 33) - 7 * pikv::Slot{row};
}

SelectionOutcome oracle_outcome(const SelectionCase& c) {
  SelectionOutcome expected = blank_outcome(c);
  const auto num_rows = static_cast<std::int32_t>(c.scores.size());
  expected.top_rows.clear();
  append_top(c.scores, 0, num_rows, c.k, expected.top_rows);

  std::vector<std::int32_t> rows;
  for (std::size_t s = 0; s + 1 < c.segment_offsets.size(); ++s) {
    expected.segment_row_offsets[s] = static_cast<std::int32_t>(rows.size());
    append_top(c.scores, c.segment_offsets[s], c.segment_offsets[s + 1], c.k_each, rows);
  }
  expected.segment_row_offsets.back() = static_cast<std::int32_t>(rows.size());
  std::copy(rows.begin(), rows.end(), expected.segment_rows.begin());

  expected.num_above = 0;
  std::fill(expected.slots_above.begin(), expected.slots_above.end(), pikv::kSkipSlot);
  for (std::int32_t row = 0; row < num_rows; ++row) {
    expected.chunk_order[static_cast<std::size_t>(rank_of(c.scores, 0, num_rows, row))] = row;
    if (!(c.scores[static_cast<std::size_t>(row)] > c.threshold)) continue;
    const auto place = static_cast<std::size_t>(expected.num_above++);
    expected.rows_above[place] = row;
    expected.slots_above[place] = slot_of_row(row);
  }
  return expected;
}

SelectionOutcome run_selections(pikv::RowSelector& selector, pikv::Backend& backend, const SelectionCase& c,
                                pikv::Status* status) {
  const pikv::StreamRef stream = pikv::StreamRef::legacy_default();
  SelectionOutcome outcome = blank_outcome(c);
  std::vector<pikv::Slot> slots(c.scores.size());
  for (std::size_t row = 0; row < slots.size(); ++row) slots[row] = slot_of_row(static_cast<std::int32_t>(row));

  DeviceArray<float> scores(backend, c.scores);
  DeviceArray<std::int32_t> offsets(backend, c.segment_offsets);
  DeviceArray<pikv::Slot> all_slots(backend, slots);
  DeviceArray<std::int32_t> top(backend, outcome.top_rows);
  DeviceArray<std::int32_t> segment_rows(backend, outcome.segment_rows);
  DeviceArray<std::int32_t> row_offsets(backend, outcome.segment_row_offsets);
  DeviceArray<std::int32_t> above(backend, outcome.rows_above);
  DeviceArray<std::int32_t> num_above(backend, {outcome.num_above});
  DeviceArray<std::int32_t> order(backend, outcome.chunk_order);
  DeviceArray<pikv::Slot> slots_above(backend, outcome.slots_above);

  // One after the other without waiting, so that they also share the workspace in stream order.
  const auto run = [&]() -> pikv::Status {
    PIKV_TRY(selector.select_top_rows_async(scores.span(), top.span(), stream));
    PIKV_TRY(selector.select_top_rows_per_segment_async({.scores = scores.span(),
                                                         .segment_offsets = offsets.span(),
                                                         .k = c.k_each,
                                                         .rows = segment_rows.span(),
                                                         .row_offsets = row_offsets.span()},
                                                        stream));
    PIKV_TRY(selector.select_rows_above_async(scores.span(), c.threshold, above.span(), num_above.data(), stream));
    PIKV_TRY(selector.order_chunks_async(scores.span(), order.span(), stream));
    return selector.gather_slots_async(
        {.slots = all_slots.span(), .rows = above.span(), .count = num_above.data(), .target = slots_above.span()},
        stream);
  };
  *status = run();
  outcome.top_rows = top.download();
  outcome.segment_rows = segment_rows.download();
  outcome.segment_row_offsets = row_offsets.download();
  outcome.rows_above = above.download();
  outcome.num_above = num_above.download()[0];
  outcome.chunk_order = order.download();
  outcome.slots_above = slots_above.download();
  return outcome;
}

}  // namespace test_support
