// Scorings over every kind of layout, head and choice of rows, with what they have to give by an oracle in double that
// shares no code with the library. Shared by the tests of the CPU and of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "pikv/rope.hpp"
#include "pikv/row_scores.hpp"
#include "support/compare.hpp"
#include "support/guarded_buffer.hpp"
#include "support/layouts.hpp"
#include "support/row_memory.hpp"

namespace test_support {

struct RowScoreCase {
  std::string name;
  pikv::KvGeometry geometry;  // its dtype is that of the cache
  std::int32_t num_query_heads = 0;
  std::int32_t layer = 0;
  LayoutKind layout = LayoutKind::kNhd;
  std::int32_t page_size = 16;
  SlotKind slots = SlotKind::kPageTable;
  pikv::DType fresh_dtype = pikv::DType::kFloat32;
  pikv::DType query_dtype = pikv::DType::kFloat32;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  bool positions_per_token = false;
  float key_weight = 0;
  float value_weight = 1;
  std::int32_t num_rows = 0;
  std::vector<std::int32_t> query_rows;
  std::int32_t query_padding = 0;  // elements between two rows of queries
  float scale = 0;
  std::int32_t num_segments = 0;  // 0: no scores of segments
  bool scores_keys = true;
  std::uint32_t seed = 0;
};

/// Base of every table's frequencies.
inline constexpr double kScoreTheta = 10'000;

/// Deterministic.
[[nodiscard]] const std::vector<RowScoreCase>& row_score_cases();

/// Expected increments, and how far fp32 may be off them.
struct ExpectedScores {
  std::vector<double> values;
  std::vector<double> tolerances;
};

/// Number that stands in the i-th score before anything is added.
[[nodiscard]] float score_before(std::size_t i);

/// Scores between guards, which start as score_before().
class ScoreArray {
 public:
  explicit ScoreArray(std::size_t size);
  [[nodiscard]] std::span<float> span() { return {reinterpret_cast<float*>(buffer_.data()), size_}; }
  [[nodiscard]] bool guards_intact() const { return buffer_.guards_intact(); }

 private:
  std::size_t size_;
  GuardedBuffer buffer_;
};

/// slack: by how much an arithmetic may be off further than fp32.
void compare_scores(std::span<const float> got, const ExpectedScores& expected, const std::string& what,
                    Comparison& comparison, double slack = 1);

/// The memory of one case. Whatever of the cache holds no row of the prompt is NaN.
class RowScoreWorld {
 public:
  explicit RowScoreWorld(const RowScoreCase& c);
  RowScoreWorld(const RowScoreWorld&) = delete;
  RowScoreWorld& operator=(const RowScoreWorld&) = delete;

  [[nodiscard]] pikv::DeviationScoring deviation(std::span<float> scores) const;
  [[nodiscard]] pikv::AttentionScoring attention(std::span<float> key_scores, std::span<float> segment_scores) const;
  [[nodiscard]] std::size_t num_key_scores() const;
  [[nodiscard]] std::size_t num_segment_scores() const;

  [[nodiscard]] ExpectedScores expected_deviation() const;
  /// Of keys, then of segments, in one go.
  [[nodiscard]] std::vector<ExpectedScores> expected_attention() const;

  /// Makes keys NaN that no query row attends.
  void poison_unattended();

  [[nodiscard]] const RowScoreCase& spec() const { return case_; }
  [[nodiscard]] const pikv::RopeTable& table() const { return table_; }
  [[nodiscard]] const std::vector<std::byte>& cache() const { return cache_; }
  [[nodiscard]] const std::vector<std::byte>& fresh() const { return fresh_; }
  [[nodiscard]] const std::vector<std::byte>& queries() const { return queries_; }
  [[nodiscard]] const std::vector<std::int32_t>& key_segments() const { return key_segments_; }

 private:
  void fill_row(const Placement& placement, std::vector<std::byte>& buffer, std::int32_t layer, std::int64_t slot,
                std::mt19937& random);
  [[nodiscard]] std::vector<double> key_at(std::int64_t row, std::int32_t head) const;

  RowScoreCase case_;
  pikv::KvGeometry fresh_geometry_;
  pikv::RopeTable table_;
  Placement placement_;
  Placement fresh_placement_;
  std::vector<std::byte> cache_;
  std::vector<std::byte> fresh_;
  std::vector<std::byte> queries_;
  std::optional<PlacedView> view_;
  std::optional<PlacedView> fresh_view_;
  RowSlots slots_;
  std::vector<pikv::Slot> fresh_slots_;
  std::vector<pikv::Position> positions_;
  std::vector<std::int32_t> key_segments_;
};

}  // namespace test_support
