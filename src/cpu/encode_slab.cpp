#include "cpu/encode_slab.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/decode_rows.hpp"
#include "cpu/head_reader.hpp"
#include "pikv/detail/quantize.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

constexpr std::int64_t kTokensAtOnce = HeadReader::kMaxTokens;

/// The largest magnitude of what is finite; 0 where nothing is.
float larger(float largest, float value) noexcept {
  const float magnitude = std::abs(value);
  return detail::is_finite(value) && magnitude > largest ? magnitude : largest;
}

/// Smallest and largest of what is finite.
class Range {
 public:
  void include(float value) noexcept {
    if (!detail::is_finite(value)) return;
    minimum_ = std::min(minimum_, value);
    maximum_ = std::max(maximum_, value);
  }
  [[nodiscard]] detail::Int4Group group() const noexcept {
    if (minimum_ > maximum_) return {0, 0};
    // Which zero comes first must not decide its sign.
    return detail::int4_group(minimum_ + 0.0F, maximum_);
  }

 private:
  float minimum_ = std::numeric_limits<float>::infinity();
  float maximum_ = -std::numeric_limits<float>::infinity();
};

template <class Value>
void store(std::byte* target, Value value) noexcept {
  std::memcpy(target, &value, sizeof value);
}

void store_group(std::byte* target, detail::Int4Group group) noexcept {
  store(target, group.scale);
  store(target + 2, group.minimum);
}

/// Half a byte for each channel, the even one in the low half; what is left over of the last byte is 0.
template <class Encode>
void store_nibbles(std::byte* target, std::int64_t head_dim, const Encode& encode) noexcept {
  for (std::int64_t d = 0; d < head_dim; d += 2) {
    const unsigned low = encode(d);
    const unsigned high = d + 1 < head_dim ? encode(d + 1) : 0U;
    target[d / 2] = static_cast<std::byte>(low | high << 4U);
  }
}

/// One head of one layer.
class HeadEncode {
 public:
  HeadEncode(const SlabEncode& encode, const SlabSections& sections, const RowKernels& kernels, std::int32_t layer,
             std::int32_t head, float* scratch) noexcept
      : sections_(sections),
        layer_(layer),
        head_(head),
        num_heads_(encode.geometry.num_kv_heads),
        head_dim_(encode.geometry.head_dim),
        num_tokens_(encode.target.num_tokens),
        base_(encode.target.data + layer * sections.layer_bytes),
        bias_(encode.target.encoding.key_bias),
        rows_(scratch),
        scales_(rows_ + kTokensAtOnce * head_dim_),
        minima_(scales_ + head_dim_),
        reader_({.view = encode.source,
                 .slots = encode.source_slots,
                 .positions = encode.positions,
                 .rope = encode.rope,
                 .direction = Direction::kUnanchor,
                 .head_dim = encode.geometry.head_dim},
                kernels, minima_ + head_dim_) {
    if (bias_ != nullptr) bias_ += (std::int64_t{layer} * num_heads_ + head) * head_dim_;
  }

  [[nodiscard]] static std::int64_t scratch_elements(const KvGeometry& geometry) noexcept {
    return (kTokensAtOnce + 2) * geometry.head_dim + HeadReader::scratch_elements(geometry);
  }

