#include "lab/format_storage.hpp"

#include <algorithm>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_bridge.hpp"

namespace lab {
namespace {

void check(const pikv::Status& status) {
  if (!status.ok()) throw mini_engine::Error("pikv: " + status.to_string());
}

constexpr pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

pikv::ConstSlabView slab_view(const StoredChunk& chunk) {
  return {.data = chunk.slab.data(), .num_tokens = chunk.num_tokens, .encoding = {.format = chunk.arm.format}};
}

void copy_values(const pikv::KvGeometry& geometry, const KvRows& from, KvRows& to) {
  const std::int64_t part = from.num_tokens * geometry.num_kv_heads * geometry.head_dim;
  for (std::int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    std::copy_n(from.elements.begin() + (2 * layer + 1) * part, part, to.elements.begin() + (2 * layer + 1) * part);
  }
}

}  // namespace

FormatStorage::FormatStorage(const mini_engine::Model& model, int num_threads)
    : geometry_(mini_engine::kv_geometry(model.config(), pikv::DType::kFloat32)),
      table_(mini_engine::rope_table(model)),
      backend_(pikv::make_cpu_backend({.num_threads = num_threads})) {}

pikv::KvView FormatStorage::view(KvRows& rows) const {
  return pikv::plain_view(geometry_, pikv::SlabView{.data = reinterpret_cast<std::byte*>(rows.elements.data()),
                                                    .num_tokens = rows.num_tokens});
}

pikv::ConstKvView FormatStorage::view(const KvRows& rows) const {
  return pikv::plain_view(geometry_,
                          pikv::ConstSlabView{.data = reinterpret_cast<const std::byte*>(rows.elements.data()),
                                              .num_tokens = rows.num_tokens});
}

pikv::KvGeometry FormatStorage::geometry_of(const Arm& arm) const {
  pikv::KvGeometry geometry = geometry_;
  geometry.dtype = arm.plain_dtype;
  return geometry;
}

void FormatStorage::move(const pikv::KvGeometry& geometry, const pikv::KvRun& run, const pikv::KvView& target,
                         const pikv::RopeTableView& rope) const {
  check(backend_->reanchor_async({.geometry = geometry,
                                  .runs = {&run, 1},
                                  .target = target,
                                  .rope = rope,
                                  .layer_begin = 0,
                                  .layer_end = geometry.num_layers},
                                 kStream));
}

KvRows FormatStorage::turned(const KvRows& semantic, pikv::Position first) const {
  KvRows rows(geometry_, semantic.num_tokens);
  const pikv::SlotMap all = pikv::SlotMap::consecutive(0, semantic.num_tokens);
  move(geometry_,
       {.source = view(semantic),
        .source_slots = all,
        .target_slots = all,
        .positions = pikv::PositionMap::consecutive(first)},
       view(rows), table_.view());
  return rows;
}

StoredChunk FormatStorage::store(const KvRows& semantic, const Arm& arm, pikv::Position first) const {
  const pikv::KvGeometry geometry = geometry_of(arm);
  const std::int64_t slab_bytes =
      pikv::slab_sections(geometry, arm.format, semantic.num_tokens).slab_bytes(geometry.num_layers);
  pikv::Result<pikv::Buffer> slab =
      pikv::Buffer::allocate(static_cast<std::size_t>(slab_bytes), backend_->memory_resource(), kStream);
  check(slab.status());
  StoredChunk chunk{
      .arm = arm, .num_tokens = semantic.num_tokens, .first = first, .slab = std::move(*slab), .bf16 = nullptr};
  if (arm.values == Values::kInBf16) {
    chunk.bf16 = std::make_unique<StoredChunk>(store(semantic, kArms[kReferenceArm], first));
  }

  const auto encode = [&](const KvRows& rows) {
    check(backend_->encode_async(
        {.geometry = geometry,
         .source = view(rows),
         .source_slots = pikv::SlotMap::consecutive(0, rows.num_tokens),
         .target = {.data = chunk.slab.data(), .num_tokens = rows.num_tokens, .encoding = {.format = arm.format}},
         .layer_begin = 0,
         .layer_end = geometry.num_layers},
        kStream));
  };
  if (arm.frame == KeyFrame::kBeforeRope) {
    encode(semantic);
  } else {
    encode(turned(semantic, first));
  }
  return chunk;
}

KvRows FormatStorage::decode(const StoredChunk& chunk) const {
  KvRows decoded(geometry_, chunk.num_tokens);
  const pikv::SlotMap all = pikv::SlotMap::consecutive(0, chunk.num_tokens);
  move(geometry_of(chunk.arm), {.source = {}, .slab = slab_view(chunk), .source_slots = all, .target_slots = all},
       view(decoded), {});
  if (chunk.bf16 != nullptr) copy_values(geometry_, decode(*chunk.bf16), decoded);
  if (chunk.arm.frame == KeyFrame::kBeforeRope) return decoded;

  KvRows semantic(geometry_, chunk.num_tokens);
  const pikv::KvRun run{.source = view(std::as_const(decoded)),
                        .source_slots = all,
                        .target_slots = all,
                        .positions = pikv::PositionMap::consecutive(chunk.first)};
  check(backend_->unanchor_async({.geometry = geometry_,
                                  .runs = {&run, 1},
                                  .target = view(semantic),
                                  .rope = table_.view(),
                                  .layer_begin = 0,
                                  .layer_end = geometry_.num_layers},
                                 kStream));
  return semantic;
}

void FormatStorage::place(const StoredChunk& chunk, mini_engine::Sequence& sequence, std::int32_t first_row) const {
  pikv::KvRun run{.source = {},
                  .source_slots = pikv::SlotMap::consecutive(0, chunk.num_tokens),
                  .target_slots = mini_engine::row_slots(sequence).slice(first_row, chunk.num_tokens),
                  .positions = pikv::PositionMap::consecutive(first_row)};
  const pikv::KvView target = mini_engine::cache_view(sequence.cache());
  if (chunk.arm.frame == KeyFrame::kBeforeRope && chunk.bf16 == nullptr) {
    run.slab = slab_view(chunk);
    move(geometry_of(chunk.arm), run, target, table_.view());
  } else {
    const KvRows semantic = decode(chunk);
    run.source = view(semantic);
    move(geometry_, run, target, table_.view());
  }
}

}  // namespace lab
