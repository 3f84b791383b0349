// Device memory and streams as values, and CUDA's errors as the engine's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace mini_engine::gpu {

/// Throws Error saying what failed and why.
void check(cudaError_t error, const char* what);

/// A stream of its own.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// A point in a stream's work, with its time.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const;
  /// Waits for this event; returns at once if it was never recorded.
  void synchronize() const;
  /// Waits for this event. Both must have been recorded.
  [[nodiscard]] float milliseconds_since(const Event& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// Page-locked host memory, uninitialised: copies out of it run beside the program.
class PinnedBuffer {
 public:
  /// Throws Error when there is not so much.
  explicit PinnedBuffer(std::size_t size_bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

/// Device memory, uninitialised. Grows by throwing away what it held; freeing waits for the device.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t size_bytes) { grow(size_bytes); }
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  /// At least `size_bytes`. Throws Error when the device has not so much.
  void grow(std::size_t size_bytes);
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }
  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

/// Queues a copy out of pageable host memory, which has been read when the call returns.
void upload(void* target, const void* source, std::size_t size_bytes, cudaStream_t stream);
template <class T>
void upload(DeviceBuffer& target, std::span<const T> source, cudaStream_t stream) {
  target.grow(source.size_bytes());
  upload(target.as<T>(), source.data(), source.size_bytes(), stream);
}

}  // namespace mini_engine::gpu
