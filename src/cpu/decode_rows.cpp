#include "cpu/decode_rows.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "pikv/detail/quantize.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

constexpr std::array<float, 256> make_float8_values() noexcept {
  std::array<float, 256> values{};
  for (std::size_t code = 0; code < values.size(); ++code) {
    values[code] = detail::float8_e4m3_to_float(static_cast<std::uint8_t>(code));
  }
  return values;
}
constexpr std::array<float, 256> kFloat8Values = make_float8_values();

float load_float16(const std::byte* data) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return detail::float16_to_float(bits);
}

float load_float(const std::byte* data) noexcept {
  float value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

void add(const float* terms, std::int64_t count, float* row) noexcept {
  for (std::int64_t i = 0; i < count; ++i) row[i] += terms[i];
}

/// decode_int4() without a call of fma: the product of a 4-bit code and an fp16 number is exact in fp32, so a sum that
/// is rounded once is the same, and vectorises on every CPU.
float decode_nibble(unsigned code, float scale, float minimum) noexcept {
  return static_cast<float>(static_cast<int>(code)) * scale + minimum;
}

}  // namespace

void decode_float8_row(const std::byte* codes, float scale, std::int64_t count, float* values) noexcept {
  for (std::int64_t i = 0; i < count; ++i) {
    values[i] = kFloat8Values[std::to_integer<std::size_t>(codes[i])] * scale;
  }
}

void encode_float8_row(const float* values, float scale, std::int64_t count, std::byte* codes) noexcept {
  for (std::int64_t i = 0; i < count; ++i) codes[i] = std::byte{detail::encode_float8(values[i], scale)};
}

SlabRows::SlabRows(const KvGeometry& geometry, const ConstSlabView& slab, Side side, std::int32_t layer,
                   float* scratch) noexcept
    : geometry_(geometry), format_(slab.encoding.format), side_(side) {
  const SlabSections sections = slab_sections(geometry, format_, slab.num_tokens);
  const std::byte* const base = slab.data + layer * sections.layer_bytes;
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  const bool is_key = side == Side::kKey;
  codes_ = base + (is_key ? sections.k_codes : sections.v_codes);
  scales_ = base + (is_key ? sections.k_scales : sections.v_scales);
  sinks_ = base + (is_key ? sections.k_sinks : sections.v_sinks);
  bias_ = is_key && slab.encoding.key_bias != nullptr ? slab.encoding.key_bias + layer * row : nullptr;
  key_scales_ = scratch;
  key_minima_ = scratch + row;
}

void SlabRows::decode(Slot token, float* row) noexcept {
  const std::int64_t row_elements = std::int64_t{geometry_.num_kv_heads} * geometry_.head_dim;
  switch (format_) {
    case SlabFormat::kPlain:  // is a view, and read as one
      return;
    case SlabFormat::kFloat8:
      decode_float8(token, row);
      break;
    case SlabFormat::kInt8:
      decode_int8(token, row);
      break;
    case SlabFormat::kInt4:
      if (token < kInt4SinkTokens) {
        for (std::int64_t i = 0; i < row_elements; ++i) {
          std::uint16_t bits;
          std::memcpy(&bits, sinks_ + (token * row_elements + i) * 2, sizeof bits);
          row[i] = detail::bfloat16_to_float(bits);
        }
        return;  // without bias, as they were stored
      }
      decode_int4(token, row);
      break;
  }
  if (bias_ != nullptr) add(bias_, row_elements, row);
}

void SlabRows::decode_float8(Slot token, float* row) const noexcept {
  const std::int64_t head_dim = geometry_.head_dim;
  for (std::int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    const std::int64_t at = (token * geometry_.num_kv_heads + head) * head_dim;
    decode_float8_row(codes_ + at, load_float(scales_ + std::int64_t{head} * 4), head_dim, row + head * head_dim);
  }
}

void SlabRows::decode_int8(Slot token, float* row) noexcept {
  const std::int64_t head_dim = geometry_.head_dim;
  const std::int64_t row_elements = geometry_.num_kv_heads * head_dim;
  const auto* const codes = reinterpret_cast<const std::int8_t*>(codes_ + token * row_elements);
  if (side_ == Side::kKey) {
    load_key_scales(0, /*has_minima=*/false);
    for (std::int64_t i = 0; i < row_elements; ++i) row[i] = static_cast<float>(codes[i]) * key_scales_[i];
    return;
  }
  for (std::int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    const float scale = load_float16(scales_ + (token * geometry_.num_kv_heads + head) * 2);
    for (std::int64_t i = head * head_dim; i < (head + 1) * head_dim; ++i)
      row[i] = static_cast<float>(codes[i]) * scale;
  }
}

void SlabRows::decode_int4(Slot token, float* row) noexcept {
  const std::int64_t head_dim = geometry_.head_dim;
  const std::int64_t code_bytes = (head_dim + 1) / 2;
  const std::int64_t num_groups = (head_dim + kInt4GroupChannels - 1) / kInt4GroupChannels;
  if (side_ == Side::kKey) load_key_scales(token / kInt4GroupTokens, /*has_minima=*/true);
  for (std::int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    const std::int64_t at = token * geometry_.num_kv_heads + head;
    const auto* const codes = reinterpret_cast<const std::uint8_t*>(codes_ + at * code_bytes);
    float* const out = row + head * head_dim;
    if (side_ == Side::kKey) {
      const float* const scales = key_scales_ + head * head_dim;
      const float* const minima = key_minima_ + head * head_dim;
      for (std::int64_t i = 0; i < head_dim / 2; ++i) {
        out[2 * i] = decode_nibble(codes[i] & 15U, scales[2 * i], minima[2 * i]);
        out[2 * i + 1] = decode_nibble(codes[i] >> 4U, scales[2 * i + 1], minima[2 * i + 1]);
      }
      if (head_dim % 2 != 0) {
        const std::int64_t last = head_dim - 1;
        out[last] = decode_nibble(codes[last / 2] & 15U, scales[last], minima[last]);
      }
      continue;
    }
    for (std::int64_t group = 0; group < num_groups; ++group) {
      const std::byte* const pair = scales_ + (at * num_groups + group) * 4;
      const float scale = load_float16(pair);
      const float minimum = load_float16(pair + 2);
      const std::int64_t begin = group * kInt4GroupChannels;
      const std::int64_t end = std::min(begin + kInt4GroupChannels, head_dim);
      for (std::int64_t i = begin / 2; i < end / 2; ++i) {
        out[2 * i] = decode_nibble(codes[i] & 15U, scale, minimum);
        out[2 * i + 1] = decode_nibble(codes[i] >> 4U, scale, minimum);
      }
      if (end % 2 != 0) out[end - 1] = decode_nibble(codes[end / 2] & 15U, scale, minimum);
    }
  }
}

void SlabRows::load_key_scales(std::int64_t group, bool has_minima) noexcept {
  if (group == loaded_group_) return;
  loaded_group_ = group;
  const std::int64_t row_elements = std::int64_t{geometry_.num_kv_heads} * geometry_.head_dim;
  const std::int64_t step = has_minima ? 4 : 2;
  const std::byte* const scales = scales_ + group * row_elements * step;
  for (std::int64_t i = 0; i < row_elements; ++i) key_scales_[i] = load_float16(scales + i * step);
  if (!has_minima) return;
  for (std::int64_t i = 0; i < row_elements; ++i) key_minima_[i] = load_float16(scales + i * step + 2);
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
