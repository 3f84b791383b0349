// K and V that a sequence holds, on the host in fp32, wherever its cache lies.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/paged_cache.hpp"

namespace lab {

/// Rotated keys of some rows of one layer, [R][H][D]. rows: [R] of the sequence, in any order; rows that follow each
/// other in a page are copied together. Several threads may read at once. Throws mini_engine::Error for a row or layer
/// that is not there, and for a cache in device memory in a build without CUDA.
[[nodiscard]] std::vector<float> read_keys(const mini_engine::Sequence& sequence, int layer,
                                           std::span<const std::int32_t> rows);
/// The same of values.
[[nodiscard]] std::vector<float> read_values(const mini_engine::Sequence& sequence, int layer,
                                             std::span<const std::int32_t> rows);

}  // namespace lab
