#include "pikv/slab.hpp"
#include "pikv/tier.hpp"

namespace pikv {
inline namespace v0 {

ConstKvView Chunk::view() const noexcept { return is_lossy() ? ConstKvView{} : plain_view(geometry_, slab_view()); }

std::int64_t Chunk::footprint_bytes() const noexcept {
  return static_cast<std::int64_t>(slab_.size_bytes() + tokens_.size() * sizeof(TokenId)) + kBookkeepingBytes;
}

}  // namespace v0
}  // namespace pikv
