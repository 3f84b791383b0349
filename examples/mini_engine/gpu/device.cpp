#include "device.hpp"

#include <string>

#include "mini_engine/error.hpp"

namespace mini_engine::gpu {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // an error that was reported is no longer the last one
  throw Error(std::string(what) + ": " + cudaGetErrorString(error));
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
Stream::~Stream() { (void)cudaStreamDestroy(stream_); }
void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

Event::Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
Event::~Event() { (void)cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
void Event::synchronize() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
float Event::milliseconds_since(const Event& earlier) const {
  synchronize();
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "cudaEventElapsedTime");
  return milliseconds;
}

PinnedBuffer::PinnedBuffer(std::size_t size_bytes) {
  if (const cudaError_t error = cudaMallocHost(&data_, size_bytes); error != cudaSuccess) {
    check(error, ("page-locked memory of " + std::to_string(size_bytes) + " bytes").c_str());
  }
}
PinnedBuffer::~PinnedBuffer() { (void)cudaFreeHost(data_); }

DeviceBuffer::~DeviceBuffer() { (void)cudaFree(data_); }

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  (void)cudaFree(data_);
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  return *this;
}

void DeviceBuffer::grow(std::size_t size_bytes) {
  if (size_bytes <= size_bytes_) return;
  (void)cudaFree(std::exchange(data_, nullptr));
  size_bytes_ = 0;
  if (const cudaError_t error = cudaMalloc(&data_, size_bytes); error != cudaSuccess) {
    check(error, ("device memory of " + std::to_string(size_bytes) + " bytes").c_str());
  }
  size_bytes_ = size_bytes;
}

void upload(void* target, const void* source, std::size_t size_bytes, cudaStream_t stream) {
  if (size_bytes == 0) return;
  check(cudaMemcpyAsync(target, source, size_bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

}  // namespace mini_engine::gpu
