#include "support/slab_oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "support/oracle.hpp"

namespace test_support {
namespace {

using pikv::DType;
using pikv::KvGeometry;
using pikv::SlabFormat;

constexpr std::int64_t kSinks = 4;
constexpr std::int64_t kGroup = 32;

/// Offsets within one layer, and how long each part is.
struct Part {
  std::int64_t begin = 0;
  std::int64_t bytes = 0;
};
struct Parts {
  Part k_codes, v_codes, k_scales, v_scales, k_sinks, v_sinks;
  std::int64_t layer_bytes = 0;
};

Parts parts_of(const KvGeometry& g, SlabFormat format, std::int64_t t) {
  const std::int64_t h = g.num_kv_heads;
  const std::int64_t d = g.head_dim;
  Parts parts;
  std::int64_t codes = t * h * d;
  if (format == SlabFormat::kPlain) codes *= g.dtype == DType::kFloat32 ? 4 : 2;
  if (format == SlabFormat::kFloat8) parts.k_scales.bytes = parts.v_scales.bytes = 4 * h;
  if (format == SlabFormat::kInt8) {
    parts.k_scales.bytes = 2 * h * d;
    parts.v_scales.bytes = 2 * t * h;
  }
  if (format == SlabFormat::kInt4) {
    codes = t * h * (d / 2 + d % 2);
    parts.k_scales.bytes = (t / kGroup + (t % kGroup != 0)) * h * d * 4;
    parts.v_scales.bytes = t * h * (d / kGroup + (d % kGroup != 0)) * 4;
    parts.k_sinks.bytes = parts.v_sinks.bytes = std::min(t, kSinks) * h * d * 2;
  }
  parts.k_codes.bytes = parts.v_codes.bytes = codes;
  for (Part* part :
       {&parts.k_codes, &parts.v_codes, &parts.k_scales, &parts.v_scales, &parts.k_sinks, &parts.v_sinks}) {
    part->begin = parts.layer_bytes;
    parts.layer_bytes += part->bytes;
    while (format != SlabFormat::kPlain && parts.layer_bytes % 64 != 0) ++parts.layer_bytes;
  }
  return parts;
}

double load(const std::byte* at, DType dtype) { return oracle_decode(at, dtype); }

void put(std::byte* at, std::uint32_t bits, std::int32_t num_bytes) {
  for (std::int32_t i = 0; i < num_bytes; ++i) at[i] = static_cast<std::byte>(bits >> (8 * i) & 0xFFU);
}

/// An fp16 number next to `value` on the given side, finite.
double fp16_at_most(double value) {
  const int exponent = value == 0 ? -14 : std::max(std::ilogb(value), -14);
  const double step = std::ldexp(1.0, exponent - 10);
  return std::clamp(std::floor(value / step) * step, -65504.0, 65504.0);
}
double fp16_at_least(double value) { return -fp16_at_most(-value); }

double largest_finite(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(double{value}));
  }
  return largest;
}

struct Group {
  double scale = 0;
  double minimum = 0;
};

Group group_of(const std::vector<float>& values) {
  std::vector<double> finite;
  for (const float value : values) {
    if (std::isfinite(value)) finite.push_back(value);
  }
  if (finite.empty()) return {};
  const auto [low, high] = std::minmax_element(finite.begin(), finite.end());
  Group group;
  group.minimum = fp16_at_most(*low);
  if (group.minimum == 0) group.minimum = 0;  // never minus zero
  const double range = static_cast<float>(*high - group.minimum);
  group.scale = range > 0 ? fp16_at_least(static_cast<float>(range / 15)) : 0;
  return group;
}

/// fp32 quotients, as the library defines codes; a quotient of two floats that is rounded to double first rounds to the
/// same float.
double quotient(double value, double scale) { return static_cast<float>(value / scale); }

std::uint32_t int8_code(double value, double scale) {
  if (scale == 0 || std::isnan(value)) return 0;
  const double code = std::clamp(std::nearbyint(quotient(value, scale)), -127.0, 127.0);
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(code)) & 0xFFU;
}

std::uint32_t int4_code(double value, Group group) {
  if (group.scale == 0 || std::isnan(value)) return 0;
  const double above = static_cast<float>(value - group.minimum);
  return static_cast<std::uint32_t>(std::clamp(std::nearbyint(quotient(above, group.scale)), 0.0, 15.0));
}

/// One side of one layer, [T][H][D], and where its parts lie.
struct SideView {
  const KvGeometry& g;
  std::int64_t num_tokens;
  bool is_key;
  const float* bias;  // [H][D], null: none

