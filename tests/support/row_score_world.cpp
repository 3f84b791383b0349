// The memory of a scoring: caches, fresh rows, queries and maps.
#include <algorithm>
#include <map>
#include <utility>

#include "support/oracle.hpp"
#include "support/row_score_cases.hpp"

namespace test_support {
namespace {

using pikv::DType;

constexpr std::int32_t kNumPositions = 4'096;
constexpr pikv::Position kFirstPosition = 37;

/// Tables live as long as the program: copies of them on a device are found by their address.
const pikv::RopeTable& table_of(const RowScoreCase& c) {
  static std::map<std::pair<pikv::Pairing, std::int32_t>, pikv::RopeTable> tables;
  const std::pair key{c.pairing, c.geometry.rotary_dim};
  if (const auto found = tables.find(key); found != tables.end()) return found->second;
  const pikv::RopeConfig config(kScoreTheta, c.pairing, pikv::AngleRule::kExact);
  return tables.emplace(key, pikv::RopeTable::build(config, c.geometry.rotary_dim, kNumPositions).value())
      .first->second;
}

}  // namespace

RowScoreWorld::RowScoreWorld(const RowScoreCase& c) : case_(c), fresh_geometry_(c.geometry), table_(table_of(c)) {
  std::mt19937 random(c.seed);
  fresh_geometry_.num_layers = 1;
  fresh_geometry_.dtype = c.fresh_dtype;
  const std::int64_t num_rows = c.num_rows;
  placement_ = place(c.layout, c.geometry, c.page_size, num_rows + RowSlots::kFirst + 3 * c.page_size, random);
  fresh_placement_ = place(random() % 2 == 0 ? LayoutKind::kNhd : LayoutKind::kRandomStrides, fresh_geometry_, 1,
                           num_rows + 2, random);
  cache_.assign(static_cast<std::size_t>(placement_.num_elements * dtype_bytes(c.geometry.dtype)), std::byte{0xFF});
  fresh_.assign(static_cast<std::size_t>(fresh_placement_.num_elements * dtype_bytes(c.fresh_dtype)), std::byte{0xFF});
  view_.emplace(placement_, c.geometry.num_layers, cache_.data());
  fresh_view_.emplace(fresh_placement_, 1, fresh_.data());
  slots_ = RowSlots(c.slots, num_rows, c.page_size, placement_.num_slots, random);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const auto i = static_cast<std::size_t>(row);
    fresh_slots_.push_back(num_rows - row);
    fill_row(placement_, cache_, c.layer, slots_.slot(row), random);
    fill_row(fresh_placement_, fresh_, 0, fresh_slots_[i], random);
    positions_.push_back(c.positions_per_token ? static_cast<pikv::Position>(random() % kNumPositions)
                                               : kFirstPosition + static_cast<pikv::Position>(row));
    const auto num_segments = static_cast<std::uint32_t>(std::max(c.num_segments, 1));
    const bool starts = key_segments_.empty() || random() % 8 == 0;
    key_segments_.push_back(starts ? static_cast<std::int32_t>(random() % num_segments) : key_segments_.back());
  }

  const std::int64_t row_elements = std::int64_t{c.num_query_heads} * c.geometry.head_dim;
  const std::int64_t element_bytes = dtype_bytes(c.query_dtype);
  queries_.assign(c.query_rows.size() * static_cast<std::size_t>((row_elements + c.query_padding) * element_bytes),
                  std::byte{0xFF});
  std::normal_distribution<float> normal;
  for (std::size_t row = 0; row < c.query_rows.size(); ++row) {
    const std::int64_t first = static_cast<std::int64_t>(row) * (row_elements + c.query_padding);
    for (std::int64_t i = 0; i < row_elements; ++i) {
      write_number(queries_.data() + (first + i) * element_bytes, c.query_dtype, normal(random));
    }
  }
}

void RowScoreWorld::fill_row(const Placement& placement, std::vector<std::byte>& buffer, std::int32_t layer,
                             std::int64_t slot, std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (const Side side : {Side::kKey, Side::kValue}) {
    for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
      for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
        write_number(buffer.data() + oracle_address(placement, side, layer, slot, head, d), placement.layout.dtype,
                     normal(random));
      }
    }
  }
}

pikv::DeviationScoring RowScoreWorld::deviation(std::span<float> scores) const {
  const std::int64_t num_rows = case_.num_rows;
  pikv::DeviationScoring scoring{.geometry = case_.geometry,
                                 .layer = case_.layer,
                                 .fresh = as_const(fresh_view_->view()),
                                 .fresh_slots = pikv::SlotMap::per_token(fresh_slots_.data(), num_rows),
                                 .cached = as_const(view_->view()),
                                 .cached_slots = slots_.map(),
                                 .positions = case_.positions_per_token
                                                  ? pikv::PositionMap::per_token(positions_.data())
                                                  : pikv::PositionMap::consecutive(kFirstPosition),
                                 .key_weight = case_.key_weight,
                                 .value_weight = case_.value_weight,
                                 .scores = scores};
  // One of a single layer is named by its bases alone.
  scoring.fresh.k_base = fresh_view_->view().k_layer(0);
  scoring.fresh.v_base = fresh_view_->view().v_layer(0);
  scoring.fresh.k_layers = scoring.fresh.v_layers = nullptr;
  if (case_.key_weight != 0) scoring.rope = table_.view();
  return scoring;
}

pikv::AttentionScoring RowScoreWorld::attention(std::span<float> key_scores, std::span<float> segment_scores) const {
  return {.geometry = case_.geometry,
          .num_query_heads = case_.num_query_heads,
          .layer = case_.layer,
          .keys = as_const(view_->view()),
          .key_slots = slots_.map(),
          .queries = queries_.data(),
          .query_dtype = case_.query_dtype,
          .query_stride = std::int64_t{case_.num_query_heads} * case_.geometry.head_dim + case_.query_padding,
          .query_rows = case_.query_rows,
          .scale = case_.scale,
          .key_scores = key_scores,
          .key_segments = key_segments_,
          .num_segments = case_.num_segments,
          .segment_scores = segment_scores};
}

std::size_t RowScoreWorld::num_key_scores() const {
  return case_.scores_keys ? static_cast<std::size_t>(case_.num_rows) : 0;
}

std::size_t RowScoreWorld::num_segment_scores() const {
  return case_.query_rows.size() * static_cast<std::size_t>(case_.num_segments);
}

void RowScoreWorld::poison_unattended() {
  const std::int32_t first = case_.query_rows.empty() ? 0 : case_.query_rows.back() + 1;
  for (std::int32_t row = first; row < case_.num_rows; ++row) {
    for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
      for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
        const std::int64_t address = oracle_address(placement_, Side::kKey, case_.layer, slots_.slot(row), head, d);
        std::fill_n(cache_.begin() + address, dtype_bytes(case_.geometry.dtype), std::byte{0xFF});
      }
    }
  }
}

}  // namespace test_support
