// A mutex, its lock and a condition variable that carry clang's thread-safety annotations, so that -Wthread-safety
// proves which members are touched under which lock. The standard library's own types carry none.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define PIKV_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define PIKV_THREAD_ANNOTATION(x)
#endif

#define PIKV_CAPABILITY(name) PIKV_THREAD_ANNOTATION(capability(name))
#define PIKV_SCOPED_CAPABILITY PIKV_THREAD_ANNOTATION(scoped_lockable)
#define PIKV_GUARDED_BY(mutex) PIKV_THREAD_ANNOTATION(guarded_by(mutex))
#define PIKV_REQUIRES(...) PIKV_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define PIKV_EXCLUDES(...) PIKV_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define PIKV_ACQUIRE(...) PIKV_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define PIKV_RELEASE(...) PIKV_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define PIKV_NO_THREAD_SAFETY_ANALYSIS PIKV_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace pikv::detail {

class PIKV_CAPABILITY("mutex") Mutex {
 public:
  void lock() PIKV_ACQUIRE() { mutex_.lock(); }
  void unlock() PIKV_RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class PIKV_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) PIKV_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() PIKV_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  /// Lets go of the mutex while asleep. Wakes up spuriously too: call it in a loop over the condition.
  void wait(Mutex& mutex) PIKV_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  void notify_all() noexcept { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace pikv::detail