  [[nodiscard]] std::size_t at(std::int64_t t, std::int64_t h, std::int64_t d) const {
    return static_cast<std::size_t>((t * g.num_kv_heads + h) * g.head_dim + d);
  }
  [[nodiscard]] float bias_of(std::int64_t h, std::int64_t d) const {
    return bias == nullptr || !is_key ? 0.0F : bias[h * g.head_dim + d];
  }
  /// Byte of an int4 code, and its shift.
  [[nodiscard]] std::int64_t nibble_byte(std::int64_t t, std::int64_t h, std::int64_t d) const {
    return (t * g.num_kv_heads + h) * ((g.head_dim + 1) / 2) + d / 2;
  }
  [[nodiscard]] std::int64_t int4_group(std::int64_t t, std::int64_t h, std::int64_t d) const {
    if (is_key) return (t / kGroup * g.num_kv_heads + h) * g.head_dim + d;
    return (t * g.num_kv_heads + h) * ((g.head_dim + kGroup - 1) / kGroup) + d / kGroup;
  }
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (std::int64_t t = 0; t < num_tokens; ++t) {
      for (std::int64_t h = 0; h < g.num_kv_heads; ++h) {
        for (std::int64_t d = 0; d < g.head_dim; ++d) visit(t, h, d);
      }
    }
  }
};

void encode_side(const SideView& side, SlabFormat format, std::vector<float> rows, std::byte* codes, std::byte* scales,
                 std::byte* sinks) {
  const KvGeometry& g = side.g;
  const std::vector<float> original = rows;
  if (side.is_key && side.bias != nullptr && format != SlabFormat::kPlain) {
    side.for_each([&](auto t, auto h, auto d) { rows[side.at(t, h, d)] -= side.bias_of(h, d); });
  }
  // What shares a scale, by the number of that scale.
  std::vector<std::vector<float>> sharing;
  const auto scale_of = [&](std::int64_t t, std::int64_t h, std::int64_t d) -> std::int64_t {
    if (format == SlabFormat::kFloat8) return h;
    if (format == SlabFormat::kInt8) return side.is_key ? h * g.head_dim + d : t * g.num_kv_heads + h;
    return side.int4_group(t, h, d);
  };
  const auto is_sink = [&](std::int64_t t) { return format == SlabFormat::kInt4 && t < kSinks; };
  side.for_each([&](auto t, auto h, auto d) {
    const auto index = static_cast<std::size_t>(scale_of(t, h, d));
    if (sharing.size() <= index) sharing.resize(index + 1);
    if (!is_sink(t)) sharing[index].push_back(rows[side.at(t, h, d)]);
  });
  std::vector<Group> groups(sharing.size());
  for (std::size_t i = 0; i < sharing.size(); ++i) {
    const double largest = largest_finite(sharing[i]);
    if (format == SlabFormat::kFloat8) {
      groups[i].scale = largest == 0 ? 1 : static_cast<float>(largest / 448);
      put(scales + i * 4, oracle_bits(groups[i].scale, DType::kFloat32), 4);
    } else if (format == SlabFormat::kInt8) {
      groups[i].scale = fp16_at_least(static_cast<float>(largest / 127));
      put(scales + i * 2, oracle_bits(groups[i].scale, DType::kFloat16), 2);
    } else if (format == SlabFormat::kInt4) {
      groups[i] = group_of(sharing[i]);
      put(scales + i * 4, oracle_bits(groups[i].scale, DType::kFloat16), 2);
      put(scales + i * 4 + 2, oracle_bits(groups[i].minimum, DType::kFloat16), 2);
    }
  }
  side.for_each([&](auto t, auto h, auto d) {
    const std::size_t at = side.at(t, h, d);
    const double value = rows[at];
    const Group& group = groups[static_cast<std::size_t>(scale_of(t, h, d))];
    if (format == SlabFormat::kPlain) {
      const auto bytes = static_cast<std::int32_t>(pikv::dtype_bytes(g.dtype));
      put(codes + at * static_cast<std::size_t>(bytes), oracle_bits(value, g.dtype), bytes);
    } else if (format == SlabFormat::kFloat8) {
      codes[at] = static_cast<std::byte>(oracle_bits(quotient(value, group.scale), DType::kFloat8E4M3));
    } else if (format == SlabFormat::kInt8) {
      codes[at] = static_cast<std::byte>(int8_code(value, group.scale));
    } else {
      const std::uint32_t code = is_sink(t) ? 0 : int4_code(value, group);
      std::byte& byte = codes[side.nibble_byte(t, h, d)];
      if (d % 2 == 0) byte = std::byte{0};
      byte |= static_cast<std::byte>(code << (d % 2 * 4));
      if (is_sink(t)) put(sinks + at * 2, oracle_bits(original[at], DType::kBFloat16), 2);
    }
  });
}

