#include "support/layouts.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace test_support {
namespace {

using pikv::AxisStrides;
using pikv::KvGeometry;

constexpr std::array kAllLayouts{LayoutKind::kSlab,
                                 LayoutKind::kNhd,
                                 LayoutKind::kHnd,
                                 LayoutKind::kFusedNhd,
                                 LayoutKind::kFusedHnd,
                                 LayoutKind::kPackedNhd,
                                 LayoutKind::kPackedHnd,
                                 LayoutKind::kKvFirst,
                                 LayoutKind::kTokenPool,
                                 LayoutKind::kTransposedValues,
                                 LayoutKind::kHeadsOutermost,
                                 LayoutKind::kLayersInPages,
                                 LayoutKind::kPaddedHeads,
                                 LayoutKind::kStridedChannels,
                                 LayoutKind::kRandomStrides};

void give_layers_bases(Placement& placement, std::int32_t num_layers, std::int64_t k_to_v,
                       std::int64_t layer_elements) {
  for (std::int32_t layer = 0; layer < num_layers; ++layer) {
    // Layers in falling order: a base per layer need not rise.
    const std::int64_t start = (num_layers - 1 - layer) * layer_elements;
    placement.k_layer_starts.push_back(start);
    placement.v_layer_starts.push_back(start + k_to_v);
  }
  placement.layout.k.layer = placement.layout.v.layer = 0;
  placement.num_elements = num_layers * layer_elements;
}

/// Axes nested in random order, each stride a little beyond what the inner axes need.
AxisStrides random_strides(const KvGeometry& g, std::int32_t page_size, std::int64_t num_pages, std::mt19937& random,
                           std::int64_t& reach) {
  AxisStrides strides;
  struct Axis {
    std::int64_t* stride;
    std::int64_t length;
  };
  std::array<Axis, 5> axes{Axis{&strides.layer, g.num_layers}, Axis{&strides.page, num_pages},
                           Axis{&strides.token, page_size}, Axis{&strides.head, g.num_kv_heads},
                           Axis{&strides.dim, g.head_dim}};
  std::shuffle(axes.begin(), axes.end(), random);
  reach = 1;
  for (const Axis& axis : axes) {
    *axis.stride = reach + std::uniform_int_distribution<std::int64_t>(0, 3)(random);
    reach = *axis.stride * axis.length;
  }
  return strides;
}

}  // namespace

std::span<const LayoutKind> all_layouts() { return kAllLayouts; }

const char* layout_name(LayoutKind kind) {
  switch (kind) {
    case LayoutKind::kSlab:
      return "slab";
    case LayoutKind::kNhd:
      return "nhd";
    case LayoutKind::kHnd:
      return "hnd";
    case LayoutKind::kFusedNhd:
      return "fused_nhd";
    case LayoutKind::kFusedHnd:
      return "fused_hnd";
    case LayoutKind::kPackedNhd:
      return "packed_nhd";
    case LayoutKind::kPackedHnd:
      return "packed_hnd";
    case LayoutKind::kKvFirst:
      return "kv_first";
    case LayoutKind::kTokenPool:
      return "token_pool";
    case LayoutKind::kTransposedValues:
      return "transposed_values";
    case LayoutKind::kHeadsOutermost:
      return "heads_outermost";
    case LayoutKind::kLayersInPages:
      return "layers_in_pages";
    case LayoutKind::kPaddedHeads:
      return "padded_heads";
    case LayoutKind::kStridedChannels:
      return "strided_channels";
    case LayoutKind::kRandomStrides:
      return "random_strides";
  }
  return "unknown";
}

