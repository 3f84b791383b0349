#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "cuda/carver.hpp"
#include "cuda/error.hpp"
#include "kernels/select.hpp"
#include "pikv/cuda.hpp"
#include "selection_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::Carver;
using detail::cuda_status;
using detail::DeviceScope;
using detail::SelectionLimits;

cudaStream_t stream_of(StreamRef stream) noexcept { return static_cast<cudaStream_t>(stream.handle()); }

kernels::SelectInput input_of(std::span<const float> scores) noexcept {
  return {.scores = scores.data(), .num_rows = static_cast<std::int32_t>(scores.size())};
}

kernels::SelectWorkspace carve(Carver& carver, const SelectionLimits& limits, std::size_t temp_bytes) noexcept {
  const auto num_rows = static_cast<std::size_t>(limits.max_rows);
  kernels::SelectWorkspace workspace;
  for (std::uint64_t*& keys : workspace.keys) keys = carver.take<std::uint64_t>(num_rows);
  for (std::int32_t*& rows : workspace.rows) rows = carver.take<std::int32_t>(num_rows);
  workspace.flags = carver.take<std::uint8_t>(num_rows);
  workspace.part_sizes = carver.take<std::int32_t>(static_cast<std::size_t>(limits.max_segments) + 1);
  workspace.num_selected = carver.take<std::int32_t>(1);
  workspace.temp = carver.take_bytes(temp_bytes);
  workspace.temp_bytes = temp_bytes;
  return workspace;
}

class CudaRowSelector final : public RowSelector {
 public:
  CudaRowSelector(int device, const SelectionLimits& limits, Buffer memory,
                  const kernels::SelectWorkspace& workspace) noexcept
      : device_(device), limits_(limits), memory_(std::move(memory)), workspace_(workspace) {}

  MemorySpace space() const noexcept override { return MemorySpace::kDevice; }

  Status select_top_rows_async(std::span<const float> scores, std::span<std::int32_t> rows, StreamRef stream) override {
    PIKV_TRY(detail::check_top_rows(scores, rows, limits_));
    if (rows.empty()) return {};
    return on_device("selection of the best rows", [&] {
      return kernels::select_top(input_of(scores), static_cast<std::int32_t>(rows.size()), rows.data(), workspace_,
                                 stream_of(stream));
    });
  }

  Status select_top_rows_per_segment_async(const SegmentSelection& selection, StreamRef stream) override {
    PIKV_TRY(detail::check_segments(selection, limits_));
    kernels::SelectInput input = input_of(selection.scores);
    input.segments = selection.segment_offsets.data();
    input.num_segments = static_cast<std::int32_t>(selection.segment_offsets.size() - 1);
    const bool selects = input.num_rows > 0 && input.num_segments > 0 && selection.k > 0;
    return on_device("selection of the best rows of segments", [&] {
      const cudaError_t error =
          kernels::scan_part_sizes(input, selection.k, selection.row_offsets.data(), workspace_, stream_of(stream));
      if (error != cudaSuccess || !selects) return error;
      return kernels::select_top(input, selection.k, selection.rows.data(), workspace_, stream_of(stream));
    });
  }

  Status select_rows_above_async(std::span<const float> scores, float threshold, std::span<std::int32_t> rows,
                                 std::int32_t* count, StreamRef stream) override {
    PIKV_TRY(detail::check_rows_above(scores, threshold, rows, count, limits_));
    return on_device("selection of rows above a threshold", [&] {
      if (scores.empty()) return cudaMemsetAsync(count, 0, sizeof(*count), stream_of(stream));
      return kernels::select_above(input_of(scores), threshold, rows.data(), count, workspace_, stream_of(stream));
    });
  }

  Status order_chunks_async(std::span<const float> scores, std::span<std::int32_t> chunks, StreamRef stream) override {
    PIKV_TRY(detail::check_order(scores, chunks, limits_));
    if (chunks.empty()) return {};
    return on_device("order of chunks", [&] {
      return kernels::order_rows(input_of(scores), chunks.data(), workspace_, stream_of(stream));
    });
  }

  Status gather_slots_async(const SlotGather& gather, StreamRef stream) override {
    PIKV_TRY(detail::check_gather(gather));
    if (gather.rows.empty()) return {};
    const kernels::GatherParams params{.slots = gather.slots.data(),
                                       .num_slots = static_cast<std::int64_t>(gather.slots.size()),
                                       .rows = gather.rows.data(),
                                       .num_rows = static_cast<std::int32_t>(gather.rows.size()),
                                       .count = gather.count,
                                       .target = gather.target.data()};
    return on_device("gather of slots", [&] { return kernels::gather_slots(params, stream_of(stream)); });
  }

 private:
  template <class Work>
  [[nodiscard]] Status on_device(const char* what, const Work& work) const {
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    return cuda_status(work(), what);
  }

  const int device_;
  const SelectionLimits limits_;
  const Buffer memory_;
  const kernels::SelectWorkspace workspace_;
};

Status check(const CudaRowSelectorOptions& options) {
  const std::string call = "make_cuda_row_selector: ";
  if (options.max_rows <= 0) return invalid_argument(call + "max_rows is " + std::to_string(options.max_rows));
  // One more offset than segments has to be counted.
  if (options.max_segments < 0 || options.max_segments == std::numeric_limits<std::int32_t>::max()) {
    return invalid_argument(call + "max_segments is " + std::to_string(options.max_segments));
  }
  if (options.memory == nullptr) return invalid_argument(call + "memory is null");
  if (options.memory->space() == MemorySpace::kDevice) return {};
  return invalid_argument(call + "memory is not device memory");
}

}  // namespace

Result<std::unique_ptr<RowSelector>> make_cuda_row_selector(const CudaRowSelectorOptions& options) {
  PIKV_TRY(check(options));
  const DeviceScope scope(options.device);
  PIKV_TRY(scope.status());
  const SelectionLimits limits{.max_rows = options.max_rows, .max_segments = options.max_segments};
  std::size_t temp_bytes = 0;
  PIKV_TRY(cuda_status(kernels::query_select_temp_bytes(limits.max_rows, limits.max_segments, &temp_bytes),
                       "size of the selection workspace"));
  Carver sizes(nullptr);
  (void)carve(sizes, limits, temp_bytes);

  // A resource aligns to 64 bytes at least, so there is room to start at the next 256.
  const StreamRef stream = StreamRef::legacy_default();
  std::size_t room_bytes = sizes.used_bytes() + Carver::kAlignment;
  Result<Buffer> memory = Buffer::allocate(room_bytes, *options.memory, stream);
  if (!memory.ok()) return memory.status();
  // From here on any stream may use it.
  PIKV_TRY(cuda_status(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize"));
  void* begin = memory->data();
  (void)std::align(Carver::kAlignment, sizes.used_bytes(), begin, room_bytes);
  Carver carver(static_cast<std::byte*>(begin));
  const kernels::SelectWorkspace workspace = carve(carver, limits, temp_bytes);
  std::unique_ptr<RowSelector> selector(new (std::nothrow)
                                            CudaRowSelector(options.device, limits, std::move(*memory), workspace));
  if (selector == nullptr) return out_of_memory("make_cuda_row_selector: no host memory for its state");
  return selector;
}

}  // namespace v0
}  // namespace pikv
