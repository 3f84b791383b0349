// What a session reads: rows of pages and chunks as fp32 on the host, as they are and as pikv turns them.
#include "check/probe_session.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

KvTransfer ProbeSession::transfer(const KvRun& run, const KvView& target, const RopeTableView& rope) const {
  return {.geometry = model_.geometry,
          .runs = {&run, 1},
          .target = target,
          .rope = rope,
          .layer_begin = 0,
          .layer_end = model_.geometry.num_layers};
}

Result<KvView> ProbeSession::scratch_rows(DType dtype, std::int64_t count, Buffer& owner) {
  KvGeometry geometry = model_.geometry;
  geometry.dtype = dtype;
  Result<Buffer> buffer = Buffer::allocate(static_cast<std::size_t>(geometry.bytes_per_token() * count),
                                           backend_.memory_resource(), stream_);
  if (!buffer.ok()) return buffer.status();
  owner = std::move(*buffer);
  return KvView{.layout = slab_layout(geometry, count),
                .k_base = owner.data(),
                .v_base = owner.data() + slab_value_offset(geometry, count) * dtype_bytes(dtype),
                .num_slots = count,
                .space = backend_.caps().space};
}

Result<HostRows> ProbeSession::read(const ConstKvView& source, const SlotMap& slots) {
  const std::int64_t count = slots.num_tokens();
  Buffer memory;
  Result<KvView> target = scratch_rows(DType::kFloat32, count, memory);  // which holds every type's numbers
  if (!target.ok()) return target.status();
  const KvRun run{.source = source, .source_slots = slots, .target_slots = SlotMap::consecutive(0, count)};
  PIKV_TRY(backend_.reanchor_async(transfer(run, *target, RopeTableView{}), stream_));
  HostRows rows{.geometry = model_.geometry,
                .num_tokens = count,
                .values = std::vector<float>(memory.size_bytes() / sizeof(float))};
  PIKV_TRY(backend_.copy_async(rows.values.data(), memory.data(), memory.size_bytes(), stream_));
  PIKV_TRY(backend_.synchronize(stream_));
  return rows;
}

Result<HostRows> ProbeSession::read_chunk(const ChunkHandle& chunk) {
  return read(chunk->view(), SlotMap::consecutive(0, chunk->view().num_slots));
}

Result<HostRows> ProbeSession::read_pages(Position first, std::int64_t count) {
  return read(pikv::as_const(cache_), slots_of(first, count));
}

Result<HostRows> ProbeSession::turned(const ConstKvView& source, std::int64_t count, Position first) {
  Buffer memory;
  Result<KvView> target = scratch_rows(cache_.layout.dtype, count, memory);
  if (!target.ok()) return target.status();
  const KvRun run{.source = source,
                  .source_slots = SlotMap::consecutive(0, count),
                  .target_slots = SlotMap::consecutive(0, count),
                  .positions = PositionMap::consecutive(first)};
  PIKV_TRY(backend_.reanchor_async(transfer(run, *target, reachable_table_->view()), stream_));
  return read(pikv::as_const(*target), SlotMap::consecutive(0, count));
}

Result<KvView> ProbeSession::turn_back(Position first, std::int64_t count, Buffer& owner) {
  Result<KvView> target = scratch_rows(model_.geometry.dtype, count, owner);
  if (!target.ok()) return target;
  const KvRun run{.source = pikv::as_const(cache_),
                  .source_slots = slots_of(first, count),
                  .target_slots = SlotMap::consecutive(0, count),
                  .positions = PositionMap::consecutive(first)};
  PIKV_TRY(backend_.unanchor_async(transfer(run, *target, reachable_table_->view()), stream_));
  return target;
}

Result<HostRows> ProbeSession::round_trip(Position first, std::int64_t count) {
  Buffer memory;
  Result<KvView> back = turn_back(first, count, memory);
  if (!back.ok()) return back.status();
  return turned(pikv::as_const(*back), count, first);
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
