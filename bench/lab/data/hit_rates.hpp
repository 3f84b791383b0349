// Hit rates of caches over a stream of requests, from empty.
#pragma once

#include <array>
#include <cstdint>

#include "lab/data/passage_stream.hpp"

namespace lab {

/// What is looked up how.
enum class CacheKind : std::uint8_t {
  kChunk,            ///< passages wherever they stand
  kPrefixRetrieved,  ///< prefixes, passages in the order of retrieval
  kPrefixSorted,     ///< prefixes, passages in the order of their ids
  kPrefixShuffled,   ///< prefixes, passages in an order drawn for each request
  kPrefixServed,     ///< prefixes of the prompts as they were served
};
inline constexpr std::array kCacheKinds = {CacheKind::kChunk, CacheKind::kPrefixRetrieved, CacheKind::kPrefixSorted,
                                           CacheKind::kPrefixShuffled, CacheKind::kPrefixServed};

/// The name used in JSON.
[[nodiscard]] const char* cache_name(CacheKind kind);

struct HitRates {
  double hit_rate = 0;            ///< tokens of passages found, of all tokens of passages
  std::array<double, 10> tenths;  ///< the same over each tenth of the requests; 0 for a tenth without any
};

/// capacity_tokens 0: a cache without bound. seed: of kPrefixShuffled.
[[nodiscard]] HitRates replay(const PassageStream& stream, CacheKind kind, std::int64_t capacity_tokens,
                              std::uint64_t seed);

}  // namespace lab
