// Pieces of plans in a few words, with keys and anchors filled in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pikv/plan.hpp"

namespace test_support {

inline constexpr pikv::KvGeometry kGeometry{
    .num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 8, .dtype = pikv::DType::kBFloat16};
static_assert(kGeometry.bytes_per_token() == 128);

[[nodiscard]] inline pikv::PlanPiece computed(std::int64_t begin, std::int64_t end,
                                              pikv::MissReason miss = pikv::MissReason::kNone) {
  return pikv::PlanPiece{.row_begin = begin, .row_end = end, .miss = miss};
}

/// A chunk whose first tokens stand in the rows before `begin`; anchored in place.
[[nodiscard]] inline pikv::PlanPiece cached(pikv::PlanPiece::Source source, pikv::Provenance provenance,
                                            std::int64_t begin, std::int64_t end, std::int64_t first_token,
                                            std::int64_t num_tokens) {
  pikv::PlanPiece piece{.source = source,
                        .provenance = provenance,
                        .row_begin = begin,
                        .row_end = end,
                        .chunk_first_token = first_token,
                        .chunk_num_tokens = num_tokens,
                        .first_position = static_cast<pikv::Position>(begin)};
  piece.key.bytes[0] = static_cast<std::byte>(begin + 1);
  return piece;
}

[[nodiscard]] inline pikv::PlanPiece prefix(std::int64_t begin, std::int64_t end) {
  return cached(pikv::PlanPiece::Source::kExactPrefix, pikv::Provenance::kExactPrefix, begin, end, 0, end - begin);
}
[[nodiscard]] inline pikv::PlanPiece exact_chunk(std::int64_t begin, std::int64_t end, std::int64_t first_token,
                                                 std::int64_t num_tokens) {
  return cached(pikv::PlanPiece::Source::kChunk, pikv::Provenance::kExactSegment, begin, end, first_token, num_tokens);
}
[[nodiscard]] inline pikv::PlanPiece chunk(std::int64_t begin, std::int64_t end, std::int64_t first_token,
                                           std::int64_t num_tokens) {
  return cached(pikv::PlanPiece::Source::kChunk, pikv::Provenance::kApproximate, begin, end, first_token, num_tokens);
}

}  // namespace test_support
