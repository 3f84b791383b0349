// Encoding on the CPU, against the independent oracle: every byte that a decoder reads, and how far decoded numbers lie
// from what was encoded.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/detail/rotate.hpp"
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
constexpr pikv::Position kFirstPosition = 1000;
constexpr SlabFormat kEncodedFormats[] = {SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4};

struct EncodeCase {
  KvGeometry geometry;
  SlabFormat format = SlabFormat::kInt8;
  std::int64_t num_tokens = 0;
  DType source_dtype = DType::kFloat32;
  test_support::LayoutKind layout = test_support::LayoutKind::kNhd;
  bool has_bias = false;
  bool turned = false;
  pikv::Pairing pairing = pikv::Pairing::kHalfSplit;
  bool has_odd_numbers = false;  // NaN, infinities, zeros of both signs

  [[nodiscard]] std::string name() const {
    return std::string(slab_format_name(format)) + " T" + std::to_string(num_tokens) + " H" +
           std::to_string(geometry.num_kv_heads) + " D" + std::to_string(geometry.head_dim) + " from " +
           dtype_name(source_dtype) + " " + layout_name(layout) + (has_bias ? " bias" : "") +
           (turned ? " turned" : "") + (has_odd_numbers ? " odd numbers" : "");
  }
};

/// A source with random content, and the fp32 rows that encoding has to see.
struct EncodeWorld {
  explicit EncodeWorld(const EncodeCase& c)
      : random(7),
        placement(place_source(c)),
        source(placement.num_elements * pikv::dtype_bytes(c.source_dtype)),
        view(placement, c.geometry.num_layers, source.data()),
        sections(pikv::slab_sections(c.geometry, c.format, c.num_tokens)),
        target(sections.slab_bytes(c.geometry.num_layers)) {
    const std::int32_t rotary_dim = c.geometry.rotary_dim;
    const pikv::RopeConfig rope(10000.0, c.pairing, pikv::AngleRule::kExact);
    table.emplace_back(pikv::RopeTable::build(rope, rotary_dim, 1200).value());
    fill(c);
    read_rows(c);
    if (c.has_bias) {
      std::normal_distribution<float> normal(0, 20);
      bias.resize(static_cast<std::size_t>(c.geometry.elements_per_token() / 2));
      for (float& b : bias) b = normal(random);
    }
    encode.geometry = c.geometry;
    encode.source = pikv::as_const(view.view());
    encode.source_slots = SlotMap::consecutive(2, c.num_tokens);
    encode.positions = pikv::PositionMap::consecutive(kFirstPosition);
    if (c.turned) encode.rope = table[0].view();
    encode.target = {.data = target.data(),
                     .num_tokens = c.num_tokens,
                     .encoding = {.format = c.format, .key_bias = c.has_bias ? bias.data() : nullptr}};
    encode.layer_end = c.geometry.num_layers;
  }

  test_support::Placement place_source(const EncodeCase& c) {
    KvGeometry geometry = c.geometry;
    geometry.dtype = c.source_dtype == DType::kFloat8E4M3 ? DType::kFloat32 : c.source_dtype;
    test_support::Placement placed = place(c.layout, geometry, 16, c.num_tokens + 5, random);
    placed.layout.dtype = c.source_dtype;
    return placed;
  }

  void fill(const EncodeCase& c) {
    std::normal_distribution<float> normal;
    const auto bytes = static_cast<std::int32_t>(pikv::dtype_bytes(c.source_dtype));
    constexpr float kOdd[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              0.0F,
                              -0.0F,
                              1e-30F};
    for (std::int64_t i = 0; i < placement.num_elements; ++i) {
      float value = normal(random);
      if (c.has_odd_numbers && random() % 4 == 0) value = kOdd[random() % 6];
      const std::uint32_t bits = test_support::oracle_bits(value, c.source_dtype);
      std::memcpy(source.data() + i * bytes, &bits, static_cast<std::size_t>(bytes));
    }
  }

  void read_rows(const EncodeCase& c) {
    const KvGeometry& g = c.geometry;
    const pikv::RopeTableView rope = table[0].view();
    const auto load = [&](test_support::Side side, std::int32_t layer, std::int64_t t, std::int32_t h, std::int32_t d) {
      const std::int64_t at = oracle_address(placement, side, layer, t + 2, h, d);
      return static_cast<float>(test_support::oracle_decode(source.data() + at, c.source_dtype));
    };
    for (std::int32_t layer = 0; layer < g.num_layers; ++layer) {
      for (std::int64_t t = 0; t < c.num_tokens; ++t) {
        for (std::int32_t h = 0; h < g.num_kv_heads; ++h) {
          const std::size_t begin = rows.keys.size();
          for (std::int32_t d = 0; d < g.head_dim; ++d) {
            rows.keys.push_back(load(test_support::Side::kKey, layer, t, h, d));
            rows.values.push_back(load(test_support::Side::kValue, layer, t, h, d));
          }
          const auto position = static_cast<pikv::Position>(kFirstPosition + t);
          for (std::int32_t i = 0; c.turned && i < rope.half_dim; ++i) {
            const bool interleaved = c.pairing == pikv::Pairing::kInterleaved;
            float& first = rows.keys[begin + static_cast<std::size_t>(interleaved ? 2 * i : i)];
            float& second = rows.keys[begin + static_cast<std::size_t>(interleaved ? 2 * i + 1 : i + rope.half_dim)];
            const pikv::detail::RotatedPair back = pikv::detail::unrotate(first, second, rope.cos(position)[i],
                                                                          rope.sin(position)[i], rope.inverse_square);
            first = back.first;
            second = back.second;
          }
        }
      }
    }
  }

