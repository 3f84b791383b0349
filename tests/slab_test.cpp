// Slabs: where their parts lie, and re-anchoring out of every format, which must equal re-anchoring what the oracle
// decodes, bit for bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "support/compare.hpp"
#include "support/guarded_buffer.hpp"
#include "support/layouts.hpp"
#include "support/oracle.hpp"
#include "support/slab_oracle.hpp"

namespace {

using pikv::DType;
using pikv::KvGeometry;
using pikv::SlabFormat;
using pikv::SlotMap;
using test_support::Comparison;
using test_support::GuardedBuffer;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr SlabFormat kFormats[] = {SlabFormat::kPlain, SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4};

constexpr KvGeometry kLlama8B{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = DType::kBFloat16};
constexpr std::int64_t kPlainBytes = pikv::slab_sections(kLlama8B, SlabFormat::kPlain, 256).slab_bytes(32);
static_assert(kPlainBytes == 256 * kLlama8B.bytes_per_token());

TEST_CASE("bytes against bf16 are as the header's table says") {
  const auto ratio = [](SlabFormat format) {
    return static_cast<double>(pikv::slab_sections(kLlama8B, format, 256).slab_bytes(32)) /
           static_cast<double>(kPlainBytes);
  };
  CHECK(ratio(SlabFormat::kFloat8) == doctest::Approx(0.500).epsilon(0.001));
  CHECK(ratio(SlabFormat::kInt8) == doctest::Approx(0.506).epsilon(0.001));
  CHECK(ratio(SlabFormat::kInt4) == doctest::Approx(0.328).epsilon(0.001));
}

TEST_CASE("parts of a slab follow one another on boundaries") {
  for (const SlabFormat format : kFormats) {
    for (const std::int64_t num_tokens : {1, 3, 4, 5, 31, 32, 33, 64, 100, 1'000'000'000}) {
      for (const std::int32_t head_dim : {128, 80, 14, 6, 7}) {
        const KvGeometry g{.num_layers = 3, .num_kv_heads = 3, .head_dim = head_dim, .rotary_dim = 2};
        const pikv::SlabSections s = pikv::slab_sections(g, format, num_tokens);
        const std::int64_t begins[] = {s.k_codes, s.v_codes, s.k_scales,   s.v_scales,
                                       s.k_sinks, s.v_sinks, s.layer_bytes};
        CHECK(s.k_codes == 0);
        CHECK(std::is_sorted(std::begin(begins), std::end(begins)));
        if (format != SlabFormat::kPlain) {
          for (const std::int64_t begin : begins) CHECK(begin % 64 == 0);
        }
        CHECK(s.slab_bytes(3) == 3 * s.layer_bytes);
      }
    }
  }
}

TEST_CASE("a layer of a slab is a slab") {
  const KvGeometry g{.num_layers = 6, .num_kv_heads = 2, .head_dim = 4, .rotary_dim = 4};
  const pikv::SlabSections sections = pikv::slab_sections(g, SlabFormat::kInt8, 10);
  GuardedBuffer data(sections.slab_bytes(6));
  const std::vector<float> bias(6 * 2 * 4);
  const pikv::SlabView slab{.data = data.data(), .num_tokens = 10, .encoding = {SlabFormat::kInt8, bias.data()}};
  const pikv::SlabView layer = pikv::slab_layer(g, slab, 5);
  CHECK(layer.data - data.data() == 5 * sections.layer_bytes);
  CHECK(layer.encoding.key_bias - bias.data() == 5 * 2 * 4);
}

constexpr std::int64_t kTokens = 70;
constexpr std::int32_t kPageSize = 8;

struct Setup {
  KvGeometry geometry;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  DType target_dtype = DType::kFloat32;
  test_support::LayoutKind layout = test_support::LayoutKind::kNhd;
  bool has_bias = false;
  bool turns = true;
  bool scattered = false;  // slots of sources and targets by token, some left out
  bool scale_per_head = false;
};

/// A chunk in one format, and the same chunk as the oracle decodes it, in a plain slab of fp32.
struct Chunk {
  Chunk(const KvGeometry& g, SlabFormat format, bool has_bias, std::mt19937& random)
      : encoded(pikv::slab_sections(g, format, kTokens).slab_bytes(g.num_layers)),
        decoded(kTokens * g.elements_per_token() * 4) {
    std::normal_distribution<float> normal;
    const auto count = static_cast<std::size_t>(g.elements_per_token() / 2);
    bias.resize(count);
    for (float& b : bias) b = 5 * normal(random);
    test_support::SlabRows rows;
    for (std::size_t i = 0; i < count * kTokens; ++i) {
      rows.keys.push_back(normal(random));
      rows.values.push_back(normal(random));
    }
    const float* const key_bias = has_bias ? bias.data() : nullptr;
    const test_support::OracleSlab slab = oracle_encode_slab(g, format, kTokens, rows, key_bias);
    std::copy(slab.bytes.begin(), slab.bytes.end(), encoded.data());
    rows = test_support::oracle_decode_slab(g, format, kTokens, encoded.data(), key_bias);
    const std::size_t side = count / static_cast<std::size_t>(g.num_layers) * kTokens;
    for (std::size_t layer = 0; layer < static_cast<std::size_t>(g.num_layers); ++layer) {
      std::memcpy(decoded.data() + 2 * layer * side * 4, rows.keys.data() + layer * side, side * 4);
      std::memcpy(decoded.data() + (2 * layer + 1) * side * 4, rows.values.data() + layer * side, side * 4);
    }
    view = {.data = encoded.data(), .num_tokens = kTokens, .encoding = {format, key_bias}};
  }

  GuardedBuffer encoded;
  GuardedBuffer decoded;
  std::vector<float> bias;
  pikv::ConstSlabView view;
};

/// Where the tokens of one chunk go, and a target for them.
struct Target {
  Target(const Setup& s, DType dtype, std::uint32_t seed) : random(seed) {
    KvGeometry g = s.geometry;
    g.dtype = DType::kFloat32;
    placement = place(s.layout, g, kPageSize, 120, random);
    placement.layout.dtype = dtype;
    buffer.emplace_back(placement.num_elements * pikv::dtype_bytes(dtype));
    view.emplace_back(std::make_unique<test_support::PlacedView>(placement, g.num_layers, buffer[0].data()));
  }
  std::mt19937 random;
  test_support::Placement placement;
  std::vector<GuardedBuffer> buffer;
  std::vector<std::unique_ptr<test_support::PlacedView>> view;
};

void check_reanchor(pikv::Backend& backend, const Setup& s, SlabFormat format, const std::string& name) {
  std::mt19937 random(11);
  const KvGeometry& g = s.geometry;
  const Chunk chunk(g, format, s.has_bias, random);
  const pikv::RopeConfig rope(10000.0, s.pairing, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, g.rotary_dim, 512).value();
  const std::int64_t num_moved = 41;
  std::vector<pikv::Slot> sources(kTokens);
  std::vector<pikv::Slot> targets(100);
  std::iota(sources.begin(), sources.end(), 0);
  std::iota(targets.begin(), targets.end(), 0);
  std::shuffle(sources.begin(), sources.end(), random);
  std::shuffle(targets.begin(), targets.end(), random);
  for (std::size_t i = 0; i < targets.size(); i += 5) targets[i] = pikv::kSkipSlot;
  const std::vector<std::int32_t> pages{3, 0, 7, 9, 1, 12, 5};

  pikv::KvRun run;
  run.source_slots = s.scattered ? SlotMap::per_token(sources.data(), num_moved) : SlotMap::consecutive(29, num_moved);
  run.target_slots = s.scattered ? SlotMap::per_token(targets.data(), num_moved)
                                 : SlotMap::page_table(pages.data(), kPageSize, 5, num_moved);
  run.positions = pikv::PositionMap::consecutive(200);
  const auto transfer = [&](const pikv::KvView& target, const pikv::KvRun& r) {
    return pikv::KvTransfer{.geometry = g,
                            .runs = {&r, 1},
                            .target = target,
                            .rope = s.turns ? table.view() : pikv::RopeTableView{},
                            .layer_begin = 1,
                            .layer_end = g.num_layers};
  };

  std::vector<float> scales;
  for (std::int32_t i = 0; i < 2 * g.num_layers * g.num_kv_heads; ++i) {
    scales.push_back(0.01F * static_cast<float>(i % 7 + 1));
  }
  Target got(s, s.target_dtype, 3);
  pikv::KvView got_view = got.view[0]->view();
  const bool is_float8 = s.target_dtype == DType::kFloat8E4M3;
  if (is_float8) {
    got_view.scales = {.k = scales.data(),
                       .v = scales.data() + g.num_layers * g.num_kv_heads,
                       .layer_stride = s.scale_per_head ? g.num_kv_heads : 1,
                       .head_stride = s.scale_per_head ? 1 : 0};
  }
  run.slab = chunk.view;
  const pikv::Status status = backend.reanchor_async(transfer(got_view, run), kStream);
  REQUIRE_MESSAGE(status.ok(), (name + ": " + status.to_string()));

  // The same chunk as plain fp32; codes of fp8 are made out of what an fp32 target gets.
  const DType expected_dtype = is_float8 ? DType::kFloat32 : s.target_dtype;
  Target expected(s, expected_dtype, 3);
  KvGeometry plain = g;
  plain.dtype = DType::kFloat32;
  pikv::KvRun plain_run = run;
  plain_run.slab = {};
  plain_run.source = pikv::plain_view(plain, pikv::ConstSlabView{.data = chunk.decoded.data(), .num_tokens = kTokens});
  REQUIRE(backend.reanchor_async(transfer(expected.view[0]->view(), plain_run), kStream).ok());

  Comparison comparison(name);
  std::vector<std::byte> wanted(static_cast<std::size_t>(got.buffer[0].size_bytes()), GuardedBuffer::kPoison);
  if (!is_float8) {
    std::copy_n(expected.buffer[0].data(), wanted.size(), wanted.begin());
  } else {
    for (std::int64_t token = 0; token < num_moved; ++token) {
      const pikv::Slot slot = run.target_slots.slot(token);
      if (slot == pikv::kSkipSlot) continue;
      for (std::int32_t layer = 1; layer < g.num_layers; ++layer) {
        for (std::int32_t i = 0; i < 2 * g.num_kv_heads * g.head_dim; ++i) {
          const auto side = i % 2 == 0 ? test_support::Side::kKey : test_support::Side::kValue;
          const std::int32_t head = i / 2 / g.head_dim;
          const std::int64_t from = oracle_address(expected.placement, side, layer, slot, head, i / 2 % g.head_dim);
          const std::int64_t to = oracle_address(got.placement, side, layer, slot, head, i / 2 % g.head_dim);
          const double value = test_support::oracle_decode(expected.buffer[0].data() + from, DType::kFloat32);
          const std::int64_t scale_index = s.scale_per_head ? layer * g.num_kv_heads + head : layer;
          const float* const side_scales = i % 2 == 0 ? got_view.scales.k : got_view.scales.v;
          const auto scaled = static_cast<float>(value / double{side_scales[scale_index]});
          wanted[static_cast<std::size_t>(to)] =
              static_cast<std::byte>(test_support::oracle_bits(scaled, DType::kFloat8E4M3));
        }
      }
    }
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    comparison.expect_same_bits(std::to_integer<std::uint64_t>(got.buffer[0].data()[i]),
                                std::to_integer<std::uint64_t>(wanted[i]), [&] { return "byte " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
  CHECK_MESSAGE(got.buffer[0].guards_intact(), name);
}

TEST_CASE("re-anchoring out of a format is re-anchoring what it decodes to, bit for bit") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 3, .stream_from_bytes = 1});
  using test_support::LayoutKind;
  constexpr LayoutKind kAdjacent[] = {LayoutKind::kNhd, LayoutKind::kHnd, LayoutKind::kFusedHnd,
                                      LayoutKind::kPaddedHeads, LayoutKind::kTokenPool};
  constexpr LayoutKind kStrided[] = {LayoutKind::kTransposedValues, LayoutKind::kStridedChannels,
                                     LayoutKind::kRandomStrides};
  std::uint32_t turn = 0;
  for (const SlabFormat format : kFormats) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat8E4M3}) {
      for (const std::int32_t head_dim : {128, 80, 14, 7}) {
        Setup s{.geometry = {.num_layers = 3,
                             .num_kv_heads = static_cast<std::int32_t>(turn % 3 + 1),
                             .head_dim = head_dim,
                             .rotary_dim = head_dim == 80 ? 32 : head_dim / 2 * 2,
                             .dtype = turn % 2 == 0 ? DType::kBFloat16 : DType::kFloat32},
                .target_dtype = dtype};
        for (const LayoutKind layout : kAdjacent) {
          s.layout = layout;
          s.pairing = turn % 2 == 0 ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved;
          s.has_bias = format != SlabFormat::kPlain && turn % 3 == 0;
          s.turns = turn % 5 != 0;
          s.scattered = turn % 4 < 2;
          s.scale_per_head = turn % 2 == 0;
          ++turn;
          check_reanchor(*backend, s, format,
                         std::string(slab_format_name(format)) + " to " + dtype_name(dtype) + " " +
                             layout_name(layout) + " D" + std::to_string(head_dim) + " turn " + std::to_string(turn));
        }
        if (dtype == DType::kFloat8E4M3) continue;
        for (const LayoutKind layout : kStrided) {
          s.layout = layout;
          check_reanchor(*backend, s, format,
                         std::string(slab_format_name(format)) + " to " + dtype_name(dtype) + " " +
                             layout_name(layout) + " D" + std::to_string(head_dim));
        }
      }
    }
  }
}

