// Address arithmetic, the layout factories, and every refusal of geometries, layouts and views.
#include "pikv/geometry.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/guarded_buffer.hpp"
#include "support/layouts.hpp"
#include "support/oracle.hpp"

namespace {

using pikv::AxisStrides;
using pikv::KvGeometry;
using pikv::KvLayout;
using pikv::SlotMap;

constexpr KvGeometry kLlama8B{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};
constexpr KvGeometry kSmall{
    .num_layers = 2, .num_kv_heads = 3, .head_dim = 4, .rotary_dim = 4, .dtype = pikv::DType::kFloat32};

// Addresses are checked at compile time, far beyond what a test could allocate.
static_assert(kLlama8B.elements_per_token() == 2 * 32 * 8 * 128);
static_assert(kLlama8B.bytes_per_token() == 128 * 1024);
constexpr KvLayout kPool = pikv::fused_nhd_pages(kLlama8B, 16, 200'000);
static_assert(pikv::element_offset(kPool.k, 16, 0, 0, 0) == 0);
static_assert(pikv::element_offset(kPool.k, 16, 17, 3, 5) == 2 * 16 * 1024 + 1024 + 3 * 128 + 5);
static_assert(pikv::element_offset(kPool.k, 16, 3'199'999, 7, 127) ==
              199'999LL * 32768 + 15 * 1024 + 7 * 128 + 127);  // beyond 2^32 elements
static_assert(pikv::element_offset(kPool.k, 16, 3'199'999, 7, 127) * 2 > (std::int64_t{1} << 33));
constexpr pikv::Slot kBeyondInt = (std::int64_t{1} << 31) + 5;
static_assert(pikv::element_offset(kPool.k, 16, kBeyondInt, 0, 0) == kBeyondInt / 16 * 32768 + 5 * 1024);
static_assert(SlotMap::consecutive(kBeyondInt, 10).slot(9) == kBeyondInt + 9);
constexpr std::int32_t kFarPages[] = {std::numeric_limits<std::int32_t>::max(), 7};
static_assert(SlotMap::page_table(kFarPages, 64, 0, 128).slot(63) == 2147483647LL * 64 + 63);
static_assert(SlotMap::page_table(kFarPages, 64, 1, 100).slice(62, 10).slot(1) == 7 * 64);
constexpr pikv::Slot kSlots[] = {9, pikv::kSkipSlot, 4};
static_assert(SlotMap::per_token(kSlots, 3).slice(1, 2).slot(1) == 4);
static_assert(SlotMap::per_token(nullptr, 0).kind() == SlotMap::Kind::kPerToken);

TEST_CASE("every layout gives each element an address of its own within the buffer") {
  std::mt19937 random(1);
  for (const test_support::LayoutKind kind : test_support::all_layouts()) {
    for (const std::int32_t page_size : {1, 4}) {
      CAPTURE(test_support::layout_name(kind));
      CAPTURE(page_size);
      const test_support::Placement placed = place(kind, kSmall, page_size, 10, random);
      test_support::GuardedBuffer buffer(placed.num_elements * 4);
      const test_support::PlacedView view(placed, kSmall.num_layers, buffer.data());
      const pikv::Status status = pikv::validate(pikv::as_const(view.view()), kSmall);
      CHECK_MESSAGE(status.ok(), status.to_string());
      std::vector<std::int64_t> addresses;
      for (std::int32_t layer = 0; layer < kSmall.num_layers; ++layer) {
        for (pikv::Slot slot = 0; slot < placed.num_slots; ++slot) {
          for (std::int32_t head = 0; head < kSmall.num_kv_heads; ++head) {
            for (std::int32_t d = 0; d < kSmall.head_dim; ++d) {
              const KvLayout& layout = placed.layout;
              const std::int64_t k = view.view().k_layer(layer) - buffer.data() +
                                     4 * pikv::element_offset(layout.k, layout.page_size, slot, head, d);
              const std::int64_t v = view.view().v_layer(layer) - buffer.data() +
                                     4 * pikv::element_offset(layout.v, layout.page_size, slot, head, d);
              CHECK(k == oracle_address(placed, test_support::Side::kKey, layer, slot, head, d));
              CHECK(v == oracle_address(placed, test_support::Side::kValue, layer, slot, head, d));
              addresses.push_back(k);
              addresses.push_back(v);
            }
          }
        }
      }
      std::sort(addresses.begin(), addresses.end());
      CHECK(std::adjacent_find(addresses.begin(), addresses.end()) == addresses.end());
      CHECK(addresses.front() >= 0);
      CHECK(addresses.back() + 4 <= buffer.size_bytes());
    }
  }
}

void check_refused(const pikv::Status& status, const std::string& field) {
  CAPTURE(field);
  CAPTURE(status.to_string());
  CHECK(status.code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(status.message().find(field) != std::string_view::npos);
}

template <class Change>
KvGeometry geometry_with(const Change& change) {
  KvGeometry geometry = kLlama8B;
  change(geometry);
  return geometry;
}

TEST_CASE("a refused geometry names its field") {
  CHECK(pikv::validate(kLlama8B).ok());
  CHECK(pikv::validate(geometry_with([](KvGeometry& g) { g.rotary_dim = 2; })).ok());
  for (const std::int32_t bad : {0, -1, std::numeric_limits<std::int32_t>::min()}) {
    check_refused(pikv::validate(geometry_with([&](KvGeometry& g) { g.num_layers = bad; })), "num_layers");
    check_refused(pikv::validate(geometry_with([&](KvGeometry& g) { g.num_kv_heads = bad; })), "num_kv_heads");
    check_refused(pikv::validate(geometry_with([&](KvGeometry& g) { g.head_dim = bad; })), "head_dim");
    check_refused(pikv::validate(geometry_with([&](KvGeometry& g) { g.rotary_dim = bad; })), "rotary_dim");
  }
  check_refused(pikv::validate(geometry_with([](KvGeometry& g) { g.rotary_dim = 63; })), "rotary_dim");
  check_refused(pikv::validate(geometry_with([](KvGeometry& g) { g.rotary_dim = 130; })), "rotary_dim");
  check_refused(pikv::validate(geometry_with([](KvGeometry& g) { g.dtype = static_cast<pikv::DType>(3); })), "dtype");
  constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();
  const KvGeometry huge{.num_layers = kMax, .num_kv_heads = kMax, .head_dim = kMax, .rotary_dim = 2};
  check_refused(pikv::validate(huge), "2^40");
  const auto with_heads = [](std::int32_t num_kv_heads) {
    return KvGeometry{.num_layers = 1, .num_kv_heads = num_kv_heads, .head_dim = 1 << 10, .rotary_dim = 2};
  };
  CHECK(pikv::validate(with_heads(1 << 28)).ok());  // exactly 2^40 bytes
  check_refused(pikv::validate(with_heads((1 << 28) + 1)), "2^40");
}

template <class Change>
KvLayout layout_with(const Change& change) {
  KvLayout layout = pikv::nhd_pages(kSmall, 4, 3);
  change(layout);
  return layout;
}

TEST_CASE("a refused layout names its field") {
  constexpr std::int64_t kNumSlots = 12;
  const auto refused = [](auto change, const char* field) {
    check_refused(pikv::validate(layout_with(change), kSmall, kNumSlots), field);
  };
  CHECK(pikv::validate(layout_with([](KvLayout&) {}), kSmall, kNumSlots).ok());
  CHECK(pikv::validate(layout_with([](KvLayout&) {}), kSmall, 0).ok());
  refused([](KvLayout& l) { l.page_size = 0; }, "page_size");
  refused([](KvLayout& l) { l.page_size = -4; }, "page_size");
  refused([](KvLayout& l) { l.dtype = static_cast<pikv::DType>(7); }, "dtype");
  check_refused(pikv::validate(layout_with([](KvLayout&) {}), kSmall, -1), "num_slots");
  for (const std::int64_t bad : {0, -1}) {
    refused([&](KvLayout& l) { l.k.layer = bad; }, "k.layer");
    refused([&](KvLayout& l) { l.k.page = bad; }, "k.page");
    refused([&](KvLayout& l) { l.k.token = bad; }, "k.token");
    refused([&](KvLayout& l) { l.k.head = bad; }, "k.head");
    refused([&](KvLayout& l) { l.k.dim = bad; }, "k.dim");
    refused([&](KvLayout& l) { l.v.token = bad; }, "v.token");
    refused([&](KvLayout& l) { l.v.dim = bad; }, "v.dim");
  }
  // Strides that let two elements meet.
  refused([](KvLayout& l) { l.k.token -= 1; }, "k.token");
  refused([](KvLayout& l) { l.k.head = 3; }, "k.head");
  refused([](KvLayout& l) { l.v.page = l.v.token; }, "v.");
  refused([](KvLayout& l) { l.v.layer = l.v.page; }, "v.");
  refused([](KvLayout& l) { l.k.page = std::numeric_limits<std::int64_t>::max() / 4; }, "k.");
  refused([](KvLayout& l) { l.v.layer = std::numeric_limits<std::int64_t>::max() / 2; }, "v.layer");
  // Axes of length 1 need no stride.
  const KvGeometry one_layer{.num_layers = 1, .num_kv_heads = 1, .head_dim = 4, .rotary_dim = 4};
  const KvLayout lean{.page_size = 4, .k = {.token = 4}, .v = {.token = 4}};
  CHECK(pikv::validate(lean, one_layer, 4).ok());
  check_refused(pikv::validate(lean, one_layer, 5), "k.page");
}

TEST_CASE("a refused view names its field") {
  alignas(64) static std::byte buffer[4096];
  const KvLayout layout = pikv::fused_nhd_pages(kSmall, 4, 3);
  pikv::ConstKvView view{.layout = layout, .k_base = buffer, .v_base = buffer + 4 * 48, .num_slots = 12};
  CHECK(pikv::validate(view, kSmall).ok());
  const auto with = [&](auto change) {
    pikv::ConstKvView changed = view;
    change(changed);
    return pikv::validate(changed, kSmall);
  };
  check_refused(with([](auto& v) { v.k_base = nullptr; }), "k_base");
  check_refused(with([](auto& v) { v.v_base = nullptr; }), "v_base");
  check_refused(with([](auto& v) { v.k_base += 2; }), "k_base");
  check_refused(with([](auto& v) { v.v_base += 1; }), "v_base");
  check_refused(with([](auto& v) { v.num_slots = -3; }), "num_slots");
  // V's base on K's elements: the same place, one row on, one page on, and one layer back.
  check_refused(with([](auto& v) { v.v_base = v.k_base; }), "v_base");
  check_refused(with([](auto& v) { v.v_base = v.k_base + 4 * 12; }), "v_base");
  check_refused(with([&](auto& v) { v.v_base = v.k_base + 4 * layout.k.page; }), "v_base");
  check_refused(with([&](auto& v) { v.k_base = v.v_base + 4 * layout.k.layer; }), "v_base");

  const std::byte* k_layers[] = {buffer, buffer + 2048};
  const std::byte* v_layers[] = {buffer + 4 * 48, buffer + 2048 + 4 * 48};
  const auto with_layers = [&](auto change) {
    return with([&](auto& v) {
      v.k_base = v.v_base = nullptr;
      v.k_layers = k_layers;
      v.v_layers = v_layers;
      v.layout.k.layer = v.layout.v.layer = 0;
      change(v);
    });
  };
  CHECK(with_layers([](auto&) {}).ok());
  check_refused(with_layers([](auto& v) { v.v_layers = nullptr; }), "v_layers");
  check_refused(with_layers([](auto& v) { v.k_layers = nullptr; }), "k_layers");
  k_layers[1] = nullptr;
  check_refused(with_layers([](auto&) {}), "k_layers[1]");
  k_layers[1] = v_layers[1];
  check_refused(with_layers([](auto&) {}), "v_layers[1]");
  // The array lies in host memory wherever the view does, and is looked at.
  check_refused(with_layers([](auto& v) { v.space = pikv::MemorySpace::kDevice; }), "k_layers[1]");
}

}  // namespace
