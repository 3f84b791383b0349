// One layer of a cache, as a cache that has no other.
#pragma once

#include <cstdint>

#include "pikv/geometry.hpp"

namespace pikv::detail {

/// For geometries whose num_layers is 1. Requires: `layer` is one of the view's.
template <class Byte>
[[nodiscard]] constexpr BasicKvView<Byte> single_layer(BasicKvView<Byte> view, std::int32_t layer) noexcept {
  view.k_base = view.k_layer(layer);
  view.v_base = view.v_layer(layer);
  view.k_layers = view.v_layers = nullptr;
  if (view.scales.k != nullptr) view.scales.k += layer * view.scales.layer_stride;
  if (view.scales.v != nullptr) view.scales.v += layer * view.scales.layer_stride;
  return view;
}

}  // namespace pikv::detail
