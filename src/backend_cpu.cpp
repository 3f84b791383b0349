#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "cpu/encode_slab.hpp"
#include "cpu/mover.hpp"
#include "cpu/select_row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "pikv/backend.hpp"
#include "transfer_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// Work smaller than this is done before another thread would have woken up.
constexpr std::int64_t kParallelFromBytes = std::int64_t{64} << 10;
constexpr std::int64_t kCopyTaskBytes = std::int64_t{4} << 20;

/// Half of the last-level cache: what is written beyond that would only push out what the engine reads next.
std::int64_t find_stream_threshold() noexcept {
  constexpr std::int64_t kUnknownCacheBytes = std::int64_t{16} << 20;
#ifdef _SC_LEVEL3_CACHE_SIZE
  const std::int64_t cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return (cache_bytes > 0 ? cache_bytes : kUnknownCacheBytes) / 2;
#else
  return kUnknownCacheBytes / 2;
#endif
}

/// Everything is done when a call returns, so an event has always happened.
class CpuEvent final : public Event {};

class CpuStream final : public Stream {
 public:
  StreamRef ref() const noexcept override { return StreamRef::legacy_default(); }
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options)
      : pool_(options.num_threads),
        kernels_(*cpu::supported_row_kernels().back()),
        stream_from_bytes_(options.stream_from_bytes > 0 ? options.stream_from_bytes : find_stream_threshold()) {}

  BackendCaps caps() const noexcept override {
    return BackendCaps{.name = "cpu", .space = MemorySpace::kHost, .asynchronous = false};
  }

  MemoryResource& memory_resource() noexcept override { return host_memory_resource(); }

  Status reanchor_async(const KvTransfer& transfer, StreamRef /*stream*/) override {
    return move(transfer, cpu::Direction::kReanchor);
  }

  Status unanchor_async(const KvTransfer& transfer, StreamRef /*stream*/) override {
    return move(transfer, cpu::Direction::kUnanchor);
  }

  Status encode_async(const SlabEncode& encode, StreamRef /*stream*/) override {
    PIKV_TRY(validate(encode, caps()));
    if (encode.target.encoding.format == SlabFormat::kPlain) return encode_plain(encode);
    return run(cpu::SlabEncoder(encode, kernels_));
  }

  Status copy_async(void* target, const void* source, std::size_t size_bytes, StreamRef /*stream*/) override {
    if (size_bytes == 0) return {};
    if (target == nullptr) return invalid_argument("copy: target is null");
    if (source == nullptr) return invalid_argument("copy: source is null");
    const auto to = reinterpret_cast<std::uintptr_t>(target);
    const auto from = reinterpret_cast<std::uintptr_t>(source);
    if ((to > from ? to - from : from - to) < size_bytes) return invalid_argument("copy: source and target overlap");

    const auto total = static_cast<std::int64_t>(size_bytes);
    pool_.parallel_for((total + kCopyTaskBytes - 1) / kCopyTaskBytes, [&](std::int64_t task_index, std::int32_t) {
      const std::int64_t begin = task_index * kCopyTaskBytes;
      std::memcpy(static_cast<std::byte*>(target) + begin, static_cast<const std::byte*>(source) + begin,
                  static_cast<std::size_t>(std::min(kCopyTaskBytes, total - begin)));
    });
    return {};
  }

  Result<std::unique_ptr<Stream>> create_stream() override { return std::unique_ptr<Stream>(new CpuStream); }
  Result<std::unique_ptr<Event>> create_event() override { return std::unique_ptr<Event>(new CpuEvent); }
  Status record(Event& event, StreamRef /*stream*/) override { return check_event(event); }
  Status wait(const Event& event, StreamRef /*stream*/) override { return check_event(event); }
  Status synchronize(StreamRef /*stream*/) override { return {}; }

 private:
  static Status check_event(const Event& event) {
    if (dynamic_cast<const CpuEvent*>(&event) != nullptr) return {};
    return invalid_argument("event was made by another backend");
  }

  Status move(const KvTransfer& transfer, cpu::Direction direction) {
    PIKV_TRY(validate(transfer, caps()));
    if (direction == cpu::Direction::kUnanchor) PIKV_TRY(detail::check_unanchor(transfer));
    try {
      return run(cpu::Mover(transfer, direction, kernels_, stream_from_bytes_));
    } catch (const std::bad_alloc&) {
      return out_of_memory("transfer: no memory for its list of blocks");
    }
  }

  Status encode_plain(const SlabEncode& encode) {
    const KvRun run{.source = encode.source,
                    .source_slots = encode.source_slots,
                    .target_slots = SlotMap::consecutive(0, encode.target.num_tokens),
                    .positions = encode.positions};
    return move({.geometry = encode.geometry,
                 .runs = {&run, 1},
                 .target = plain_view(encode.geometry, encode.target),
                 .rope = encode.rope,
                 .layer_begin = encode.layer_begin,
                 .layer_end = encode.layer_end},
                encode.rope.turns() ? cpu::Direction::kUnanchor : cpu::Direction::kReanchor);
  }

  /// All tasks of a Mover or SlabEncoder.
  template <class Work>
  Status run(const Work& work) {
    try {
      const std::int64_t scratch_floats = work.scratch_bytes() / std::int64_t{sizeof(float)};
      std::vector<float> scratch(static_cast<std::size_t>(scratch_floats * pool_.num_workers()));
      const auto body = [&](std::int64_t task_index, std::int32_t worker_index) {
        work.run(task_index, reinterpret_cast<std::byte*>(scratch.data() + worker_index * scratch_floats));
      };
      if (work.num_bytes() >= kParallelFromBytes) {
        pool_.parallel_for(work.num_tasks(), body);
      } else {
        for (std::int64_t task_index = 0; task_index < work.num_tasks(); ++task_index) body(task_index, 0);
      }
      return {};
    } catch (const std::bad_alloc&) {
      return out_of_memory("cpu backend: no memory for the rows that its threads work on");
    }
  }

  cpu::ThreadPool pool_;
  const cpu::RowKernels& kernels_;
  std::int64_t stream_from_bytes_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace v0
}  // namespace pikv
