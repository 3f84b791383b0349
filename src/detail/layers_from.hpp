// The upper layers of a cache, as a cache that has no others.
#pragma once

#include <cstdint>

#include "pikv/geometry.hpp"

namespace pikv::detail {

/// Layer 0 of the result is layer `layer` of the view: for geometries with as many layers as are left, or fewer.
/// Requires: `layer` is one of the view's.
template <class Byte>
[[nodiscard]] constexpr BasicKvView<Byte> layers_from(BasicKvView<Byte> view, std::int32_t layer) noexcept {
  if (view.k_layers != nullptr) {
    view.k_layers += layer;
    view.v_layers += layer;
  } else {
    view.k_base = view.k_layer(layer);
    view.v_base = view.v_layer(layer);
  }
  if (view.scales.k != nullptr) view.scales.k += layer * view.scales.layer_stride;
  if (view.scales.v != nullptr) view.scales.v += layer * view.scales.layer_stride;
  return view;
}

}  // namespace pikv::detail