/// Calls visit(index, decoded value without bias, scale, is_sink) for every element of one side of one layer.
template <class Visit>
void read_side(const SideView& side, SlabFormat format, const std::byte* codes, const std::byte* scales,
               const std::byte* sinks, const Visit& visit) {
  const KvGeometry& g = side.g;
  side.for_each([&](auto t, auto h, auto d) {
    const std::size_t at = side.at(t, h, d);
    if (format == SlabFormat::kPlain) {
      visit(at, h, d, load(codes + at * static_cast<std::size_t>(pikv::dtype_bytes(g.dtype)), g.dtype), 0.0, true);
    } else if (format == SlabFormat::kFloat8) {
      const double scale = load(scales + h * 4, DType::kFloat32);
      visit(at, h, d, load(codes + at, DType::kFloat8E4M3) * scale, scale, false);
    } else if (format == SlabFormat::kInt8) {
      const std::int64_t index = side.is_key ? h * g.head_dim + d : t * g.num_kv_heads + h;
      const double scale = load(scales + index * 2, DType::kFloat16);
      const int bits = std::to_integer<int>(codes[at]);
      visit(at, h, d, (bits < 128 ? bits : bits - 256) * scale, scale, false);
    } else if (t < kSinks) {
      visit(at, h, d, load(sinks + at * 2, DType::kBFloat16), 0.0, true);
    } else {
      const std::byte* const pair = scales + side.int4_group(t, h, d) * 4;
      const double scale = load(pair, DType::kFloat16);
      const int code = std::to_integer<int>(codes[side.nibble_byte(t, h, d)]) >> (d % 2 * 4) & 15;
      visit(at, h, d, code * scale + load(pair + 2, DType::kFloat16), scale, false);
    }
  });
}

}  // namespace

std::uint32_t oracle_bits(double value, DType dtype) {
  struct Format {
    std::int32_t significand_bits, exponent_bits;
  };
  const Format format = dtype == DType::kFloat32    ? Format{23, 8}
                        : dtype == DType::kFloat16  ? Format{10, 5}
                        : dtype == DType::kBFloat16 ? Format{7, 8}
                                                    : Format{3, 4};
  const bool is_float8 = dtype == DType::kFloat8E4M3;
  const std::uint32_t sign = std::signbit(value) ? 1U << (format.significand_bits + format.exponent_bits) : 0U;
  const std::uint32_t max_exponent = (1U << format.exponent_bits) - 1;
  const std::uint32_t infinity = max_exponent << format.significand_bits;
  if (std::isnan(value)) return is_float8 ? 0x7FU : (sign | infinity | 1U << (format.significand_bits - 1));
  const std::int32_t bias = static_cast<std::int32_t>(max_exponent / 2);
  const double magnitude = std::abs(value);
  if (is_float8 && magnitude > 448) return sign | 0x7EU;
  if (std::isinf(value)) return sign | infinity;
  if (magnitude == 0) return sign;
  const std::int32_t exponent = std::max(std::ilogb(magnitude), 1 - bias);
  // In steps of the exponent: at least 2^significand_bits of them, unless subnormal, and rounding may carry.
  const double steps = std::nearbyint(std::ldexp(magnitude, format.significand_bits - exponent));
  const auto field = static_cast<std::uint32_t>(exponent + bias - 1) << format.significand_bits;
  const std::uint32_t bits = field + static_cast<std::uint32_t>(steps);
  return sign | std::min(bits, is_float8 ? 0x7EU : infinity);
}

