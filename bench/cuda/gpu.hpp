// What the benchmarks of the library's own kernels share: a backend, memory, timing by events.
#pragma once

#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "harness.hpp"
#include "pikv/cuda.hpp"
#include "spin.hpp"

namespace pikv_bench {

/// A failure ends the program: numbers measured after one would mean nothing.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
inline void check(const pikv::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.to_string().c_str());
  std::exit(1);
}

/// Device memory filled with random bits that are finite normal numbers in every 16-bit type, and any code in 8 bits.
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size_bytes) : size_bytes_(size_bytes) {
    check(cudaMalloc(&data_, size_bytes), "cudaMalloc");
    std::vector<std::uint16_t> noise(std::size_t{1} << 20);
    std::uint32_t state = 12345;
    for (std::uint16_t& bits : noise) {
      state = state * 1664525U + 1013904223U;
      bits = static_cast<std::uint16_t>((state >> 16 & 0x83FFU) | 0x3C00U);  // +-1 to 2 in fp16; small in bf16
    }
    const std::size_t piece = noise.size() * 2;
    for (std::size_t at = 0; at < size_bytes; at += piece) {
      check(cudaMemcpy(static_cast<std::byte*>(data_) + at, noise.data(), std::min(piece, size_bytes - at),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy");
    }
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }
  [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t size_bytes_;
};

/// A stream and the time between two points on it.
///
/// Device time: a kernel that spins holds the stream until all the work has been queued, so that what the host takes to
/// queue it does not count. Eager time: as an engine sees it whose stream is idle; both matter, for different
/// questions. Before either, the second-level cache is filled with what nobody needs: work must not pay for what
/// the work before it left unwritten.
class Stopwatch {
 public:
  Stopwatch() : scratch_(kScratchBytes) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
    (void)cudaStreamDestroy(stream_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  /// Seconds that what `work` queues takes on the device.
  template <class Work>
  [[nodiscard]] double device_seconds(const Work& work) {
    check(sweep(scratch_.data(), scratch_.size_bytes(), stream_), "sweep");
    check(spin(kSpinMicroseconds, stream_), "spin");
    return seconds(work);
  }
  /// Seconds from an idle stream to the end of what `work` queues.
  template <class Work>
  [[nodiscard]] double eager_seconds(const Work& work) {
    check(sweep(scratch_.data(), scratch_.size_bytes(), stream_), "sweep");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    return seconds(work);
  }

 private:
  template <class Work>
  [[nodiscard]] double seconds(const Work& work) {
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    work();
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

  static constexpr int kSpinMicroseconds = 150;  // longer than queueing any work here takes
  static constexpr std::size_t kScratchBytes = std::size_t{128} << 20;
  DeviceArray scratch_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

/// main() of a benchmark of the library's own kernels, which work through a backend.
inline int run_backend_benchmarks(int argc, char** argv, const std::function<void(pikv::Backend&)>& register_all) {
  std::unique_ptr<pikv::Backend> backend;  // outlives the benchmarks
  return run_gpu_benchmarks(argc, argv, [&] {
    pikv::Result<std::unique_ptr<pikv::Backend>> made = pikv::make_cuda_backend();
    check(made.status(), "make_cuda_backend");
    backend = std::move(*made);
    register_all(*backend);
  });
}

}  // namespace pikv_bench
