#include "lab/memory_copies.hpp"

#include <cstring>
#include <vector>

#include "lab/device_copies.hpp"
#include "mini_engine/simd/kernels.hpp"

namespace lab {

using mini_engine::BFloat16;
using mini_engine::CacheMemory;
using mini_engine::Precision;

void read_elements(ElementKind kind, const void* from, std::int64_t count, float* to) {
  const auto num_bytes = static_cast<std::size_t>(count * kind.size_bytes());
  if (kind.precision == Precision::kFloat32) {
    if (kind.memory == CacheMemory::kHost) {
      std::memcpy(to, from, num_bytes);
    } else {
      copy_from_device(from, to, num_bytes);
    }
    return;
  }
  std::vector<BFloat16> copied;
  const auto* elements = static_cast<const BFloat16*>(from);
  if (kind.memory == CacheMemory::kDevice) {
    copied.resize(static_cast<std::size_t>(count));
    copy_from_device(from, copied.data(), num_bytes);
    elements = copied.data();
  }
  mini_engine::simd::kernels().expand_bf16(elements, to, count);
}

void write_elements(ElementKind kind, const float* from, std::int64_t count, void* to) {
  const auto num_bytes = static_cast<std::size_t>(count * kind.size_bytes());
  const void* rounded = from;
  std::vector<BFloat16> narrow;
  if (kind.precision == Precision::kBFloat16) {
    narrow.resize(static_cast<std::size_t>(count));
    mini_engine::simd::kernels().round_bf16(from, narrow.data(), count);
    rounded = narrow.data();
  }
  if (kind.memory == CacheMemory::kHost) {
    std::memcpy(to, rounded, num_bytes);
  } else {
    copy_to_device(rounded, to, num_bytes);
  }
}

}  // namespace lab
