#include "pikv/geometry.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::int64_t kMaxBytesPerToken = std::int64_t{1} << 40;

Status refuse(const char* owner, const std::string& field, std::int64_t value, const std::string& rule) {
  return invalid_argument(std::string(owner) + ": " + field + " is " + std::to_string(value) + ", must be " + rule);
}

/// One axis of a layout as the checks see it.
struct StridedAxis {
  const char* name;
  std::int64_t stride;
  std::int64_t length;
};
using StridedAxes = std::array<StridedAxis, 5>;

enum class LayerStride : std::uint8_t { kUsed, kIgnored };

StridedAxes axes_of(const AxisStrides& strides, const KvLayout& layout, const KvGeometry& geometry,
                    std::int64_t num_slots, LayerStride layer_stride) {
  const std::int64_t page_size = layout.page_size;
  const std::int64_t num_pages = num_slots / page_size + (num_slots % page_size != 0 ? 1 : 0);
  return {StridedAxis{"layer", strides.layer, layer_stride == LayerStride::kUsed ? geometry.num_layers : 1},
          StridedAxis{"page", strides.page, num_pages},
          StridedAxis{"token", strides.token, std::min(page_size, num_slots)},
          StridedAxis{"head", strides.head, geometry.num_kv_heads}, StridedAxis{"dim", strides.dim, geometry.head_dim}};
}

/// Signs, overflow and nesting of one side's strides; `side` is "k" or "v".
Status check_axes(const std::string& side, StridedAxes axes, std::int64_t element_bytes) {
  for (const StridedAxis& axis : axes) {
    if (axis.length <= 1) continue;
    if (axis.stride <= 0) {
      return refuse("KvLayout", side + "." + axis.name, axis.stride,
                    "positive along an axis of length " + std::to_string(axis.length));
    }
  }
  std::sort(axes.begin(), axes.end(), [](const StridedAxis& a, const StridedAxis& b) { return a.stride < b.stride; });
  std::int64_t reach = 0;  // largest offset that the axes seen so far can make
  const char* inner = "element";
  for (const StridedAxis& axis : axes) {
    if (axis.length <= 1) continue;
    if (axis.stride <= reach) {
      return refuse("KvLayout", side + "." + axis.name, axis.stride,
                    "above " + std::to_string(reach) + ", which its inner axes up to '" + inner + "' reach");
    }
    const std::int64_t steps = axis.length - 1;
    if (axis.stride > (std::numeric_limits<std::int64_t>::max() / element_bytes - reach - 1) / steps) {
      return refuse("KvLayout", side + "." + axis.name, axis.stride, "small enough that all offsets fit into 63 bits");
    }
    reach += axis.stride * steps;
    inner = axis.name;
  }
  return {};
}

/// Whether `delta` is a sum of n_i * stride_i with |n_i| < length_i. Requires: `axes` sorted by falling stride, nested.
bool is_difference(std::span<const StridedAxis> axes, std::int64_t delta) {
  while (!axes.empty() && axes.front().length <= 1) axes = axes.subspan(1);
  if (axes.empty()) return delta == 0;
  const StridedAxis& outer = axes.front();
  // The inner axes reach less than one outer stride either way, so only the two neighbouring multiples can serve.
  std::int64_t n = delta / outer.stride;
  if (delta % outer.stride < 0) --n;
  for (const std::int64_t candidate : {n, n + 1}) {
    if (candidate <= -outer.length || candidate >= outer.length) continue;
    if (is_difference(axes.subspan(1), delta - candidate * outer.stride)) return true;
  }
  return false;
}

bool share_an_address(const void* k_base, const void* v_base, StridedAxes axes, std::int64_t element_bytes) {
  const std::int64_t delta_bytes = reinterpret_cast<std::intptr_t>(v_base) - reinterpret_cast<std::intptr_t>(k_base);
  std::sort(axes.begin(), axes.end(), [](const StridedAxis& a, const StridedAxis& b) { return a.stride > b.stride; });
  return delta_bytes % element_bytes == 0 && is_difference(axes, delta_bytes / element_bytes);
}

Status validate_layout(const KvLayout& layout, const KvGeometry& geometry, std::int64_t num_slots,
                       LayerStride layer_stride) {
  PIKV_TRY(validate(geometry));
  if (layout.dtype != DType::kFloat32 && layout.dtype != DType::kFloat16 && layout.dtype != DType::kBFloat16 &&
      layout.dtype != DType::kFloat8E4M3) {
    return refuse("KvLayout", "dtype", static_cast<std::int64_t>(layout.dtype), "an enumerator of DType");
  }
  if (layout.page_size <= 0) return refuse("KvLayout", "page_size", layout.page_size, "positive");
  if (num_slots < 0) return refuse("KvView", "num_slots", num_slots, "not negative");
  const std::int64_t element_bytes = dtype_bytes(layout.dtype);
  PIKV_TRY(check_axes("k", axes_of(layout.k, layout, geometry, num_slots, layer_stride), element_bytes));
  return check_axes("v", axes_of(layout.v, layout, geometry, num_slots, layer_stride), element_bytes);
}

