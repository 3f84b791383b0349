#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "pikv/backend.hpp"

namespace pikv {
inline namespace v0 {

Result<RopeTable> copy_table(const RopeTable& table, Backend& backend, MemoryResource& memory) {
  const BackendCaps caps = backend.caps();
  if (caps.space == MemorySpace::kHost) return table;
  if (memory.space() != caps.space && memory.space() != MemorySpace::kPinnedHost) {
    return invalid_argument("copy_table: memory is out of reach of the " + std::string(caps.name) + " backend");
  }
  const RopeTableView view = table.view();
  const std::size_t size_bytes =
      static_cast<std::size_t>(view.num_positions) * 2 * static_cast<std::size_t>(view.half_dim) * sizeof(float);

  Result<std::unique_ptr<Stream>> stream = backend.create_stream();
  if (!stream.ok()) return stream.status();
  const StreamRef ref = (*stream)->ref();
  Result<Buffer> buffer = Buffer::allocate(size_bytes, memory, ref);
  if (!buffer.ok()) return buffer.status();
  PIKV_TRY(backend.copy_async(buffer->data(), view.values, size_bytes, ref));
  PIKV_TRY(backend.synchronize(ref));
  buffer->release_after(StreamRef::legacy_default());  // this stream will be gone by then

  auto owner = std::make_shared<const Buffer>(std::move(*buffer));
  const auto* const values = reinterpret_cast<const float*>(owner->data());
  return table.with_values(std::move(owner), values);
}

}  // namespace v0
}  // namespace pikv
