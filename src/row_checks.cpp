#include "row_checks.hpp"

#include <cmath>

#include "transfer_checks.hpp"

namespace pikv::detail {

Status check_row_geometry(const std::string& owner, KvGeometry geometry) {
  geometry.dtype = DType::kFloat32;  // views name their own
  const Status status = validate(geometry);
  if (!status.ok()) return Status(status.code(), owner + "geometry: " + std::string(status.message()));
  if (geometry.head_dim <= kMaxHeadDim) return {};
  return unsupported(owner + "geometry.head_dim is " + std::to_string(geometry.head_dim) + ", at most " +
                     std::to_string(kMaxHeadDim) + " are supported");
}

Status check_layer(const std::string& owner, std::int32_t layer, const KvGeometry& geometry) {
  if (layer >= 0 && layer < geometry.num_layers) return {};
  return refuse(owner + "layer", layer, "in [0, " + std::to_string(geometry.num_layers) + ")");
}

Status check_rows_view(const std::string& field, const ConstKvView& view, const KvGeometry& geometry,
                       const BackendCaps& caps) {
  if (view.layout.dtype == DType::kFloat8E4M3) {
    return unsupported(field + ".layout.dtype is " + dtype_name(view.layout.dtype) +
                       ", in which rows are not computed on");
  }
  return check_view(field, view, geometry, caps);
}

Status check_row_map(const std::string& field, const SlotMap& map, std::int64_t num_slots) {
  PIKV_TRY(check_map(field, map, num_slots));
  if (map.num_tokens() <= kMaxRows) return {};
  return refuse(field + ".num_tokens", map.num_tokens(), "at most " + std::to_string(kMaxRows));
}

Status check_finite(const std::string& field, float value) {
  if (std::isfinite(value)) return {};
  return invalid_argument(field + " is " + std::to_string(value) + ", must be finite");
}

Status check_slots(const std::string& field, const SlotMap& map, std::int64_t num_slots) {
  PIKV_TRY(check_pages(field, map, num_slots));
  if (map.kind() != SlotMap::Kind::kPerToken) return {};
  for (std::int64_t i = 0; i < map.num_tokens(); ++i) {
    const Slot slot = map.slots()[i];
    if (slot >= 0 && slot < num_slots) continue;
    return refuse(field + ".slots[" + std::to_string(i) + "]", slot,
                  "within the view's " + std::to_string(num_slots) + " slots");
  }
  return {};
}

ConstKvView single_layer(const ConstKvView& view) noexcept {
  ConstKvView single = view;
  single.layout.k.layer = single.layout.v.layer = 0;
  single.k_layers = single.v_layers = nullptr;
  return single;
}

}  // namespace pikv::detail
