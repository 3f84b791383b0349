// The stored formats once more, written from their byte tables (docs/formats.md) and in double precision: shares no
// code with the library, neither its section offsets nor its conversions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pikv/slab.hpp"

namespace test_support {

/// Keys and values of a chunk, each [L][T][H][D].
struct SlabRows {
  std::vector<float> keys;
  std::vector<float> values;
};

struct OracleSlab {
  std::vector<std::byte> bytes;
  std::vector<bool> is_read;  // [bytes] false: padding, of which nothing is said
};

/// bias: [L][H][D], null for none. rows: semantic keys and values, num_tokens of them.
[[nodiscard]] OracleSlab oracle_encode_slab(const pikv::KvGeometry& geometry, pikv::SlabFormat format,
                                            std::int64_t num_tokens, const SlabRows& rows, const float* bias);

/// slab: of any format, kPlain included.
[[nodiscard]] SlabRows oracle_decode_slab(const pikv::KvGeometry& geometry, pikv::SlabFormat format,
                                          std::int64_t num_tokens, const std::byte* slab, const float* bias);

/// The most that one element may be off after encoding and decoding, were it finite, each [L][T][H][D]: half a step of
/// its scale, and the roundings of fp32 on the way. The slab is one that was encoded from `rows`.
[[nodiscard]] SlabRows oracle_slab_error(const pikv::KvGeometry& geometry, pikv::SlabFormat format,
                                         std::int64_t num_tokens, const std::byte* slab, const SlabRows& rows,
                                         const float* bias);

/// The bits of `value` in a format: to nearest even; fp8 saturates, others overflow to infinity. NaN is quiet, and of
/// either sign; in fp8 positive.
[[nodiscard]] std::uint32_t oracle_bits(double value, pikv::DType dtype);

}  // namespace test_support