TEST_CASE("fp8 views are read as code times scale, and keys in them are turned back") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 2});
  const KvGeometry g{.num_layers = 2, .num_kv_heads = 2, .head_dim = 32, .rotary_dim = 32, .dtype = DType::kFloat32};
  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, 32, 256).value();
  const pikv::KvLayout layout = pikv::slab_layout(g, kTokens);
  const std::int64_t count = kTokens * g.elements_per_token();
  GuardedBuffer codes(count);
  std::vector<float> decoded(static_cast<std::size_t>(count));
  const std::vector<float> scales{0.5F, 2.0F, 0.1F, 3.0F};  // [L][H]
  std::mt19937 random(2);
  for (std::int64_t i = 0; i < count; ++i) {
    codes.data()[i] = static_cast<std::byte>(random() % 0x7F | (random() % 2) << 7);
    const std::int64_t head = i / 32 % 2 + i / (count / 2) * 2;
    const double value = test_support::oracle_decode(codes.data() + i, DType::kFloat8E4M3);
    decoded[static_cast<std::size_t>(i)] = static_cast<float>(value * double{scales[static_cast<std::size_t>(head)]});
  }
  pikv::ConstKvView float8{.layout = layout, .k_base = codes.data(), .num_slots = kTokens};
  float8.layout.dtype = DType::kFloat8E4M3;
  float8.v_base = codes.data() + pikv::slab_value_offset(g, kTokens);
  float8.scales = {.k = scales.data(), .v = scales.data(), .layer_stride = 2, .head_stride = 1};
  const pikv::ConstKvView plain = pikv::plain_view(
      g, pikv::ConstSlabView{.data = reinterpret_cast<const std::byte*>(decoded.data()), .num_tokens = kTokens});
  for (const bool back : {false, true}) {
    std::vector<std::vector<std::byte>> results;
    for (const pikv::ConstKvView& source : {float8, plain}) {
      std::vector<std::byte> out(static_cast<std::size_t>(count) * 4);
      pikv::KvView target{.layout = layout, .k_base = out.data(), .num_slots = kTokens};
      target.v_base = out.data() + pikv::slab_value_offset(g, kTokens) * 4;
      const pikv::KvRun run{.source = source,
                            .source_slots = SlotMap::consecutive(0, kTokens),
                            .target_slots = SlotMap::consecutive(0, kTokens),
                            .positions = pikv::PositionMap::consecutive(100)};
      const pikv::KvTransfer transfer{
          .geometry = g, .runs = {&run, 1}, .target = target, .rope = table.view(), .layer_end = 2};
      const pikv::Status status =
          back ? backend->unanchor_async(transfer, kStream) : backend->reanchor_async(transfer, kStream);
      REQUIRE_MESSAGE(status.ok(), status.to_string());
      results.push_back(std::move(out));
    }
    CHECK(results[0] == results[1]);
  }
}

