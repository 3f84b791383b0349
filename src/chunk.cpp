#include "detail/slab.hpp"
#include "pikv/tier.hpp"

namespace pikv {
inline namespace v0 {

ConstKvView Chunk::view() const noexcept {
  return detail::slab_view(geometry_, num_tokens(), slab_.data(), slab_.space());
}

std::int64_t Chunk::footprint_bytes() const noexcept {
  return static_cast<std::int64_t>(slab_.size_bytes() + tokens_.size() * sizeof(TokenId)) + kBookkeepingBytes;
}

}  // namespace v0
}  // namespace pikv
