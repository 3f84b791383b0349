#include "selection_checks.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

namespace pikv::detail {
namespace {

constexpr std::size_t kMaxIndex = std::numeric_limits<std::int32_t>::max();

template <class T>
Status check_array(const char* call, const char* name, std::span<T> array) {
  if (array.data() != nullptr || array.empty()) return {};
  return invalid_argument(std::string(call) + ": " + name + " is null with " + std::to_string(array.size()) +
                          " elements");
}

Status check_scores(const char* call, std::span<const float> scores, const SelectionLimits& limits) {
  PIKV_TRY(check_array(call, "scores", scores));
  if (scores.size() <= static_cast<std::size_t>(limits.max_rows)) return {};
  return invalid_argument(std::string(call) + ": " + std::to_string(scores.size()) +
                          " scores, the selector was made for " + std::to_string(limits.max_rows));
}

Status wrong_size(const char* call, const char* name, std::size_t size, const std::string& needed) {
  return invalid_argument(std::string(call) + ": " + name + " has " + std::to_string(size) + " elements, " + needed);
}

}  // namespace

Status check_top_rows(std::span<const float> scores, std::span<const std::int32_t> rows,
                      const SelectionLimits& limits) {
  constexpr const char* kCall = "select_top_rows";
  PIKV_TRY(check_scores(kCall, scores, limits));
  PIKV_TRY(check_array(kCall, "rows", rows));
  if (rows.size() <= scores.size()) return {};
  return wrong_size(kCall, "rows", rows.size(), "but there are only " + std::to_string(scores.size()) + " scores");
}

Status check_segments(const SegmentSelection& selection, const SelectionLimits& limits) {
  constexpr const char* kCall = "select_top_rows_per_segment";
  PIKV_TRY(check_scores(kCall, selection.scores, limits));
  PIKV_TRY(check_array(kCall, "segment_offsets", selection.segment_offsets));
  PIKV_TRY(check_array(kCall, "rows", selection.rows));
  PIKV_TRY(check_array(kCall, "row_offsets", selection.row_offsets));
  if (selection.segment_offsets.empty()) return wrong_size(kCall, "segment_offsets", 0, "at least 1 is needed");
  const std::size_t num_segments = selection.segment_offsets.size() - 1;
  if (num_segments > static_cast<std::size_t>(limits.max_segments)) {
    return invalid_argument(std::string(kCall) + ": " + std::to_string(num_segments) +
                            " segments, the selector was made for " + std::to_string(limits.max_segments));
  }
  if (selection.k < 0) return invalid_argument(std::string(kCall) + ": k is " + std::to_string(selection.k));
  // The product fits: num_segments is at most the largest int32, and so is k.
  const std::size_t needed = std::min(num_segments * static_cast<std::size_t>(selection.k), selection.scores.size());
  if (selection.rows.size() < needed) {
    return wrong_size(kCall, "rows", selection.rows.size(), std::to_string(needed) + " are needed");
  }
  if (selection.row_offsets.size() == num_segments + 1) return {};
  return wrong_size(kCall, "row_offsets", selection.row_offsets.size(),
                    std::to_string(num_segments + 1) + " are needed");
}

Status check_rows_above(std::span<const float> scores, float threshold, std::span<const std::int32_t> rows,
                        const std::int32_t* count, const SelectionLimits& limits) {
  constexpr const char* kCall = "select_rows_above";
  PIKV_TRY(check_scores(kCall, scores, limits));
  PIKV_TRY(check_array(kCall, "rows", rows));
  if (std::isnan(threshold)) return invalid_argument(std::string(kCall) + ": threshold is NaN");
  if (count == nullptr) return invalid_argument(std::string(kCall) + ": count is null");
  if (rows.size() >= scores.size()) return {};
  return wrong_size(kCall, "rows", rows.size(), std::to_string(scores.size()) + " are needed");
}

Status check_order(std::span<const float> scores, std::span<const std::int32_t> chunks, const SelectionLimits& limits) {
  constexpr const char* kCall = "order_chunks";
  PIKV_TRY(check_scores(kCall, scores, limits));
  PIKV_TRY(check_array(kCall, "chunks", chunks));
  if (chunks.size() == scores.size()) return {};
  return wrong_size(kCall, "chunks", chunks.size(), std::to_string(scores.size()) + " are needed");
}

Status check_gather(const SlotGather& gather) {
  constexpr const char* kCall = "gather_slots";
  PIKV_TRY(check_array(kCall, "slots", gather.slots));
  PIKV_TRY(check_array(kCall, "rows", gather.rows));
  PIKV_TRY(check_array(kCall, "target", gather.target));
  if (gather.rows.size() > kMaxIndex) {
    return wrong_size(kCall, "rows", gather.rows.size(), "at most " + std::to_string(kMaxIndex) + " are allowed");
  }
  if (gather.target.size() == gather.rows.size()) return {};
  return wrong_size(kCall, "target", gather.target.size(), std::to_string(gather.rows.size()) + " are needed");
}

}  // namespace pikv::detail