Placement place(LayoutKind kind, const KvGeometry& g, std::int32_t page_size, std::int64_t min_slots,
                std::mt19937& random) {
  const std::int64_t row = std::int64_t{g.num_kv_heads} * g.head_dim;
  const std::int64_t num_pages = (min_slots + page_size - 1) / page_size;
  const std::int64_t page = page_size * row;
  Placement placed;
  placed.num_slots = num_pages * page_size;
  const std::int64_t side = placed.num_slots * row;  // K of one layer
  placed.num_elements = 2 * side * g.num_layers;
  switch (kind) {
    case LayoutKind::kSlab:
      placed.layout = pikv::slab_layout(g, placed.num_slots);
      placed.v_start = pikv::slab_value_offset(g, placed.num_slots);
      break;
    case LayoutKind::kNhd:
      placed.layout = pikv::nhd_pages(g, page_size, num_pages);
      placed.v_start = side * g.num_layers;
      break;
    case LayoutKind::kHnd:
      placed.layout = pikv::hnd_pages(g, page_size, num_pages);
      placed.v_start = side * g.num_layers;
      break;
    case LayoutKind::kFusedNhd:
      placed.layout = pikv::fused_nhd_pages(g, page_size, num_pages);
      placed.v_start = page;
      break;
    case LayoutKind::kFusedHnd:
      placed.layout = pikv::fused_hnd_pages(g, page_size, num_pages);
      placed.v_start = page;
      break;
    case LayoutKind::kPackedNhd:
      placed.layout = pikv::packed_nhd_pages(g, page_size, num_pages);
      placed.v_start = g.head_dim;
      break;
    case LayoutKind::kPackedHnd:
      placed.layout = pikv::packed_nhd_pages(g, page_size, num_pages);
      placed.layout.k.token = placed.layout.v.token = std::int64_t{2} * g.head_dim;
      placed.layout.k.head = placed.layout.v.head = std::int64_t{2} * page_size * g.head_dim;
      placed.v_start = g.head_dim;
      break;
    case LayoutKind::kKvFirst:
      placed.layout = pikv::nhd_pages(g, page_size, num_pages);
      give_layers_bases(placed, g.num_layers, side, 2 * side);
      break;
    case LayoutKind::kTokenPool:
      placed.num_slots += 1;
      placed.layout = pikv::nhd_pages(g, 1, placed.num_slots);
      give_layers_bases(placed, g.num_layers, placed.num_slots * row, 2 * placed.num_slots * row);
      break;
    case LayoutKind::kTransposedValues:
      placed.layout = pikv::transposed_value_cells(g, placed.num_slots);
      placed.v_start = side * g.num_layers;
      break;
    case LayoutKind::kHeadsOutermost:
      placed.layout = pikv::hnd_pages(g, static_cast<std::int32_t>(placed.num_slots), 1);
      give_layers_bases(placed, g.num_layers, side, 2 * side);
      break;
    case LayoutKind::kLayersInPages:
      placed.layout = pikv::hnd_pages(g, page_size, num_pages);
      placed.layout.k.layer = placed.layout.v.layer = 2 * page;
      placed.layout.k.page = placed.layout.v.page = 2 * page * g.num_layers;
      placed.v_start = page;
      break;
    case LayoutKind::kPaddedHeads: {
      const std::int64_t padded_row = (g.num_kv_heads * (g.head_dim + 8LL) + 15) / 16 * 16;
      const AxisStrides strides{.layer = placed.num_slots * padded_row,
                                .page = page_size * padded_row,
                                .token = padded_row,
                                .head = g.head_dim + 8LL,
                                .dim = 1};
      placed.layout = pikv::KvLayout{.dtype = g.dtype, .page_size = page_size, .k = strides, .v = strides};
      placed.v_start = strides.layer * g.num_layers;
      placed.num_elements = 2 * placed.v_start;
      break;
    }
    case LayoutKind::kStridedChannels:
      placed.layout = pikv::transposed_value_cells(g, placed.num_slots);
      placed.layout.k = placed.layout.v;
      placed.v_start = side * g.num_layers;
      break;
    case LayoutKind::kRandomStrides: {
      std::int64_t k_reach = 0;
      std::int64_t v_reach = 0;
      placed.layout = pikv::KvLayout{.dtype = g.dtype, .page_size = page_size, .k = {}, .v = {}};
      placed.layout.k = random_strides(g, page_size, num_pages, random, k_reach);
      placed.layout.v = random_strides(g, page_size, num_pages, random, v_reach);
      placed.v_start = k_reach;
      placed.num_elements = k_reach + v_reach;
      break;
    }
  }
  return placed;
}

PlacedView::PlacedView(const Placement& placement, std::int32_t num_layers, std::byte* buffer) {
  const std::int64_t element_bytes = pikv::dtype_bytes(placement.layout.dtype);
  view_.layout = placement.layout;
  view_.num_slots = placement.num_slots;
  if (placement.k_layer_starts.empty()) {
    view_.k_base = buffer + placement.k_start * element_bytes;
    view_.v_base = buffer + placement.v_start * element_bytes;
    return;
  }
  for (std::int32_t layer = 0; layer < num_layers; ++layer) {
    const auto i = static_cast<std::size_t>(layer);
    k_layers_.push_back(buffer + placement.k_layer_starts[i] * element_bytes);
    v_layers_.push_back(buffer + placement.v_layer_starts[i] * element_bytes);
  }
  view_.k_layers = k_layers_.data();
  view_.v_layers = v_layers_.data();
}

}  // namespace test_support