Status check_base(const std::string& field, const std::byte* base, DType dtype) {
  if (base == nullptr) return invalid_argument("KvView: " + field + " is null");
  if (reinterpret_cast<std::uintptr_t>(base) % static_cast<std::uintptr_t>(dtype_bytes(dtype)) != 0) {
    return invalid_argument("KvView: " + field + " is not aligned to " + dtype_name(dtype));
  }
  return {};
}

Status check_apart(const std::string& k_field, const std::byte* k_base, const std::string& v_field,
                   const std::byte* v_base, const KvLayout& layout, const StridedAxes& axes) {
  // Sides laid out differently, such as a transposed V, can interleave in ways that only the engine knows; of them a
  // common base is all that is surely wrong.
  const bool shared =
      layout.k == layout.v ? share_an_address(k_base, v_base, axes, dtype_bytes(layout.dtype)) : k_base == v_base;
  if (!shared) return {};
  return invalid_argument("KvView: " + k_field + " and " + v_field + " let a key and a value share an address");
}

}  // namespace

Status validate(const KvGeometry& geometry) {
  if (geometry.num_layers <= 0) return refuse("KvGeometry", "num_layers", geometry.num_layers, "positive");
  if (geometry.num_kv_heads <= 0) return refuse("KvGeometry", "num_kv_heads", geometry.num_kv_heads, "positive");
  if (geometry.head_dim <= 0) return refuse("KvGeometry", "head_dim", geometry.head_dim, "positive");
  if (geometry.rotary_dim <= 0 || geometry.rotary_dim % 2 != 0) {
    return refuse("KvGeometry", "rotary_dim", geometry.rotary_dim, "positive and even");
  }
  if (geometry.rotary_dim > geometry.head_dim) {
    return refuse("KvGeometry", "rotary_dim", geometry.rotary_dim,
                  "at most head_dim = " + std::to_string(geometry.head_dim));
  }
  if (geometry.dtype != DType::kFloat32 && geometry.dtype != DType::kFloat16 && geometry.dtype != DType::kBFloat16) {
    return refuse("KvGeometry", "dtype", static_cast<std::int64_t>(geometry.dtype), "kFloat32, kFloat16 or kBFloat16");
  }
  const std::int64_t max_elements = kMaxBytesPerToken / (2 * dtype_bytes(geometry.dtype));
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  if (row > max_elements / geometry.num_layers) {
    return invalid_argument("KvGeometry: num_layers * num_kv_heads * head_dim exceeds 2^40 bytes a token");
  }
  return {};
}

Status validate(const KvLayout& layout, const KvGeometry& geometry, std::int64_t num_slots) {
  return validate_layout(layout, geometry, num_slots, LayerStride::kUsed);
}

Status validate(const ConstKvView& view, const KvGeometry& geometry) {
  if ((view.k_layers == nullptr) != (view.v_layers == nullptr)) {
    return invalid_argument("KvView: k_layers and v_layers must both be given or both be null");
  }
  const bool has_layers = view.k_layers != nullptr;
  const LayerStride layer_stride = has_layers ? LayerStride::kIgnored : LayerStride::kUsed;
  PIKV_TRY(validate_layout(view.layout, geometry, view.num_slots, layer_stride));
  const DType dtype = view.layout.dtype;
  const StridedAxes axes = axes_of(view.layout.k, view.layout, geometry, view.num_slots, layer_stride);
  if (!has_layers) {
    PIKV_TRY(check_base("k_base", view.k_base, dtype));
    PIKV_TRY(check_base("v_base", view.v_base, dtype));
    return check_apart("k_base", view.k_base, "v_base", view.v_base, view.layout, axes);
  }
  for (std::int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    const std::string index = std::string("[").append(std::to_string(layer)).append("]");
    PIKV_TRY(check_base("k_layers" + index, view.k_layers[layer], dtype));
    PIKV_TRY(check_base("v_layers" + index, view.v_layers[layer], dtype));
    PIKV_TRY(check_apart("k_layers" + index, view.k_layers[layer], "v_layers" + index, view.v_layers[layer],
                         view.layout, axes));
  }
  return {};
}

}  // namespace v0
}  // namespace pikv
