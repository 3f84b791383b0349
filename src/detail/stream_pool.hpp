// Streams to be had for a while, so that calls which run together do not share one.
#pragma once

#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "detail/thread_annotations.hpp"
#include "pikv/backend.hpp"

namespace pikv::detail {

/// Thread-safe. Leases keep the pool alive; the backend must outlive both.
class StreamPool : public std::enable_shared_from_this<StreamPool> {
 public:
  explicit StreamPool(Backend& backend) noexcept : backend_(backend) {}

  /// A stream that nobody else uses. Whoever holds it has synchronised it before letting go.
  class Lease {
   public:
    Lease(Lease&&) noexcept = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (stream_ != nullptr) pool_->give_back(std::move(stream_));
    }
    [[nodiscard]] StreamRef ref() const noexcept { return stream_->ref(); }

   private:
    friend class StreamPool;
    Lease(std::shared_ptr<StreamPool> pool, std::unique_ptr<Stream> stream) noexcept
        : pool_(std::move(pool)), stream_(std::move(stream)) {}
    std::shared_ptr<StreamPool> pool_;
    std::unique_ptr<Stream> stream_;
  };

  [[nodiscard]] Result<Lease> lease() {
    {
      MutexLock lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Stream> stream = std::move(idle_.back());
        idle_.pop_back();
        return Lease(shared_from_this(), std::move(stream));
      }
    }
    Result<std::unique_ptr<Stream>> stream = backend_.create_stream();
    if (!stream.ok()) return stream.status();
    return Lease(shared_from_this(), std::move(*stream));
  }

 private:
  void give_back(std::unique_ptr<Stream> stream) noexcept {
    MutexLock lock(mutex_);
    try {
      idle_.push_back(std::move(stream));
    } catch (const std::bad_alloc&) {
      // One stream fewer to be had again.
    }
  }

  Backend& backend_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Stream>> idle_ PIKV_GUARDED_BY(mutex_);
};

}  // namespace pikv::detail
