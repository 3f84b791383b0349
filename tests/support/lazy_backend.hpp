// A backend that does nothing until it has to, and then what it is allowed to do in the worst order: for tests of code
// that orders work by streams and events. It computes with the CPU backend and reports a memory space of its own, so
// that code which forgets to bring host memory up is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "pikv/backend.hpp"

namespace test_support {

/// Which of the streams that could go on goes on.
enum class LazyOrder : std::uint8_t {
  kOldestFirst,  ///< the stream made first, as long as it can; the default stream counts as the oldest
  kNewestFirst,  ///< the stream made last, as long as it can
  kRandom,       ///< any, for one piece of work
};

/// Host memory that says it is a device's.
class FakeDeviceMemory final : public pikv::MemoryResource {
 public:
  [[nodiscard]] pikv::MemorySpace space() const noexcept override { return pikv::MemorySpace::kDevice; }
  [[nodiscard]] pikv::Result<void*> allocate_async(std::size_t size_bytes, pikv::StreamRef stream) override;
  void deallocate_async(void* data, std::size_t size_bytes, pikv::StreamRef stream) noexcept override;
  [[nodiscard]] std::int64_t live_bytes() const { return live_bytes_; }
  [[nodiscard]] int num_allocations() const { return num_allocations_; }

 private:
  std::int64_t live_bytes_ = 0;
  int num_allocations_ = 0;
};

/// Work runs at synchronize() alone: streams are chosen by the order until the one that is waited for has nothing left.
/// What may be read before a call returns is read then, everything else when the work runs. One thread.
class LazyBackend final : public pikv::Backend {
 public:
  explicit LazyBackend(LazyOrder order, std::uint32_t seed = 1);
  ~LazyBackend() override;

  [[nodiscard]] pikv::BackendCaps caps() const noexcept override;
  [[nodiscard]] pikv::MemoryResource& memory_resource() noexcept override { return memory_; }
  [[nodiscard]] const FakeDeviceMemory& memory() const { return memory_; }
  [[nodiscard]] pikv::Status reanchor_async(const pikv::KvTransfer& transfer, pikv::StreamRef stream) override;
  [[nodiscard]] pikv::Status unanchor_async(const pikv::KvTransfer& transfer, pikv::StreamRef stream) override;
  [[nodiscard]] pikv::Status encode_async(const pikv::SlabEncode& encode, pikv::StreamRef stream) override;
  [[nodiscard]] pikv::Status copy_async(void* target, const void* source, std::size_t size_bytes,
                                        pikv::StreamRef stream) override;
  [[nodiscard]] pikv::Result<std::unique_ptr<pikv::Stream>> create_stream() override;
  [[nodiscard]] pikv::Result<std::unique_ptr<pikv::Event>> create_event() override;
  [[nodiscard]] pikv::Status record(pikv::Event& event, pikv::StreamRef stream) override;
  [[nodiscard]] pikv::Status wait(const pikv::Event& event, pikv::StreamRef stream) override;
  /// kInternal when the streams wait for each other in a circle, or work that was accepted has failed.
  [[nodiscard]] pikv::Status synchronize(pikv::StreamRef stream) override;

  /// Queues `work` like any other.
  void enqueue(std::function<void()> work, pikv::StreamRef stream);
  [[nodiscard]] std::int64_t num_copied_bytes() const { return num_copied_bytes_; }
  [[nodiscard]] int num_synchronizes() const { return num_synchronizes_; }

 private:
  /// How often an event has happened. Outlives the event while work refers to it.
  struct Happened {
    std::uint64_t count = 0;
  };
  struct LazyEvent;
  struct LazyStream;
  struct Work {
    std::shared_ptr<const Happened> after{};  // null: nothing
    std::uint64_t after_count = 0;
    std::function<void()> run{};  // may be empty
  };
  struct Queue {
    std::deque<Work> work;
  };

  [[nodiscard]] Queue& queue_of(pikv::StreamRef stream);
  void push(pikv::StreamRef stream, Work work) { queue_of(stream).work.push_back(std::move(work)); }
  [[nodiscard]] pikv::Status move(const pikv::KvTransfer& transfer, bool reanchor, pikv::StreamRef stream);
  /// One piece of work of the stream that the order chooses; false when none can go on.
  [[nodiscard]] bool run_one();
  void note(const pikv::Status& status);

  const LazyOrder order_;
  std::mt19937 random_;
  FakeDeviceMemory memory_;
  std::unique_ptr<pikv::Backend> cpu_;
  std::vector<std::shared_ptr<Queue>> queues_;  // the default stream's first; those of streams that are gone stay
  pikv::Status failure_;
  std::int64_t num_copied_bytes_ = 0;
  int num_synchronizes_ = 0;
};

}  // namespace test_support
