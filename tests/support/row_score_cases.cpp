#include "support/row_score_cases.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace test_support {
namespace {

using pikv::DType;

std::vector<std::int32_t> some_rows(std::int32_t num_rows, std::int32_t count, std::mt19937& random) {
  std::vector<std::int32_t> rows(static_cast<std::size_t>(num_rows));
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  rows.resize(static_cast<std::size_t>(std::min(count, num_rows)));
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::string describe(const RowScoreCase& c, const char* rows) {
  const pikv::KvGeometry& g = c.geometry;
  return std::string(layout_name(c.layout)) + " " + pikv::dtype_name(g.dtype) + ", fresh " +
         pikv::dtype_name(c.fresh_dtype) + ", queries " + pikv::dtype_name(c.query_dtype) + ", heads " +
         std::to_string(c.num_query_heads) + "/" + std::to_string(g.num_kv_heads) + " of " +
         std::to_string(g.head_dim) + ", turning " + std::to_string(g.rotary_dim) +
         (c.pairing == pikv::Pairing::kInterleaved ? " interleaved, " : " half-split, ") + std::to_string(c.num_rows) +
         " rows, queries of " + rows + " (" + std::to_string(c.query_rows.size()) + "), " +
         std::to_string(c.num_segments) + " segments, seed " + std::to_string(c.seed);
}

std::vector<RowScoreCase> make_cases() {
  struct Heads {
    std::int32_t num_query_heads;
    std::int32_t num_kv_heads;
    std::int32_t head_dim;
    std::int32_t rotary_dim;
  };
  constexpr Heads kHeads[] = {{9, 3, 64, 64},   {8, 2, 128, 128}, {2, 2, 80, 80},  {4, 1, 80, 32},
                              {2, 1, 256, 256}, {3, 3, 64, 32},   {16, 2, 64, 64}, {7, 1, 128, 64},
                              {5, 1, 7, 6},     {2, 2, 128, 128}, {12, 1, 24, 24}, {33, 1, 64, 64}};
  constexpr LayoutKind kLayouts[] = {LayoutKind::kNhd,
                                     LayoutKind::kHnd,
                                     LayoutKind::kFusedNhd,
                                     LayoutKind::kTokenPool,
                                     LayoutKind::kRandomStrides,
                                     LayoutKind::kFusedHnd,
                                     LayoutKind::kPackedNhd,
                                     LayoutKind::kKvFirst,
                                     LayoutKind::kTransposedValues,
                                     LayoutKind::kPaddedHeads,
                                     LayoutKind::kStridedChannels};
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  constexpr std::int32_t kNumRows[] = {1, 2, 17, 63, 64, 65, 130, 211};
  constexpr SlotKind kSlotKinds[] = {SlotKind::kPageTable, SlotKind::kPerToken, SlotKind::kConsecutive};
  constexpr const char* kRowNames[] = {"none", "the first", "the last", "first, middle and last", "some", "all"};
  std::mt19937 random(17);
  std::vector<RowScoreCase> cases;
  const auto add = [&](const Heads& heads, LayoutKind layout, DType dtype, std::int32_t num_rows, std::size_t choice) {
    RowScoreCase c;
    c.geometry = {.num_layers = 2,
                  .num_kv_heads = heads.num_kv_heads,
                  .head_dim = heads.head_dim,
                  .rotary_dim = heads.rotary_dim,
                  .dtype = dtype};
    c.num_query_heads = heads.num_query_heads;
    c.layer = static_cast<std::int32_t>(random() % 2);
    c.layout = layout;
    c.page_size = layout == LayoutKind::kTokenPool ? 1 : 16;
    c.slots = layout == LayoutKind::kTokenPool ? SlotKind::kPerToken : kSlotKinds[random() % 3];
    c.fresh_dtype = random() % 2 == 0 ? dtype : kDTypes[random() % 3];
    c.query_dtype = random() % 3 != 0 ? dtype : kDTypes[random() % 3];
    c.pairing = random() % 2 == 0 ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved;
    c.positions_per_token = random() % 2 == 0;
    c.key_weight = random() % 4 == 0 ? 0.0F : 0.75F;
    c.value_weight = random() % 4 == 0 ? 0.0F : 1.5F;
    c.num_rows = num_rows;
    const std::int32_t last = num_rows - 1;
    switch (choice) {
      case 0:
        break;
      case 1:
        c.query_rows = {0};
        break;
      case 2:
        c.query_rows = {last};
        break;
      case 3:
        c.query_rows = {0, last / 2, last};
        break;
      case 4:
        c.query_rows = some_rows(num_rows, 44, random);
        break;
      default:
        c.query_rows = some_rows(num_rows, num_rows, random);
    }
    c.query_padding = random() % 3 == 0 ? 3 : random() % 2 == 0 ? 8 : 0;
    c.scale = random() % 4 == 0 ? 0.5F : 0.0F;
    c.num_segments = static_cast<std::int32_t>(random() % 4 == 0 ? 0 : random() % 7 + 1);
    c.scores_keys = c.num_segments == 0 || random() % 4 != 0;
    c.seed = static_cast<std::uint32_t>(cases.size());
    c.name = describe(c, kRowNames[choice]);
    cases.push_back(std::move(c));
  };
  for (const LayoutKind layout : kLayouts) {
    for (const DType dtype : kDTypes) {
      for (const Heads& heads : kHeads) {
        add(heads, layout, dtype, kNumRows[random() % 8], random() % 6);
      }
    }
  }
  for (const DType dtype : kDTypes) {
    add(kHeads[0], LayoutKind::kFusedNhd, dtype, 1'100, 4);
    add(kHeads[1], LayoutKind::kHnd, dtype, 700, 5);
    add(kHeads[1], LayoutKind::kNhd, dtype, 2'050, 2);
  }
  return cases;
}

}  // namespace

const std::vector<RowScoreCase>& row_score_cases() {
  static const std::vector<RowScoreCase> cases = make_cases();
  return cases;
}

float score_before(std::size_t i) { return 0.25F * static_cast<float>(i % 5) - 0.5F; }

ScoreArray::ScoreArray(std::size_t size) : size_(size), buffer_(static_cast<std::int64_t>(size * sizeof(float)), 4) {
  for (std::size_t i = 0; i < size; ++i) span()[i] = score_before(i);
}

void compare_scores(std::span<const float> got, const ExpectedScores& expected, const std::string& what,
                    Comparison& comparison, double slack) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double before = score_before(i);
    const double rounding = (std::abs(before) + std::abs(expected.values[i])) * 0x1p-23;
    comparison.expect_near(got[i], before + expected.values[i], slack * expected.tolerances[i] + rounding,
                           [&] { return what + "[" + std::to_string(i) + "]"; });
  }
}

}  // namespace test_support
