// The case table of re-anchoring: every layout as source and as target, every pair of types, and on the way through
// them every pairing, RoPE variant, head size, token count, slot map, position pattern and misalignment.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "support/layouts.hpp"

namespace test_support {

enum class RopeKind : std::uint8_t { kPlain, kLlama3, kYarn, kLongRope, kLinear, kDynamic };
enum class SlotKind : std::uint8_t { kConsecutive, kPageTable, kPerToken, kPerTokenWithSkips };
enum class PositionKind : std::uint8_t { kFromZero, kUpToLast, kScattered };  // the last with 0, 1 and last among them

struct ReanchorCase {
  pikv::KvGeometry geometry;
  LayoutKind source_layout = LayoutKind::kSlab;
  LayoutKind target_layout = LayoutKind::kSlab;
  pikv::DType source_dtype = pikv::DType::kFloat32;
  pikv::DType target_dtype = pikv::DType::kFloat32;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  pikv::AngleRule angle_rule = pikv::AngleRule::kExact;
  RopeKind rope = RopeKind::kPlain;
  SlotKind source_slots = SlotKind::kConsecutive;
  SlotKind target_slots = SlotKind::kConsecutive;
  PositionKind positions = PositionKind::kFromZero;
  std::int32_t num_positions = 0;
  std::int32_t page_size = 16;
  std::vector<std::int64_t> run_tokens;  // [runs]
  std::int64_t misaligned_elements = 0;  // of both buffers
  std::int32_t layer_begin = 0;
  std::int32_t layer_end = 0;

  /// Everything needed to find the case again.
  [[nodiscard]] std::string name() const;
};

[[nodiscard]] const std::vector<ReanchorCase>& reanchor_cases();

/// The configuration of a case's table.
[[nodiscard]] pikv::RopeConfig rope_config_of(const ReanchorCase& c);
/// The table itself; tables are built once and kept.
[[nodiscard]] const pikv::RopeTable& rope_table_of(const ReanchorCase& c);

}  // namespace test_support