  std::mt19937 random;
  test_support::Placement placement;
  GuardedBuffer source;
  test_support::PlacedView view;
  pikv::SlabSections sections;
  GuardedBuffer target;
  std::vector<pikv::RopeTable> table;
  std::vector<float> bias;
  test_support::SlabRows rows;  // [L][T][H][D]
  pikv::SlabEncode encode;
};

void check_bytes(const EncodeCase& c, const EncodeWorld& world) {
  const float* const bias = c.has_bias ? world.bias.data() : nullptr;
  const test_support::OracleSlab expected = oracle_encode_slab(c.geometry, c.format, c.num_tokens, world.rows, bias);
  REQUIRE(static_cast<std::int64_t>(expected.bytes.size()) == world.target.size_bytes());
  // The sign of a NaN that turning makes is nobody's promise; of encoded numbers only sinks can keep one.
  const auto is_sink_nan = [&](std::size_t i) {
    if (static_cast<std::int64_t>(i) % world.sections.layer_bytes < world.sections.k_sinks) return false;
    const std::size_t begin = i / 2 * 2;
    return std::isnan(test_support::oracle_decode(world.target.data() + begin, DType::kBFloat16)) &&
           std::isnan(test_support::oracle_decode(expected.bytes.data() + begin, DType::kBFloat16));
  };
  Comparison comparison(c.name());
  for (std::size_t i = 0; i < expected.bytes.size(); ++i) {
    if (!expected.is_read[i] || (c.turned && c.format == SlabFormat::kInt4 && is_sink_nan(i))) continue;
    comparison.expect_same_bits(std::to_integer<std::uint64_t>(world.target.data()[i]),
                                std::to_integer<std::uint64_t>(expected.bytes[i]),
                                [&] { return "byte " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
  CHECK_MESSAGE(world.target.guards_intact(), c.name());
}

void check_errors(const EncodeCase& c, const EncodeWorld& world) {
  const float* const bias = c.has_bias ? world.bias.data() : nullptr;
  const test_support::SlabRows decoded =
      test_support::oracle_decode_slab(c.geometry, c.format, c.num_tokens, world.target.data(), bias);
  const test_support::SlabRows bounds =
      oracle_slab_error(c.geometry, c.format, c.num_tokens, world.target.data(), world.rows, bias);
  Comparison comparison(c.name());
  for (std::size_t i = 0; i < decoded.keys.size(); ++i) {
    comparison.expect_near(decoded.keys[i], world.rows.keys[i], bounds.keys[i],
                           [&] { return "key element " + std::to_string(i); });
    comparison.expect_near(decoded.values[i], world.rows.values[i], bounds.values[i],
                           [&] { return "value element " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

void check_case(pikv::Backend& backend, const EncodeCase& c) {
  EncodeWorld world(c);
  const pikv::Status status = backend.encode_async(world.encode, kStream);
  REQUIRE_MESSAGE(status.ok(), (c.name() + ": " + status.to_string()));
  check_bytes(c, world);
  if (!c.has_odd_numbers) check_errors(c, world);
}

KvGeometry geometry_of(std::int32_t num_heads, std::int32_t head_dim) {
  return {.num_layers = 2,
          .num_kv_heads = num_heads,
          .head_dim = head_dim,
          .rotary_dim = head_dim == 80 ? 32 : head_dim,
          .dtype = DType::kFloat32};
}

TEST_CASE("encoded slabs have the oracle's bytes and keep within half a step") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 3});
  constexpr DType kSources[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat8E4M3};
  std::uint32_t turn = 0;
  for (const SlabFormat format : kEncodedFormats) {
    for (const std::int64_t num_tokens : {1, 3, 4, 5, 31, 32, 33, 64, 100}) {
      for (const std::int32_t head_dim : {128, 64, 80, 14, 6, 7}) {
        EncodeCase c{.geometry = geometry_of(static_cast<std::int32_t>(turn % 3 + 1), head_dim),
                     .format = format,
                     .num_tokens = num_tokens};
        if (head_dim == 7) c.geometry.rotary_dim = 6;
        for (const bool has_bias : {false, true}) {
          c.has_bias = has_bias;
          c.source_dtype = kSources[turn++ % 4];
          c.turned = turn % 3 == 0;
          c.pairing = turn % 2 == 0 ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved;
          check_case(*backend, c);
          c.has_odd_numbers = c.source_dtype != DType::kFloat8E4M3;
          check_case(*backend, c);
          c.has_odd_numbers = false;
        }
      }
    }
  }
}

TEST_CASE("encoding reads every layout") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 2});
  for (const SlabFormat format : kEncodedFormats) {
    for (const test_support::LayoutKind layout : test_support::all_layouts()) {
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        check_case(*backend, {.geometry = geometry_of(3, 14),
                              .format = format,
                              .num_tokens = 37,
                              .source_dtype = dtype,
                              .layout = layout,
                              .turned = dtype == DType::kBFloat16});
      }
    }
  }
}