OracleSlab oracle_encode_slab(const KvGeometry& geometry, SlabFormat format, std::int64_t num_tokens,
                              const SlabRows& rows, const float* bias) {
  const Parts parts = parts_of(geometry, format, num_tokens);
  OracleSlab slab;
  slab.bytes.resize(static_cast<std::size_t>(geometry.num_layers * parts.layer_bytes), std::byte{0});
  slab.is_read.resize(slab.bytes.size(), false);
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  for (std::int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    std::byte* const base = slab.bytes.data() + layer * parts.layer_bytes;
    for (const Part& part :
         {parts.k_codes, parts.v_codes, parts.k_scales, parts.v_scales, parts.k_sinks, parts.v_sinks}) {
      std::fill_n(slab.is_read.begin() + layer * parts.layer_bytes + part.begin, part.bytes, true);
    }
    const auto of_layer = [&](const std::vector<float>& all) {
      const auto begin = all.begin() + layer * num_tokens * row;
      return std::vector<float>(begin, begin + num_tokens * row);
    };
    const float* const layer_bias = bias == nullptr ? nullptr : bias + layer * row;
    encode_side({geometry, num_tokens, true, layer_bias}, format, of_layer(rows.keys), base + parts.k_codes.begin,
                base + parts.k_scales.begin, base + parts.k_sinks.begin);
    encode_side({geometry, num_tokens, false, nullptr}, format, of_layer(rows.values), base + parts.v_codes.begin,
                base + parts.v_scales.begin, base + parts.v_sinks.begin);
  }
  return slab;
}

namespace {

/// Calls visit(side, index into [L][T][H][D], bias, decoded value, scale, is_sink) for every element of a slab.
template <class Visit>
void read_slab(const KvGeometry& geometry, SlabFormat format, std::int64_t num_tokens, const std::byte* slab,
               const float* bias, const Visit& visit) {
  const Parts parts = parts_of(geometry, format, num_tokens);
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  for (std::int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    const std::byte* const base = slab + layer * parts.layer_bytes;
    const auto first = static_cast<std::size_t>(layer * num_tokens * row);
    for (const bool is_key : {true, false}) {
      const SideView side{geometry, num_tokens, is_key, bias == nullptr ? nullptr : bias + layer * row};
      read_side(side, format, base + (is_key ? parts.k_codes : parts.v_codes).begin,
                base + (is_key ? parts.k_scales : parts.v_scales).begin,
                base + (is_key ? parts.k_sinks : parts.v_sinks).begin,
                [&](std::size_t at, auto h, auto d, double value, double scale, bool is_verbatim) {
                  const bool is_biased = is_key && bias != nullptr && !is_verbatim;
                  visit(is_key, first + at, is_biased, side.bias_of(h, d), value, scale);
                });
    }
  }
}

SlabRows empty_rows(const KvGeometry& geometry, std::int64_t num_tokens) {
  const auto count = static_cast<std::size_t>(std::int64_t{geometry.num_layers} * num_tokens * geometry.num_kv_heads *
                                              geometry.head_dim);
  return {std::vector<float>(count), std::vector<float>(count)};
}

}  // namespace

SlabRows oracle_decode_slab(const KvGeometry& geometry, SlabFormat format, std::int64_t num_tokens,
                            const std::byte* slab, const float* bias) {
  SlabRows rows = empty_rows(geometry, num_tokens);
  read_slab(geometry, format, num_tokens, slab, bias,
            [&](bool is_key, std::size_t at, bool is_biased, float bias_value, double value, double) {
              // Two numbers of fp32 precision add up in double without a second rounding that could show.
              const float decoded = static_cast<float>(value);
              (is_key ? rows.keys : rows.values)[at] =
                  is_biased ? static_cast<float>(double{decoded} + double{bias_value}) : decoded;
            });
  return rows;
}

SlabRows oracle_slab_error(const KvGeometry& geometry, SlabFormat format, std::int64_t num_tokens,
                           const std::byte* slab, const SlabRows& rows, const float* bias) {
  SlabRows errors = empty_rows(geometry, num_tokens);
  const bool is_verbatim = format == SlabFormat::kPlain;
  read_slab(geometry, format, num_tokens, slab, bias,
            [&](bool is_key, std::size_t at, bool, float bias_value, double value, double scale) {
              const double original = (is_key ? rows.keys : rows.values)[at];
              double error = scale / 2;
              if (is_verbatim) error = oracle_half_ulp(original, geometry.dtype);
              if (!is_verbatim && scale == 0) error = oracle_half_ulp(original, DType::kBFloat16) + 0x1p-24;
              if (format == SlabFormat::kFloat8) {
                const double code = std::abs(value / scale);
                error = oracle_half_ulp(code, DType::kFloat8E4M3) * scale;
              }
              const double roundings = (std::abs(original) + std::abs(double{bias_value}) + std::abs(value)) * 0x1p-21;
              (is_key ? errors.keys : errors.values)[at] = static_cast<float>(error * (1 + 0x1p-10) + roundings);
            });
  return errors;
}

}  // namespace test_support
