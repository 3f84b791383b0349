// Choosing the next token.
#pragma once

#include <cstdint>
#include <random>
#include <span>

#include "types.hpp"

namespace mini_engine {

struct SamplerOptions {
  float temperature = 0.0F;  ///< 0: greedy
  float top_p = 1.0F;        ///< in (0, 1]
  std::uint64_t seed = 0;
};

/// Deterministic for a given seed and sequence of calls.
class Sampler {
 public:
  /// Throws Error for a negative temperature or a top_p outside (0, 1].
  explicit Sampler(const SamplerOptions& options);
  /// logits: [V]. Greedy takes the lowest id among equals.
  [[nodiscard]] TokenId next(std::span<const float> logits);

  /// For those who choose by these options elsewhere.
  [[nodiscard]] const SamplerOptions& options() const { return options_; }
  /// In [0, 1); next() takes one for each token that it does not choose greedily.
  [[nodiscard]] double draw_fraction();

 private:
  SamplerOptions options_;
  std::mt19937_64 random_;
};

}  // namespace mini_engine
