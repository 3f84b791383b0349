#include <algorithm>
#include <cstddef>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "detail/ranks_before.hpp"
#include "pikv/selection.hpp"
#include "selection_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

class CpuRowSelector final : public RowSelector {
 public:
  explicit CpuRowSelector(std::vector<std::int32_t> workspace) noexcept
      : workspace_(std::move(workspace)),
        limits_{.max_rows = static_cast<std::int32_t>(workspace_.size()),
                .max_segments = std::numeric_limits<std::int32_t>::max()} {}

  MemorySpace space() const noexcept override { return MemorySpace::kHost; }

  Status select_top_rows_async(std::span<const float> scores, std::span<std::int32_t> rows,
                               StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_top_rows(scores, rows, limits_));
    select_top(scores, 0, static_cast<std::int32_t>(scores.size()), rows);
    return {};
  }

  Status select_top_rows_per_segment_async(const SegmentSelection& selection, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_segments(selection, limits_));
    PIKV_TRY(check_offsets(selection));
    std::size_t num_selected = 0;
    selection.row_offsets[0] = 0;
    for (std::size_t s = 0; s + 1 < selection.segment_offsets.size(); ++s) {
      const std::int32_t begin = selection.segment_offsets[s];
      const std::int32_t end = selection.segment_offsets[s + 1];
      const auto k = static_cast<std::size_t>(std::min(selection.k, end - begin));
      select_top(selection.scores, begin, end, selection.rows.subspan(num_selected, k));
      num_selected += k;
      selection.row_offsets[s + 1] = static_cast<std::int32_t>(num_selected);
    }
    return {};
  }

  Status select_rows_above_async(std::span<const float> scores, float threshold, std::span<std::int32_t> rows,
                                 std::int32_t* count, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_rows_above(scores, threshold, rows, count, limits_));
    std::size_t num_selected = 0;
    for (std::size_t row = 0; row < scores.size(); ++row) {
      if (scores[row] > threshold) rows[num_selected++] = static_cast<std::int32_t>(row);
    }
    *count = static_cast<std::int32_t>(num_selected);
    return {};
  }

  Status order_chunks_async(std::span<const float> scores, std::span<std::int32_t> chunks,
                            StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_order(scores, chunks, limits_));
    std::iota(chunks.begin(), chunks.end(), 0);
    std::sort(chunks.begin(), chunks.end(), detail::RanksBefore(scores));  // not stable_sort, which allocates
    return {};
  }

  Status gather_slots_async(const SlotGather& gather, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_gather(gather));
    const std::size_t num_rows = gather.rows.size();
    std::size_t count = num_rows;
    if (gather.count != nullptr) {
      if (*gather.count < 0 || static_cast<std::size_t>(*gather.count) > num_rows) {
        return invalid_argument("gather_slots: count is " + std::to_string(*gather.count) + " of " +
                                std::to_string(num_rows) + " rows");
      }
      count = static_cast<std::size_t>(*gather.count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t row = gather.rows[i];
      if (row >= 0 && static_cast<std::size_t>(row) < gather.slots.size()) continue;
      return invalid_argument("gather_slots: rows[" + std::to_string(i) + "] is " + std::to_string(row) + " of " +
                              std::to_string(gather.slots.size()) + " slots");
    }
    for (std::size_t i = 0; i < count; ++i) {
      gather.target[i] = gather.slots[static_cast<std::size_t>(gather.rows[i])];
    }
    std::fill(gather.target.begin() + static_cast<std::ptrdiff_t>(count), gather.target.end(), kSkipSlot);
    return {};
  }

 private:
  /// The best rows.size() of rows [begin, end).
  void select_top(std::span<const float> scores, std::int32_t begin, std::int32_t end, std::span<std::int32_t> rows) {
    if (rows.empty()) return;
    const auto first = workspace_.begin();
    const auto last = first + (end - begin);
    const auto cut = first + static_cast<std::ptrdiff_t>(rows.size());
    std::iota(first, last, begin);
    std::nth_element(first, cut - 1, last, detail::RanksBefore(scores));
    std::sort(first, cut);
    std::copy(first, cut, rows.begin());
  }

  static Status check_offsets(const SegmentSelection& selection) {
    std::int32_t previous = 0;
    for (std::size_t i = 0; i < selection.segment_offsets.size(); ++i) {
      const std::int32_t offset = selection.segment_offsets[i];
      if (offset < previous || static_cast<std::size_t>(offset) > selection.scores.size()) {
        return invalid_argument("select_top_rows_per_segment: segment_offsets[" + std::to_string(i) + "] is " +
                                std::to_string(offset) + ", outside [" + std::to_string(previous) + ", " +
                                std::to_string(selection.scores.size()) + "]");
      }
      previous = offset;
    }
    return {};
  }

  std::vector<std::int32_t> workspace_;
  const detail::SelectionLimits limits_;
};

}  // namespace

Result<std::unique_ptr<RowSelector>> make_cpu_row_selector(std::int32_t max_rows) {
  if (max_rows < 0) return invalid_argument("make_cpu_row_selector: max_rows is " + std::to_string(max_rows));
  try {
    std::vector<std::int32_t> workspace(static_cast<std::size_t>(max_rows));
    return std::unique_ptr<RowSelector>(new CpuRowSelector(std::move(workspace)));
  } catch (const std::bad_alloc&) {
    return out_of_memory("make_cpu_row_selector: no memory for " + std::to_string(max_rows) + " rows");
  }
}

}  // namespace v0
}  // namespace pikv
