#include "cuda/scored_rows.hpp"

#include "cuda/planes.hpp"

namespace pikv::detail {

kernels::ScoredRows scored_rows(const ConstKvView& view, const SlotMap& slots, std::int32_t layer) noexcept {
  kernels::ScoredRows rows{.k = plane_of(view.k_layer(layer), view.layout.k, view.layout.dtype),
                           .v = plane_of(view.v_layer(layer), view.layout.v, view.layout.dtype),
                           .kind = static_cast<kernels::SourceKind>(view.layout.dtype),
                           .slots = slots,
                           .table_page = divisor_of(slots.page_size()),
                           .page_size = divisor_of(view.layout.page_size),
                           .num_slots = view.num_slots};
  rows.k.layer_bytes = rows.v.layer_bytes = 0;
  return rows;
}

bool has_vectors(const kernels::Plane& plane, const kernels::ScoredRows& rows) noexcept {
  return plane.dim_bytes == dtype_bytes(static_cast<DType>(rows.kind)) &&
         is_aligned(plane, rows.page_size, kVectorBytes);
}

bool has_vectors(const kernels::ScoredRows& rows, const RopeTableView& rope, std::int32_t head_dim) noexcept {
  constexpr std::int32_t kChannels = kernels::kVectorChannels;
  if (head_dim % kChannels != 0 || rope.half_dim % kChannels != 0) return false;
  if (rope.turns() && !is_aligned(rope.values, kVectorBytes)) return false;
  return has_vectors(rows.k, rows) && has_vectors(rows.v, rows);
}

}  // namespace pikv::detail
