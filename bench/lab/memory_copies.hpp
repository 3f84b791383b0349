// Copies between host memory and the memory that a model computes in, as fp32 on the host whatever it is there.
#pragma once

#include <cstdint>

#include "mini_engine/paged_cache.hpp"

namespace lab {

/// How elements lie in the memory that a model computes in.
struct ElementKind {
  mini_engine::CacheMemory memory = mini_engine::CacheMemory::kHost;
  mini_engine::Precision precision = mini_engine::Precision::kFloat32;

  [[nodiscard]] std::int64_t size_bytes() const {
    return precision == mini_engine::Precision::kFloat32 ? sizeof(float) : 2;
  }
};

/// from: [count] of `kind`; to: [count]. A copy out of device memory waits for all that the device has been given.
/// Throws mini_engine::Error for device memory in a build without CUDA.
void read_elements(ElementKind kind, const void* from, std::int64_t count, float* to);

/// The reverse, rounding to nearest even.
void write_elements(ElementKind kind, const float* from, std::int64_t count, void* to);

}  // namespace lab
