// Stored formats on the GPU: codes and scales that encoding writes, and what re-anchoring makes of them, equal those of
// the CPU backend bit for bit.
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda/device_mirror.hpp"
#include "support/compare.hpp"
#include "support/guarded_buffer.hpp"
#include "support/layouts.hpp"
#include "support/oracle.hpp"
#include "support/slab_oracle.hpp"

namespace {

using pikv::DType;
using pikv::SlabFormat;
using pikv::SlotMap;
using test_support::Comparison;
using test_support::DeviceMirror;
using test_support::gpu_or_skip;
using test_support::GuardedBuffer;
using test_support::LayoutKind;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr pikv::Position kFirstPosition = 1000;

const pikv::RopeTable& table_of(std::int32_t rotary_dim, pikv::Pairing pairing) {
  static std::map<std::pair<std::int32_t, pikv::Pairing>, pikv::RopeTable> tables;
  const auto key = std::make_pair(rotary_dim, pairing);
  auto found = tables.find(key);
  if (found == tables.end()) {
    const pikv::RopeConfig rope(10000.0, pairing, pikv::AngleRule::kExact);
    found = tables.emplace(key, pikv::RopeTable::build(rope, rotary_dim, 2048).value()).first;
  }
  return found->second;
}

struct FormatCase {
  pikv::KvGeometry geometry;
  SlabFormat format = SlabFormat::kInt8;
  std::int64_t num_tokens = 0;
  DType source_dtype = DType::kFloat32;
  LayoutKind source_layout = LayoutKind::kNhd;
  DType target_dtype = DType::kBFloat16;
  LayoutKind target_layout = LayoutKind::kNhd;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  bool has_bias = false;
  bool source_is_rotated = false;