  void encode_float8(Side side) const noexcept {
    float largest = 0;
    for_each_tile(side, 0, [&](std::int64_t, std::int64_t count) {
      for (std::int64_t i = 0; i < count * head_dim_; ++i) largest = larger(largest, rows_[i]);
    });
    const float scale = detail::float8_scale(largest);
    store(base_ + (side == Side::kKey ? sections_.k_scales : sections_.v_scales) + std::int64_t{head_} * 4, scale);
    for_each_tile(side, 0, [&](std::int64_t begin, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        encode_float8_row(rows_ + i * head_dim_, scale, head_dim_, codes(side, begin + i, head_dim_));
      }
    });
  }

  void encode_int8_keys() const noexcept {
    float* const largest = scales_;
    std::fill_n(largest, head_dim_, 0.0F);
    for_each_tile(Side::kKey, 0, [&](std::int64_t, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t d = 0; d < head_dim_; ++d) largest[d] = larger(largest[d], rows_[i * head_dim_ + d]);
      }
    });
    std::byte* const scales = base_ + sections_.k_scales + head_ * head_dim_ * 2;
    for (std::int64_t d = 0; d < head_dim_; ++d) {
      const std::uint16_t scale = detail::int8_scale(largest[d]);
      store(scales + d * 2, scale);
      scales_[d] = detail::float16_to_float(scale);
    }
    for_each_tile(Side::kKey, 0, [&](std::int64_t begin, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        std::byte* const out = codes(Side::kKey, begin + i, head_dim_);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
          out[d] = static_cast<std::byte>(detail::encode_int8(rows_[i * head_dim_ + d], scales_[d]));
        }
      }
    });
  }

  void encode_int8_values() const noexcept {
    for_each_tile(Side::kValue, 0, [&](std::int64_t begin, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        const float* const row = rows_ + i * head_dim_;
        float largest = 0;
        for (std::int64_t d = 0; d < head_dim_; ++d) largest = larger(largest, row[d]);
        const std::uint16_t bits = detail::int8_scale(largest);
        const float scale = detail::float16_to_float(bits);
        store(base_ + sections_.v_scales + ((begin + i) * num_heads_ + head_) * 2, bits);
        std::byte* const out = codes(Side::kValue, begin + i, head_dim_);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
          out[d] = static_cast<std::byte>(detail::encode_int8(row[d], scale));
        }
      }
    });
  }

  void encode_int4_keys() const noexcept {
    for_each_tile(Side::kKey, kInt4SinkTokens, [&](std::int64_t begin, std::int64_t count) {
      const std::int64_t num_sinks = std::clamp(kInt4SinkTokens - begin, std::int64_t{0}, count);
      store_sinks(Side::kKey, begin, num_sinks);
      std::byte* const groups =
          base_ + sections_.k_scales + (begin / kInt4GroupTokens * num_heads_ + head_) * head_dim_ * 4;
      for (std::int64_t d = 0; d < head_dim_; ++d) {
        Range range;
        for (std::int64_t i = num_sinks; i < count; ++i) range.include(rows_[i * head_dim_ + d]);
        const detail::Int4Group group = range.group();
        store_group(groups + d * 4, group);
        scales_[d] = detail::float16_to_float(group.scale);
        minima_[d] = detail::float16_to_float(group.minimum);
      }
      for (std::int64_t i = num_sinks; i < count; ++i) {
        const float* const row = rows_ + i * head_dim_;
        store_nibbles(codes(Side::kKey, begin + i, code_bytes()), head_dim_,
                      [&](std::int64_t d) { return detail::encode_int4(row[d], scales_[d], minima_[d]); });
      }
    });
  }

  void encode_int4_values() const noexcept {
    const std::int64_t num_groups = (head_dim_ + kInt4GroupChannels - 1) / kInt4GroupChannels;
    for_each_tile(Side::kValue, kInt4SinkTokens, [&](std::int64_t begin, std::int64_t count) {
      const std::int64_t num_sinks = std::clamp(kInt4SinkTokens - begin, std::int64_t{0}, count);
      store_sinks(Side::kValue, begin, num_sinks);
      for (std::int64_t i = 0; i < count; ++i) {
        std::byte* const groups = base_ + sections_.v_scales + ((begin + i) * num_heads_ + head_) * num_groups * 4;
        const float* const row = rows_ + i * head_dim_;
        for (std::int64_t g = 0; g < num_groups; ++g) {
          const std::int64_t first = g * kInt4GroupChannels;
          const std::int64_t last = std::min(first + kInt4GroupChannels, head_dim_);
          Range range;  // stays empty for sinks
          for (std::int64_t d = first; d < last && i >= num_sinks; ++d) range.include(row[d]);
          const detail::Int4Group group = range.group();
          store_group(groups + g * 4, group);
          std::fill(scales_ + first, scales_ + last, detail::float16_to_float(group.scale));
          std::fill(minima_ + first, minima_ + last, detail::float16_to_float(group.minimum));
        }
        if (i < num_sinks) continue;
        store_nibbles(codes(Side::kValue, begin + i, code_bytes()), head_dim_,
                      [&](std::int64_t d) { return detail::encode_int4(row[d], scales_[d], minima_[d]); });
      }
    });
  }

 private:
  /// Bytes of one head's codes of int4.
  [[nodiscard]] std::int64_t code_bytes() const noexcept { return (head_dim_ + 1) / 2; }

  [[nodiscard]] std::byte* codes(Side side, std::int64_t token, std::int64_t bytes_per_head) const noexcept {
    return base_ + (side == Side::kKey ? sections_.k_codes : sections_.v_codes) +
           (token * num_heads_ + head_) * bytes_per_head;
  }

  /// The first rows of the first tile as they are, and codes of 0 in their place.
  void store_sinks(Side side, std::int64_t begin, std::int64_t num_sinks) const noexcept {
    std::byte* const sinks = base_ + (side == Side::kKey ? sections_.k_sinks : sections_.v_sinks);
    for (std::int64_t i = 0; i < num_sinks; ++i) {
      std::byte* const out = sinks + ((begin + i) * num_heads_ + head_) * head_dim_ * 2;
      for (std::int64_t d = 0; d < head_dim_; ++d) {
        store(out + d * 2, detail::float_to_bfloat16(rows_[i * head_dim_ + d]));
      }
      std::fill_n(codes(side, begin + i, code_bytes()), code_bytes(), std::byte{0});
    }
  }

  /// Calls visit(begin, count) with tokens [begin, begin + count) in rows_, for all tiles in order. Keys of tokens from
  /// `first_biased` on have their bias subtracted.
  template <class Visit>
  void for_each_tile(Side side, std::int64_t first_biased, const Visit& visit) const noexcept {
    for (std::int64_t begin = 0; begin < num_tokens_; begin += kTokensAtOnce) {
      const std::int64_t count = std::min(kTokensAtOnce, num_tokens_ - begin);
      reader_.read(side, layer_, head_, begin, count, rows_);
      if (side == Side::kKey && bias_ != nullptr) {
        for (std::int64_t i = std::max(first_biased - begin, std::int64_t{0}); i < count; ++i) {
          for (std::int64_t d = 0; d < head_dim_; ++d) rows_[i * head_dim_ + d] -= bias_[d];
        }
      }
      visit(begin, count);
    }
  }

  const SlabSections& sections_;
  std::int32_t layer_;
  std::int32_t head_;
  std::int64_t num_heads_;
  std::int64_t head_dim_;
  std::int64_t num_tokens_;
  std::byte* base_;    // of the layer
  const float* bias_;  // [D] of the head; null: none
  float* rows_;        // [kTokensAtOnce][D]
  float* scales_;      // [D]
  float* minima_;      // [D]
  HeadReader reader_;
};

}  // namespace

