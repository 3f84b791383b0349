// The plain vocabulary of pikv.
//
// Shapes are written with fixed letters everywhere: L layers, T tokens, H KV heads, D head size, P pages, S page size.
// Strides are 64-bit counts of elements; byte counts say `bytes`; ranges are half-open.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/version.hpp"

namespace pikv {
inline namespace v0 {

using TokenId = std::uint32_t;

/// A RoPE position. Never negative in a valid call; signed so that a wrong subtraction is seen and refused.
using Position = std::int32_t;

/// Where a token's K and V stand in an engine's cache: page_index * page_size + index within the page.
using Slot = std::int64_t;

/// A token with this slot is not written (vLLM's -1 convention).
inline constexpr Slot kSkipSlot = -1;

enum class DType : std::uint8_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kFloat8E4M3 = 3,  ///< of engines' caches, with scales (KvScales); never of a geometry
};

[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int64_t dtype_bytes(DType dtype) noexcept {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kFloat8E4M3 ? 1 : 2;
}

[[nodiscard]] constexpr const char* dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat8E4M3:
      return "float8_e4m3";
  }
  return "unknown";
}

enum class MemorySpace : std::uint8_t { kHost, kPinnedHost, kDevice };

/// A stream of some backend: work queued on one stream runs in order. Does not own the stream. The CPU backend runs
/// everything before the call returns and accepts any StreamRef.
class StreamRef {
 public:
  /// The backend's default stream, said aloud; there is no default constructor.
  [[nodiscard]] static constexpr StreamRef legacy_default() noexcept { return StreamRef(nullptr); }
  [[nodiscard]] static constexpr StreamRef from_handle(void* handle) noexcept { return StreamRef(handle); }
  [[nodiscard]] constexpr void* handle() const noexcept { return handle_; }
  friend constexpr bool operator==(StreamRef, StreamRef) noexcept = default;

 private:
  explicit constexpr StreamRef(void* handle) noexcept : handle_(handle) {}
  void* handle_;
};

}  // namespace v0
}  // namespace pikv