  [[nodiscard]] std::string name() const {
    return std::string(slab_format_name(format)) + " T=" + std::to_string(num_tokens) +
           " H=" + std::to_string(geometry.num_kv_heads) + " D=" + std::to_string(geometry.head_dim) +
           " r=" + std::to_string(geometry.rotary_dim) + " from " + dtype_name(source_dtype) + ":" +
           layout_name(source_layout) + (source_is_rotated ? ":rotated" : "") + (has_bias ? " bias" : "") + " to " +
           dtype_name(target_dtype) + ":" + layout_name(target_layout) +
           (pairing == pikv::Pairing::kHalfSplit ? " half_split" : " interleaved");
  }
};

std::vector<FormatCase> make_cases() {
  constexpr DType kSources[] = {DType::kBFloat16, DType::kFloat32, DType::kFloat16};
  constexpr DType kTargets[] = {DType::kBFloat16, DType::kFloat8E4M3, DType::kFloat16, DType::kFloat32};
  constexpr LayoutKind kSourceLayouts[] = {LayoutKind::kNhd, LayoutKind::kTransposedValues, LayoutKind::kHeadsOutermost,
                                           LayoutKind::kFusedHnd, LayoutKind::kRandomStrides};
  constexpr LayoutKind kTargetLayouts[] = {
      LayoutKind::kNhd,         LayoutKind::kHnd,           LayoutKind::kPackedNhd,       LayoutKind::kKvFirst,
      LayoutKind::kPaddedHeads, LayoutKind::kLayersInPages, LayoutKind::kTransposedValues};
  constexpr std::int32_t kShapes[][2] = {{128, 128}, {64, 64}, {128, 64}, {80, 32}, {14, 10}, {6, 2}, {96, 96}};
  std::vector<FormatCase> cases;
  for (const SlabFormat format : {SlabFormat::kPlain, SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
    for (const auto& shape : kShapes) {
      for (const std::int64_t num_tokens : {1, 3, 5, 31, 33, 100}) {
        const std::size_t i = cases.size();
        FormatCase c;
        c.geometry = {.num_layers = 3,
                      .num_kv_heads = static_cast<std::int32_t>(1 + i % 3),
                      .head_dim = shape[0],
                      .rotary_dim = shape[1],
                      .dtype = i % 3 == 2 ? DType::kFloat32 : DType::kBFloat16};
        c.format = format;
        c.num_tokens = num_tokens;
        c.source_dtype = kSources[i % 3];
        c.source_layout = kSourceLayouts[i % 5];
        c.target_dtype = kTargets[(i + i / 4) % 4];
        c.target_layout = kTargetLayouts[i % 7];
        if (c.target_dtype == DType::kFloat8E4M3 && c.target_layout == LayoutKind::kTransposedValues) {
          c.target_layout = LayoutKind::kFusedNhd;  // fp8 needs adjacent channels
        }
        c.pairing = i % 2 == 0 ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved;
        c.has_bias = i % 3 == 1;
        c.source_is_rotated = i % 4 == 3;
        cases.push_back(c);
      }
    }
  }
  return cases;
}

/// A view's elements of a type, filled with finite random numbers.
void fill(GuardedBuffer& buffer, DType dtype, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const std::int64_t bytes = pikv::dtype_bytes(dtype);
  for (std::int64_t at = 0; at + bytes <= buffer.size_bytes(); at += bytes) {
    const std::uint32_t bits = test_support::oracle_bits(normal(random), dtype);
    std::memcpy(buffer.data() + at, &bits, static_cast<std::size_t>(bytes));
  }
}

void check_equal(const std::string& name, DeviceMirror& mirror, const GuardedBuffer& expected) {
  Comparison comparison(name);
  const std::vector<std::byte> got = mirror.download(expected.data(), expected.size_bytes());
  for (std::size_t i = 0; i < got.size(); ++i) {
    comparison.expect_same_bits(std::to_integer<std::uint64_t>(got[i]),
                                std::to_integer<std::uint64_t>(expected.data()[i]),
                                [&] { return "byte " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

TEST_CASE("encoding and re-anchoring of every format equal the CPU backend, bit for bit") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto cpu = pikv::make_cpu_backend();
  for (const FormatCase& c : make_cases()) {
    std::mt19937 random(11);
    const pikv::KvGeometry& g = c.geometry;
    pikv::KvGeometry typed = g;
    typed.dtype = c.source_dtype;
    const auto source_place = place(c.source_layout, typed, 16, c.num_tokens + 3, random);
    GuardedBuffer source(source_place.num_elements * pikv::dtype_bytes(c.source_dtype));
    fill(source, c.source_dtype, random);
    const test_support::PlacedView source_view(source_place, g.num_layers, source.data());
    std::vector<float> bias(static_cast<std::size_t>(g.num_layers * g.num_kv_heads * g.head_dim));
    for (float& value : bias) value = std::normal_distribution<float>(0, 8)(random);
    const pikv::RopeTable& table = table_of(g.rotary_dim, c.pairing);

    const pikv::SlabSections sections = pikv::slab_sections(g, c.format, c.num_tokens);
    GuardedBuffer slab(sections.slab_bytes(g.num_layers));
    const float* const key_bias = c.has_bias && c.format != SlabFormat::kPlain ? bias.data() : nullptr;
    const pikv::SlabEncode encode{
        .geometry = g,
        .source = pikv::as_const(source_view.view()),
        .source_slots = SlotMap::consecutive(2, c.num_tokens),
        .positions = pikv::PositionMap::consecutive(kFirstPosition),
        .rope = c.source_is_rotated ? table.view() : pikv::RopeTableView{},
        .target = {.data = slab.data(), .num_tokens = c.num_tokens, .encoding = {c.format, key_bias}},
        .layer_begin = 0,
        .layer_end = g.num_layers};

    DeviceMirror mirror(*gpu);
    mirror.add(source.data(), source.size_bytes());
    mirror.add(bias);
    mirror.add(slab.data(), slab.size_bytes());
    const pikv::Status encoded = gpu->encode_async(mirror.translate(encode, table), kStream);
    REQUIRE_MESSAGE(encoded.ok(), (c.name() + ": " + encoded.to_string()));
    REQUIRE(cpu->encode_async(encode, kStream).ok());
    check_equal(c.name() + ", encoded", mirror, slab);
    CHECK_MESSAGE(mirror.guards_intact(), c.name());

    typed.dtype = c.target_dtype == DType::kFloat8E4M3 ? DType::kFloat16 : c.target_dtype;
    auto target_place = place(c.target_layout, typed, 16, c.num_tokens + 5, random);
    target_place.layout.dtype = c.target_dtype;
    GuardedBuffer target(target_place.num_elements * pikv::dtype_bytes(c.target_dtype));
    const test_support::PlacedView target_view(target_place, g.num_layers, target.data());
    std::vector<float> scales(static_cast<std::size_t>(2 * g.num_layers * g.num_kv_heads));
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01F * static_cast<float>(i % 7 + 1);
    mirror.add(scales);
    mirror.add(target.data(), target.size_bytes());
    pikv::KvRun run;
    run.slab = pikv::as_const(encode.target);
    run.source_slots = SlotMap::consecutive(0, c.num_tokens);
    run.target_slots = SlotMap::consecutive(4, c.num_tokens);
    run.positions = pikv::PositionMap::consecutive(77);
    pikv::KvTransfer transfer{.geometry = g,
                              .runs = {&run, 1},
                              .target = target_view.view(),
                              .rope = table.view(),
                              .layer_begin = 1,
                              .layer_end = g.num_layers};
    if (c.target_dtype == DType::kFloat8E4M3) {
      transfer.target.scales = {.k = scales.data(),
                                .v = scales.data() + g.num_layers * g.num_kv_heads,
                                .layer_stride = g.num_kv_heads,
                                .head_stride = 1};
    }
    const pikv::Status moved = gpu->reanchor_async(mirror.translate(transfer, table), kStream);
    REQUIRE_MESSAGE(moved.ok(), (c.name() + ": " + moved.to_string()));
    REQUIRE(cpu->reanchor_async(transfer, kStream).ok());
    check_equal(c.name() + ", re-anchored", mirror, target);
    CHECK_MESSAGE(mirror.guards_intact(), c.name());
  }
}

TEST_CASE("NaN and infinities are encoded as the CPU encodes them") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto cpu = pikv::make_cpu_backend();
  const pikv::KvGeometry g{
      .num_layers = 1, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = DType::kFloat32};
  constexpr std::int64_t kTokens = 70;
  std::mt19937 random(3);
  const auto source_place = place(LayoutKind::kNhd, g, 16, kTokens, random);
  GuardedBuffer source(source_place.num_elements * 4);
  fill(source, DType::kFloat32, random);
  for (std::int64_t at = 0; at + 4 <= source.size_bytes(); at += 4 * (1 + random() % 40)) {
    constexpr float kOdd[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              0.0F,
                              -0.0F,
                              1e-30F,
                              70000.0F};
    std::memcpy(source.data() + at, &kOdd[random() % 7], 4);
  }
  const test_support::PlacedView view(source_place, 1, source.data());
  for (const SlabFormat format : {SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
    GuardedBuffer slab(pikv::slab_sections(g, format, kTokens).slab_bytes(1));
    const pikv::SlabEncode encode{.geometry = g,
                                  .source = pikv::as_const(view.view()),
                                  .source_slots = SlotMap::consecutive(0, kTokens),
                                  .target = {.data = slab.data(), .num_tokens = kTokens, .encoding = {format, nullptr}},
                                  .layer_end = 1};
    DeviceMirror mirror(*gpu);
    mirror.add(source.data(), source.size_bytes());
    mirror.add(slab.data(), slab.size_bytes());
    REQUIRE(gpu->encode_async(mirror.translate(encode, table_of(64, pikv::Pairing::kHalfSplit)), kStream).ok());
    REQUIRE(cpu->encode_async(encode, kStream).ok());
    check_equal(std::string("odd numbers, ") + slab_format_name(format), mirror, slab);
  }
}

}  // namespace