SlabEncoder::SlabEncoder(const SlabEncode& encode, const RowKernels& kernels) noexcept
    : encode_(encode),
      kernels_(kernels),
      sections_(slab_sections(encode.geometry, encode.target.encoding.format, encode.target.num_tokens)) {}

std::int64_t SlabEncoder::scratch_bytes() const noexcept {
  return HeadEncode::scratch_elements(encode_.geometry) * std::int64_t{sizeof(float)};
}

void SlabEncoder::run(std::int64_t task_index, std::byte* scratch) const noexcept {
  const std::int64_t num_heads = encode_.geometry.num_kv_heads;
  const auto layer = static_cast<std::int32_t>(encode_.layer_begin + task_index / num_heads);
  const auto head = static_cast<std::int32_t>(task_index % num_heads);
  const HeadEncode one(encode_, sections_, kernels_, layer, head, reinterpret_cast<float*>(scratch));
  switch (encode_.target.encoding.format) {
    case SlabFormat::kPlain:  // is moved, not encoded
      break;
    case SlabFormat::kFloat8:
      one.encode_float8(Side::kKey);
      one.encode_float8(Side::kValue);
      break;
    case SlabFormat::kInt8:
      one.encode_int8_keys();
      one.encode_int8_values();
      break;
    case SlabFormat::kInt4:
      one.encode_int4_keys();
      one.encode_int4_values();
      break;
  }
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