TEST_CASE("a plain slab is encoded as it is moved") {
  const auto backend = pikv::make_cpu_backend();
  for (const bool turned : {false, true}) {
    EncodeCase c{.geometry = geometry_of(2, 64), .format = SlabFormat::kPlain, .num_tokens = 33, .turned = turned};
    check_case(*backend, c);
    c.geometry.dtype = DType::kBFloat16;
    c.source_dtype = DType::kFloat16;
    check_case(*backend, c);
  }
}

TEST_CASE("layers outside the range keep their bytes") {
  const auto backend = pikv::make_cpu_backend();
  for (const SlabFormat format : kEncodedFormats) {
    EncodeWorld world({.geometry = geometry_of(2, 64), .format = format, .num_tokens = 40});
    world.encode.layer_begin = 1;
    REQUIRE(backend->encode_async(world.encode, kStream).ok());
    for (std::int64_t i = 0; i < world.sections.layer_bytes; ++i) {
      REQUIRE(world.target.data()[i] == GuardedBuffer::kPoison);
    }
  }
}

TEST_CASE("a refused encoding names its field and writes nothing") {
  const auto backend = pikv::make_cpu_backend();
  const auto check_refused = [&](const std::string& field, const auto& change,
                                 pikv::ErrorCode code = pikv::ErrorCode::kInvalidArgument) {
    EncodeWorld world({.geometry = geometry_of(2, 64), .format = SlabFormat::kInt8, .num_tokens = 40, .turned = true});
    change(world.encode);
    const pikv::Status status = backend->encode_async(world.encode, kStream);
    CAPTURE(field);
    CAPTURE(status.to_string());
    CHECK(status.code() == code);
    CHECK(status.message().find(field) != std::string_view::npos);
    for (std::int64_t i = 0; i < world.target.size_bytes(); ++i) {
      REQUIRE(world.target.data()[i] == GuardedBuffer::kPoison);
    }
  };
  using pikv::SlabEncode;
  check_refused("SlabEncode: layer_end", [](SlabEncode& e) { e.layer_end = 3; });
  check_refused("SlabEncode: rope.half_dim", [](SlabEncode& e) { e.rope.half_dim = 1; });
  check_refused("SlabEncode: target: SlabView: data is null", [](SlabEncode& e) { e.target.data = nullptr; });
  check_refused("SlabEncode: target: SlabView: data is not aligned", [](SlabEncode& e) { e.target.data += 32; });
  check_refused("SlabView: num_tokens", [](SlabEncode& e) { e.target.num_tokens = 0; });
  check_refused("SlabView: num_tokens",
                [](SlabEncode& e) { e.target.num_tokens = std::numeric_limits<std::int64_t>::max() / 64; });
  check_refused("encoding.format", [](SlabEncode& e) { e.target.encoding.format = static_cast<SlabFormat>(9); });
  check_refused("target.space", [](SlabEncode& e) { e.target.space = pikv::MemorySpace::kDevice; });
  check_refused("source: KvView: k_base", [](SlabEncode& e) { e.source.k_base = nullptr; });
  check_refused("source_slots", [](SlabEncode& e) { e.source_slots = SlotMap::consecutive(100, 40); });
  check_refused("source_slots.num_tokens", [](SlabEncode& e) { e.source_slots = SlotMap::consecutive(0, 39); });
  check_refused("positions", [](SlabEncode& e) { e.positions = pikv::PositionMap::consecutive(1161); });
  const std::vector<pikv::Slot> skipping(40, pikv::kSkipSlot);
  check_refused("source_slots[0]", [&](SlabEncode& e) { e.source_slots = SlotMap::per_token(skipping.data(), 40); });
  check_refused(
      "source.layout.v.dim",
      [](SlabEncode& e) {
        e.source.layout.dtype = DType::kFloat8E4M3;
        e.source.layout.v.dim = e.source.layout.v.layer * 2;
      },
      pikv::ErrorCode::kUnsupported);
}

}  // namespace
