// Which rows or chunks score best: what a repair policy or a planner does with scores that already lie on the device,
// so that they need not travel to the host and back.
//
//   std::unique_ptr<pikv::RowSelector> selector = pikv::make_cpu_row_selector(8192).value();
//   std::vector<std::int32_t> rows(16);
//   PIKV_TRY(selector->select_top_rows_async(scores, rows, stream));   // the 16 best rows, in ascending order
//
// Scores are compared as numbers: -0 equals +0, and infinities are ordinary. A NaN ranks below everything else, minus
// infinity included. Of equal scores, and of NaNs among themselves, the one with the lower index ranks higher.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// The best rows of each segment of a prompt. Segments are the half-open ranges between neighbouring offsets; they may
/// be empty, and rows before the first or after the last are never selected.
struct SegmentSelection {
  std::span<const float> scores;                  ///< [num_rows]
  std::span<const std::int32_t> segment_offsets;  ///< [num_segments + 1], ascending, within [0, num_rows]
  std::int32_t k = 0;                             ///< rows wanted of each segment; min(k, length) are selected
  /// Written: rows of the first segment in ascending order, then those of the second, and so on.
  /// [min(num_segments * k, num_rows)] or more.
  std::span<std::int32_t> rows;
  std::span<std::int32_t> row_offsets;  ///< [num_segments + 1], written: where each segment's part of `rows` begins
};

/// target[i] = slots[rows[i]], so that selected rows can be written elsewhere.
struct SlotGather {
  std::span<const Slot> slots;          ///< [num_slots], kSkipSlot allowed
  std::span<const std::int32_t> rows;   ///< [num_rows], each within [0, num_slots), in any order
  const std::int32_t* count = nullptr;  ///< [1], entries of `rows` that count, the others give kSkipSlot. Null: all.
  std::span<Slot> target;               ///< [num_rows], written
};

/// Selects by score. All spans and pointers are in space(), non-null unless empty; outputs overlap neither inputs nor
/// each other. Arrays must stay alive, and inputs unchanged, until the stream has passed the call. Nothing is allocated
/// and nothing synchronised, so that calls can be captured in a CUDA graph, which the selector must then outlive.
///
/// Thread-safety: one call at a time, since calls share a workspace; calls on different streams have to be ordered by
/// events. Destroy the selector after the work that was queued with it is done.
/// Errors: kInvalidArgument, before anything is written, for sizes that contradict each other or exceed what the
/// selector was made for, and where space() is host memory for indices out of range. On a device such indices cannot be
/// looked at: no memory is touched out of bounds, but what is selected is unspecified, and a gathered slot is
/// kSkipSlot.
class RowSelector {
 public:
  virtual ~RowSelector() = default;

  /// Where arrays must lie.
  [[nodiscard]] virtual MemorySpace space() const noexcept = 0;

  /// The k = rows.size() best of all rows, in ascending order. Requires: k <= scores.size().
  [[nodiscard]] virtual Status select_top_rows_async(std::span<const float> scores, std::span<std::int32_t> rows,
                                                     StreamRef stream) = 0;
  [[nodiscard]] virtual Status select_top_rows_per_segment_async(const SegmentSelection& selection,
                                                                 StreamRef stream) = 0;
  /// Rows with score > threshold, in ascending order, into the front of `rows`, and how many they are into *count. What
  /// follows them in `rows` is left as it is. Requires: rows.size() >= scores.size(), threshold is not NaN.
  [[nodiscard]] virtual Status select_rows_above_async(std::span<const float> scores, float threshold,
                                                       std::span<std::int32_t> rows, std::int32_t* count,
                                                       StreamRef stream) = 0;
  /// All chunks, best first. Requires: chunks.size() == scores.size().
  [[nodiscard]] virtual Status order_chunks_async(std::span<const float> scores, std::span<std::int32_t> chunks,
                                                  StreamRef stream) = 0;
  [[nodiscard]] virtual Status gather_slots_async(const SlotGather& gather, StreamRef stream) = 0;
};

/// On the calling thread: every call has done its work when it returns. `max_rows` is the most scores that one call may
/// have; 4 bytes are held for each. The number of segments has no limit. Errors: kInvalidArgument, kOutOfMemory.
[[nodiscard]] PIKV_API Result<std::unique_ptr<RowSelector>> make_cpu_row_selector(std::int32_t max_rows);

}  // namespace v0
}  // namespace pikv
