// Drift of rows over every kind of layout, head and number of rows, with what corrector and weights have to give by an
// oracle in double that shares no code with the library. Shared by the tests of the CPU and of CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "pikv/drift.hpp"
#include "pikv/rope.hpp"
#include "support/compare.hpp"
#include "support/layouts.hpp"
#include "support/oracle.hpp"
#include "support/row_memory.hpp"

namespace test_support {

struct DriftCase {
  std::string name;
  pikv::KvGeometry geometry;  // its dtype is that of the cache
  std::int32_t layer = 0;
  LayoutKind layout = LayoutKind::kNhd;
  std::int32_t page_size = 16;
  SlotKind slots = SlotKind::kPageTable;
  pikv::DType fresh_dtype = pikv::DType::kFloat32;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  bool turns = true;  // else the cache holds semantic keys
  float key_gain = 1;
  float value_gain = 1;
  float noise = 1.0F / 3;
  float other_chunks = 0.2F;
  std::int32_t num_samples = 0;
  std::int32_t num_targets = 0;
  std::int32_t num_other_rows = 0;  // neither sample nor target
  std::uint32_t seed = 0;
};

/// Deterministic.
[[nodiscard]] const std::vector<DriftCase>& drift_cases();

/// The memory of one case. The last row is a target where there is any, at the last position of the table. Whatever of
/// the cache is neither sample nor target is NaN.
class DriftWorld {
 public:
  explicit DriftWorld(const DriftCase& c);
  DriftWorld(const DriftWorld&) = delete;
  DriftWorld& operator=(const DriftWorld&) = delete;

  /// Of the world's own memory. Weights: of the correction, made up.
  [[nodiscard]] pikv::DriftCorrection correction() const;
  /// weights: where they go, [T + R][R].
  [[nodiscard]] pikv::DriftWeighing weighing(std::span<float> weights) const;
  /// What the cache holds now; afterwards it holds before() again.
  [[nodiscard]] std::vector<std::byte> take();

  /// Compares what the cache holds after the correction: targets with the oracle, all else bit by bit with what was
  /// there. factor_error: relative, of each factor of the sums.
  void compare(std::span<const std::byte> got, double factor_error, Comparison& comparison) const;
  /// Compares weights with the oracle's.
  void compare_weights(std::span<const float> got, Comparison& comparison) const;

  /// An element of target_rows[target] in such an image of the cache.
  [[nodiscard]] double target_value(std::span<const std::byte> image, std::size_t target, Side side, std::int32_t head,
                                    std::int32_t d) const;

  [[nodiscard]] const DriftCase& spec() const { return case_; }
  [[nodiscard]] const pikv::RopeTable& table() const { return table_; }
  [[nodiscard]] const std::vector<std::byte>& cache() const { return cache_; }
  [[nodiscard]] const std::vector<std::byte>& before() const { return before_; }
  [[nodiscard]] const std::vector<std::byte>& fresh() const { return fresh_; }

 private:
  struct Prediction {
    std::vector<double> channels;  // semantic
    double error;                  // of each
  };
  struct Share {
    double value;
    double error;
  };

  void choose_rows(std::mt19937& random);
  void fill(std::mt19937& random);
  [[nodiscard]] std::int64_t address(Side side, std::int32_t row, std::int32_t head, std::int32_t d) const;
  [[nodiscard]] std::vector<double> cached_head(Side side, std::int32_t row, std::int32_t head) const;
  /// Of the cache, turned back. error: grows to the bound of fp32 arithmetic.
  [[nodiscard]] std::vector<double> semantic_head(Side side, std::int32_t row, std::int32_t head, double& error) const;
  /// fresh - cached of a sample, semantic.
  [[nodiscard]] std::vector<double> difference(std::size_t sample, Side side, std::int32_t head, double& error) const;
  /// By a row of weights. Errors: of differences, and relative ones of the factors of the sums.
  [[nodiscard]] Prediction predict(std::size_t row, const std::vector<std::vector<double>>& differences,
                                   double difference_error, double factor_error) const;
  /// How well samples are predicted.
  [[nodiscard]] Share share_of(const std::vector<std::vector<double>>& differences, double difference_error,
                               double factor_error) const;
  /// All heads of keys, then of values.
  [[nodiscard]] std::vector<double> features(std::int32_t row) const;

  DriftCase case_;
  std::int32_t num_rows_ = 0;
  pikv::KvGeometry fresh_geometry_;
  pikv::RopeTable table_;
  OracleRope rope_;
  Placement placement_;
  Placement fresh_placement_;
  std::vector<std::byte> cache_;
  std::vector<std::byte> before_;  // what the cache holds first
  std::vector<std::byte> fresh_;
  std::optional<PlacedView> view_;
  std::optional<PlacedView> fresh_view_;
  RowSlots slots_;
  std::vector<pikv::Slot> fresh_slots_;
  std::vector<std::int32_t> sample_rows_;
  std::vector<std::int32_t> target_rows_;
  std::vector<std::int32_t> sample_chunks_, target_chunks_;
  std::vector<float> weights_;  // [T + R][R]
};

}  // namespace test_support
