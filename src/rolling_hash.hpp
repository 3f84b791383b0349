// Polynomial hashes of token strings modulo the prime 2^61 - 1, from which the hash of any substring follows in O(1).
//
//   hash(t[0..n)) = t[0] * base^(n-1) + ... + t[n-1]
//
// Two different strings of one length below n collide with probability at most n / 2^61 over the choice of the base;
// who does not know the base cannot do better than chance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pikv/types.hpp"

namespace pikv::detail {

inline constexpr std::uint64_t kHashPrime = (std::uint64_t{1} << 61) - 1;

/// a * b modulo kHashPrime. Requires: a, b < kHashPrime.
[[nodiscard]] constexpr std::uint64_t multiply(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  // 2^61 is 1 modulo the prime, so the bits above may be added to those below.
  const std::uint64_t folded =
      static_cast<std::uint64_t>(product & kHashPrime) + static_cast<std::uint64_t>(product >> 61);
  return folded >= kHashPrime ? folded - kHashPrime : folded;
}

/// The hash of a string followed by one more token.
[[nodiscard]] constexpr std::uint64_t append(std::uint64_t hash, TokenId token, std::uint64_t base) noexcept {
  const std::uint64_t sum = multiply(hash, base) + token;
  return sum >= kHashPrime ? sum - kHashPrime : sum;
}

/// The hash of what stands behind a prefix: whole = hash(prefix + rest), power = base^length(rest).
[[nodiscard]] constexpr std::uint64_t remove_prefix(std::uint64_t whole, std::uint64_t prefix,
                                                    std::uint64_t power) noexcept {
  const std::uint64_t shifted = multiply(prefix, power);
  return whole >= shifted ? whole - shifted : whole + kHashPrime - shifted;
}

/// hashes[i] is the hash of the first i tokens; size() + 1 of them.
[[nodiscard]] inline std::vector<std::uint64_t> prefix_hashes(std::span<const TokenId> tokens, std::uint64_t base) {
  std::vector<std::uint64_t> hashes(tokens.size() + 1);
  for (std::size_t i = 0; i < tokens.size(); ++i) hashes[i + 1] = append(hashes[i], tokens[i], base);
  return hashes;
}

}  // namespace pikv::detail
