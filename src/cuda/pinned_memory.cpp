#include <cuda_runtime_api.h>

#include <algorithm>
#include <list>
#include <map>
#include <new>

#include "cuda/error.hpp"
#include "detail/thread_annotations.hpp"
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::size_t kGranule = 256;

std::size_t round_up(std::size_t size_bytes) noexcept { return (size_bytes + kGranule - 1) / kGranule * kGranule; }

/// First fit over page-locked blocks; neighbours within a block are joined when both are free. What is given back while
/// its stream still works waits aside until the stream has passed.
class PinnedMemory final : public MemoryResource {
 public:
  explicit PinnedMemory(std::size_t block_bytes) noexcept : block_bytes_(round_up(block_bytes)) {}
  ~PinnedMemory() override {
    for (const Waiting& waiting : waiting_) (void)cudaEventDestroy(waiting.event);
    for (std::byte* block : blocks_) (void)cudaFreeHost(block);
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  MemorySpace space() const noexcept override { return MemorySpace::kPinnedHost; }

  Result<void*> allocate_async(std::size_t size_bytes, StreamRef /*stream*/) override try {
    if (size_bytes == 0) return invalid_argument("CUDA pinned memory: size must be positive");
    if (size_bytes > SIZE_MAX - block_bytes_ - kGranule) return out_of_memory("CUDA pinned memory: size overflows");
    size_bytes = round_up(size_bytes);
    detail::MutexLock lock(mutex_);
    take_back(/*wait=*/false);
    if (void* data = take_free(size_bytes)) return data;
    Status added = add_block(std::max(size_bytes, block_bytes_));
    if (!added.ok()) {
      take_back(/*wait=*/true);
      if (void* data = take_free(size_bytes)) return data;
      return added;
    }
    return take_free(size_bytes);
  } catch (const std::bad_alloc&) {
    return out_of_memory("CUDA pinned memory: no memory for its bookkeeping");
  }

  void deallocate_async(void* data, std::size_t size_bytes, StreamRef stream) noexcept override try {
    const auto cuda_stream = static_cast<cudaStream_t>(stream.handle());
    const Range range{static_cast<std::byte*>(data), round_up(size_bytes)};
    detail::MutexLock lock(mutex_);
    if (cudaStreamQuery(cuda_stream) == cudaSuccess) return add_free(range);
    (void)cudaGetLastError();
    cudaEvent_t event = nullptr;
    if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess &&
        cudaEventRecord(event, cuda_stream) == cudaSuccess) {
      waiting_.push_back({range, event});
    } else {  // no way to know when it is at rest: it stays out of use until the resource goes
      (void)cudaGetLastError();
    }
  } catch (const std::bad_alloc&) {
    // Likewise.
  }

 private:
  struct Range {
    std::byte* begin;
    std::size_t size_bytes;
  };
  struct Waiting {
    Range range;
    cudaEvent_t event;
  };

  [[nodiscard]] Status add_block(std::size_t size_bytes) PIKV_REQUIRES(mutex_) {
    void* data = nullptr;
    PIKV_TRY(detail::cuda_status(cudaHostAlloc(&data, size_bytes, cudaHostAllocPortable), "cudaHostAlloc"));
    blocks_.push_back(static_cast<std::byte*>(data));
    free_.emplace(blocks_.back(), size_bytes);
    return {};
  }

  [[nodiscard]] void* take_free(std::size_t size_bytes) PIKV_REQUIRES(mutex_) {
    const auto found =
        std::find_if(free_.begin(), free_.end(), [&](const auto& range) { return range.second >= size_bytes; });
    if (found == free_.end()) return nullptr;
    const auto [begin, free_bytes] = *found;
    free_.erase(found);
    if (free_bytes > size_bytes) free_.emplace(begin + size_bytes, free_bytes - size_bytes);
    return begin;
  }

  void add_free(const Range& range) PIKV_REQUIRES(mutex_) {
    auto place = free_.emplace(range.begin, range.size_bytes).first;
    const auto joins = [&](auto lower, auto upper) {
      // Blocks may happen to lie side by side, but are given back one by one.
      return lower->first + lower->second == upper->first &&
             std::find(blocks_.begin(), blocks_.end(), upper->first) == blocks_.end();
    };
    if (const auto next = std::next(place); next != free_.end() && joins(place, next)) {
      place->second += next->second;
      free_.erase(next);
    }
    if (place != free_.begin() && joins(std::prev(place), place)) {
      std::prev(place)->second += place->second;
      free_.erase(place);
    }
  }

  void take_back(bool wait) PIKV_REQUIRES(mutex_) {
    for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
      const cudaError_t state = wait ? cudaEventSynchronize(waiting->event) : cudaEventQuery(waiting->event);
      if (state != cudaSuccess) {
        (void)cudaGetLastError();
        ++waiting;
        continue;
      }
      (void)cudaEventDestroy(waiting->event);
      add_free(waiting->range);
      waiting = waiting_.erase(waiting);
    }
  }

  const std::size_t block_bytes_;
  detail::Mutex mutex_;
  std::vector<std::byte*> blocks_ PIKV_GUARDED_BY(mutex_);
  std::map<std::byte*, std::size_t> free_ PIKV_GUARDED_BY(mutex_);
  std::list<Waiting> waiting_ PIKV_GUARDED_BY(mutex_);
};

}  // namespace

Result<std::unique_ptr<MemoryResource>> make_cuda_pinned_memory(std::size_t block_bytes) {
  if (block_bytes == 0 || block_bytes > (SIZE_MAX >> 1)) {
    return invalid_argument("CUDA pinned memory: block_bytes is " + std::to_string(block_bytes));
  }
  int num_devices = 0;
  PIKV_TRY(detail::cuda_status(cudaGetDeviceCount(&num_devices), "cudaGetDeviceCount"));
  return std::unique_ptr<MemoryResource>(std::make_unique<PinnedMemory>(block_bytes));
}

}  // namespace v0
}  // namespace pikv
