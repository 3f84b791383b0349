// Drift corrections over every kind of layout, head and chunk, with what they have to give by an oracle in double that
// shares no code with the library. Shared by the tests of the CPU and of CUDA.
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

/// What the samples of a chunk differ by from the rows that the cache holds.
enum class DriftKind : std::uint8_t {
  kMixed,   // one vector, and noise of each sample's own
  kCommon,  // one vector
  kNoise,   // noise whose mean is none: nothing may move
};

struct DriftChunk {
  std::int32_t num_samples = 0;
  std::int32_t num_targets = 0;
  DriftKind kind = DriftKind::kMixed;
};

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
  std::vector<DriftChunk> chunks;
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

  /// Of the world's own memory.
  [[nodiscard]] pikv::DriftCorrection correction() const;
  /// What the cache holds now; afterwards it holds before() again.
  [[nodiscard]] std::vector<std::byte> take();

  /// Compares what the cache holds after the correction: targets with the oracle, all else bit by bit with what was
  /// there. Targets of chunks that may not move are compared bit by bit too.
  void compare(std::span<const std::byte> got, Comparison& comparison) const;

  /// An element of target_rows[target] in such an image of the cache.
  [[nodiscard]] double target_value(std::span<const std::byte> image, std::size_t target, Side side, std::int32_t head,
                                    std::int32_t d) const;
  /// What chunks of kCommon were given: of a head, [D] semantic.
  [[nodiscard]] const std::vector<double>& planted(std::size_t chunk, Side side, std::int32_t head) const;

  [[nodiscard]] const DriftCase& spec() const { return case_; }
  [[nodiscard]] const pikv::RopeTable& table() const { return table_; }
  [[nodiscard]] const std::vector<std::byte>& cache() const { return cache_; }
  [[nodiscard]] const std::vector<std::byte>& before() const { return before_; }
  [[nodiscard]] const std::vector<std::byte>& fresh() const { return fresh_; }

 private:
  struct Drift {
    std::vector<double> shift{};  // semantic, gain and all; empty: nothing may move
    double error = 0;             // of each channel, in fp32
  };
  struct Samples {
    double count = 0;
    std::vector<double> mean{};
    double variance = 0;  // summed over channels
    double error = 0;
  };

  void choose_rows(std::mt19937& random);
  void fill(std::mt19937& random);
  void fill_samples(std::size_t chunk, Side side, std::int32_t head, std::mt19937& random);
  [[nodiscard]] std::int64_t address(Side side, std::int32_t row, std::int32_t head, std::int32_t d) const;
  [[nodiscard]] std::vector<double> cached_head(Side side, std::int32_t row, std::int32_t head) const;
  /// Of the cache, turned back. error: grows to the bound of fp32 arithmetic.
  [[nodiscard]] std::vector<double> semantic_head(Side side, std::int32_t row, std::int32_t head, double& error) const;
  [[nodiscard]] Samples samples(std::int32_t begin, std::int32_t end, Side side, std::int32_t head) const;
  [[nodiscard]] static std::vector<double> shrunk(const Samples& samples, const std::vector<double>& towards);
  [[nodiscard]] Drift find_drift(std::size_t chunk, Side side, std::int32_t head) const;

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
  std::vector<std::int32_t> sample_offsets_;
  std::vector<std::int32_t> target_rows_;
  std::vector<std::int32_t> target_offsets_;
  std::vector<std::vector<double>> planted_;
};

}  // namespace test_support
