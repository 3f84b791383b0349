#include "pikv/slab.hpp"

#include <cstdint>
#include <limits>
#include <string>

namespace pikv {
inline namespace v0 {
namespace {

/// More bytes than any format needs for one channel of one token and layer, keys and values, scales and paddings
/// included.
constexpr std::int64_t kMaxBytesPerChannel = 512;

}  // namespace

Status validate(const ConstSlabView& slab, const KvGeometry& geometry) {
  PIKV_TRY(validate(geometry));
  const SlabFormat format = slab.encoding.format;
  if (format != SlabFormat::kPlain && format != SlabFormat::kFloat8 && format != SlabFormat::kInt8 &&
      format != SlabFormat::kInt4) {
    return invalid_argument("SlabView: encoding.format is " + std::to_string(static_cast<int>(format)) +
                            ", must be an enumerator of SlabFormat");
  }
  if (slab.data == nullptr) return invalid_argument("SlabView: data is null");
  if (slab.num_tokens <= 0) {
    return invalid_argument("SlabView: num_tokens is " + std::to_string(slab.num_tokens) + ", must be positive");
  }
  const std::int64_t channels = std::int64_t{geometry.num_layers} * geometry.num_kv_heads * geometry.head_dim;
  if (slab.num_tokens > std::numeric_limits<std::int64_t>::max() / kMaxBytesPerChannel / channels) {
    return invalid_argument("SlabView: num_tokens is " + std::to_string(slab.num_tokens) +
                            ", must be small enough that 63 bits can count the bytes");
  }
  const std::int64_t alignment = format == SlabFormat::kPlain ? dtype_bytes(geometry.dtype) : kSlabAlignment;
  if (reinterpret_cast<std::uintptr_t>(slab.data) % static_cast<std::uintptr_t>(alignment) != 0) {
    return invalid_argument("SlabView: data is not aligned to " + std::to_string(alignment) + " bytes");
  }
  return {};
}

}  // namespace v0
}  // namespace pikv
