// Numbers and tokens from nothing but a seed and a name, the same on every machine.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "mini_engine/types.hpp"

namespace rag_bench {

/// A generator of its own for each thing that is made up (splitmix64's finaliser over the three numbers).
[[nodiscard]] inline std::mt19937_64 generator(std::uint64_t seed, std::uint64_t kind, std::uint64_t index) {
  std::uint64_t x = seed * 0x9E3779B97F4A7C15U + kind * 0xBF58476D1CE4E5B9U + index;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return std::mt19937_64(x ^ (x >> 31U));
}

/// Uniform in [0, 1), which the standard's distribution would draw differently from library to library.
[[nodiscard]] inline double fraction(std::mt19937_64& random) { return static_cast<double>(random() >> 11U) * 0x1p-53; }

[[nodiscard]] inline std::vector<mini_engine::TokenId> made_up_tokens(std::mt19937_64 random, int count,
                                                                      int vocab_size) {
  std::vector<mini_engine::TokenId> made(static_cast<std::size_t>(count));
  for (mini_engine::TokenId& token : made) {
    token = static_cast<mini_engine::TokenId>(random() % static_cast<std::uint64_t>(vocab_size));
  }
  return made;
}

}  // namespace rag_bench