TEST_CASE("transfers with a bad slab are refused by name") {
  const auto backend = pikv::make_cpu_backend();
  const KvGeometry g{.num_layers = 3, .num_kv_heads = 2, .head_dim = 16, .rotary_dim = 16, .dtype = DType::kFloat32};
  std::mt19937 random(1);
  const Chunk chunk(g, SlabFormat::kInt8, false, random);
  const auto check_refused = [&](const std::string& field, const auto& change, bool unanchors = false,
                                 pikv::ErrorCode code = pikv::ErrorCode::kInvalidArgument) {
    Target target({.geometry = g}, DType::kFloat32, 1);
    pikv::KvRun run;
    run.slab = chunk.view;
    run.source_slots = run.target_slots = SlotMap::consecutive(0, kTokens);
    pikv::KvTransfer transfer{
        .geometry = g, .runs = {&run, 1}, .target = target.view[0]->view(), .rope = {}, .layer_end = 3};
    change(transfer, run);
    const pikv::Status status =
        unanchors ? backend->unanchor_async(transfer, kStream) : backend->reanchor_async(transfer, kStream);
    CAPTURE(field);
    CAPTURE(status.to_string());
    CHECK(status.code() == code);
    CHECK(status.message().find(field) != std::string_view::npos);
  };
  using pikv::KvRun;
  using pikv::KvTransfer;
  check_refused("runs[0].slab: SlabView: num_tokens", [](KvTransfer&, KvRun& r) {
    static const std::vector<pikv::Slot> slots(kTokens, 0);
    r.slab.num_tokens = -1;
    r.source_slots = SlotMap::per_token(slots.data(), kTokens);
  });
  check_refused("runs[0].slab: SlabView: data is not aligned", [](KvTransfer&, KvRun& r) { r.slab.data += 4; });
  check_refused("runs[0].slab.space", [](KvTransfer&, KvRun& r) { r.slab.space = pikv::MemorySpace::kDevice; });
  check_refused("encoding.format", [](KvTransfer&, KvRun& r) { r.slab.encoding.format = static_cast<SlabFormat>(4); });
  check_refused("runs[0].source_slots",
                [](KvTransfer&, KvRun& r) { r.source_slots = SlotMap::consecutive(1, kTokens); });
  const std::vector<pikv::Slot> beyond(kTokens, kTokens);
  check_refused("runs[0].source_slots[0]",
                [&](KvTransfer&, KvRun& r) { r.source_slots = SlotMap::per_token(beyond.data(), kTokens); });
  check_refused(
      "runs[0].slab", [](KvTransfer&, KvRun&) {}, /*unanchors=*/true);
  check_refused(
      "target.layout.k.dim",
      [](KvTransfer& t, KvRun&) {
        t.target.layout.dtype = DType::kFloat8E4M3;
        t.target.layout.k.dim = t.target.layout.k.layer * 3;
      },
      false, pikv::ErrorCode::kUnsupported);
}

TEST_CASE("a table is its own copy where the backend works in host memory") {
  const auto backend = pikv::make_cpu_backend();
  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, 16, 8).value();
  const auto copy = pikv::copy_table(table, *backend, backend->memory_resource());
  REQUIRE(copy.ok());
  CHECK(copy->view().values == table.view().values);
  const auto stream = backend->create_stream();
  REQUIRE(stream.ok());
  CHECK(backend->synchronize((*stream)->ref()).ok());
}

}  // namespace
