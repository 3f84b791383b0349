// How far two sets of rows lie apart, and why keys that the engine wrote may not be those that pikv writes.
#pragma once

#include <cstdint>
#include <string>

#include "check/probe_session.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

/// The largest difference between rows, relative to the length of the pair of channels that turns together; channels
/// that do not turn, and those of values, count alone.
struct RowDifference {
  double worst = 0;                ///< not a number when a row holds one
  std::int64_t num_differing = 0;  ///< elements
  std::int32_t layer = 0;          ///< where the worst is
  std::int64_t token = 0;
  std::int32_t head = 0;
  std::int32_t pair = 0;
  std::int64_t first_token = -1;  ///< of those that part by more than `bound`
};

/// Layers [0, num_layers) of both. bound: from where on rows part.
[[nodiscard]] RowDifference row_difference(const HostRows& got, const HostRows& expected, Side side, Pairing pairing,
                                           std::int32_t num_layers, double bound);

/// Layer 0 of semantic keys turned to `first`, ... by the table; the other layers are left empty.
[[nodiscard]] HostRows turned_on_host(const HostRows& semantic, const RopeTableView& table, Position first);

/// What an engine wrote for tokens at `first`, ... next to what they were before rotation.
struct KeyEvidence {
  const HostRows& semantic;
  const HostRows& written;
  Position first = 0;
  const RopeConfig& rope;
  const RopeTable& table;  ///< in host memory
  double bound = 0;        ///< of the difference that counts as none
};

/// The mistake that makes layer 0 of `written` what it is, in a sentence; empty when none of those known does.
[[nodiscard]] std::string explain_keys(const KeyEvidence& evidence);

}  // namespace check
}  // namespace v0
}  // namespace pikv
