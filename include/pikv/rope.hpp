// Rotary position embedding: its variants, and the cos/sin tables that every rotation reads.
//
// Tables are built on the host in double precision and stored as fp32; kernels only multiply and add. Nothing here has
// a silent default: a RopeConfig names base, pairing and angle rule.
//
//   pikv::RopeConfig rope(500000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
//   rope.scaling = pikv::Llama3Scaling{.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4,
//                                      .original_max_positions = 8192};
//   pikv::Result<pikv::RopeTable> table = pikv::RopeTable::build(rope, /*rotary_dim=*/128, /*num_positions=*/131072);
//
// Thread-safety: values; a built table is immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// Which two channels turn together. Mixing them up is a silent corruption, so it is part of a chunk's identity.
enum class Pairing : std::uint8_t {
  kHalfSplit = 0,    ///< (i, i + r/2): Hugging Face Llama, Qwen, Mistral; "NeoX"
  kInterleaved = 1,  ///< (2i, 2i + 1): original Llama, llama-architecture GGUF; "GPT-J"
};

/// Which truth a table tells.
enum class AngleRule : std::uint8_t {
  kExact = 0,        ///< frequencies and angles in double: agrees with mathematics
  kFp32Product = 1,  ///< fp32 position times fp32 frequency: agrees with Hugging Face, vLLM and llama.cpp
};

struct NoScaling {
  friend bool operator==(const NoScaling&, const NoScaling&) = default;
};

/// Position interpolation: f / factor.
struct LinearScaling {
  double factor = 0;
  friend bool operator==(const LinearScaling&, const LinearScaling&) = default;
};

/// Base grows with the sequence once it exceeds the original length N0:
/// base * (factor * N / N0 - (factor - 1)) ^ (r / (r - 2)).
struct DynamicNtkScaling {
  double factor = 0;
  std::int32_t original_max_positions = 0;
  friend bool operator==(const DynamicNtkScaling&, const DynamicNtkScaling&) = default;
};

/// YaRN (arXiv 2309.00071): a ramp between f and f / factor over the dimensions that turn beta_fast to beta_slow times
/// within the original length; cos and sin are multiplied by the attention factor.
struct YarnScaling {
  double factor = 0;
  std::int32_t original_max_positions = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  ///< 0: 0.1 * ln(factor) + 1
  bool truncate = true;         ///< round the ramp's ends to whole dimensions, as the reference code does
  friend bool operator==(const YarnScaling&, const YarnScaling&) = default;
};

/// Llama 3.1: wavelengths beyond original/low are divided by factor, those below original/high are kept, the rest
/// blend.
struct Llama3Scaling {
  double factor = 0;
  double low_freq_factor = 0;
  double high_freq_factor = 0;
  std::int32_t original_max_positions = 0;
  friend bool operator==(const Llama3Scaling&, const Llama3Scaling&) = default;
};

/// LongRoPE (arXiv 2402.13753): per-channel divisors, one set up to the original length and one beyond it; cos and sin
/// are multiplied by the attention factor.
struct LongRopeScaling {
  std::vector<float> short_factors;  ///< [r/2]
  std::vector<float> long_factors;   ///< [r/2]
  std::int32_t original_max_positions = 0;
  double factor = 0;            ///< max positions / original max positions
  double attention_factor = 0;  ///< 0: sqrt(1 + ln(factor) / ln(original_max_positions)), 1 for factor <= 1
  friend bool operator==(const LongRopeScaling&, const LongRopeScaling&) = default;
};

using RopeScaling =
    std::variant<NoScaling, LinearScaling, DynamicNtkScaling, YarnScaling, Llama3Scaling, LongRopeScaling>;

struct RopeConfig {
  RopeConfig(double theta_, Pairing pairing_, AngleRule angle_rule_)
      : theta(theta_), pairing(pairing_), angle_rule(angle_rule_) {}

  double theta;  ///< base of the frequencies, theta^(-2i/r)
  Pairing pairing;
  AngleRule angle_rule;
  RopeScaling scaling = NoScaling{};

  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;

  /// True for dynamic NTK and LongRoPE: a table then belongs to one sequence length.
  [[nodiscard]] bool depends_on_length() const noexcept {
    return std::holds_alternative<DynamicNtkScaling>(scaling) || std::holds_alternative<LongRopeScaling>(scaling);
  }
};

/// Refuses a base not above 1 or beyond 1e30, factors below 1 where the variant needs them, crossing low/high factors,
/// LongRoPE lists of the wrong length, an odd or non-positive rotary_dim, and anything not finite; the message names
/// the field.
[[nodiscard]] PIKV_API Status validate(const RopeConfig& config, std::int32_t rotary_dim);

/// What kernels read. Does not own the values, which may lie in host or device memory.
struct RopeTableView {
  const float* values = nullptr;  ///< [num_positions][2][r/2] fp32: the cosines of a position, then its sines
  std::int32_t num_positions = 0;
  std::int32_t half_dim = 0;    ///< r/2
  float inverse_square = 1.0F;  ///< 1 / magnitude^2, for turning keys back
  Pairing pairing = Pairing::kHalfSplit;

  /// False for a default view, which stands for no rotation at all.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr bool turns() const noexcept { return half_dim != 0; }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr const float* cos(Position position) const noexcept {
    return values + std::int64_t{position} * 2 * half_dim;
  }
  [[nodiscard]] PIKV_HOST_DEVICE constexpr const float* sin(Position position) const noexcept {
    return cos(position) + half_dim;
  }
};

/// cos and sin for positions [0, num_positions). Cheap to copy: copies share one immutable table.
class RopeTable {
 public:
  /// Builds the table. `sequence_length` matters only when config.depends_on_length(); 0 there means num_positions.
  [[nodiscard]] static PIKV_API Result<RopeTable> build(const RopeConfig& config, std::int32_t rotary_dim,
                                                        std::int32_t num_positions, std::int64_t sequence_length = 0);

  /// Takes an engine's own table, for keys that must equal the engine's bit for bit whatever arithmetic made it.
  /// cos, sin: [num_positions][rotary_dim/2] fp32 in host memory, copied. `magnitude` is the attention factor the
  /// values carry.
  [[nodiscard]] static PIKV_API Result<RopeTable> adopt(std::span<const float> cos, std::span<const float> sin,
                                                        std::int32_t rotary_dim, Pairing pairing,
                                                        double magnitude = 1.0);

  /// The same table with its values elsewhere. values: [num_positions][2][r/2] fp32 as in view(), in any memory space,
  /// kept alive by `owner` as long as a copy of the result lives.
  [[nodiscard]] RopeTable with_values(std::shared_ptr<const void> owner, const float* values) const {
    RopeTable moved = *this;
    moved.values_ = std::move(owner);
    moved.view_.values = values;
    return moved;
  }

  [[nodiscard]] RopeTableView view() const noexcept { return view_; }
  [[nodiscard]] std::int32_t num_positions() const noexcept { return view_.num_positions; }
  [[nodiscard]] double magnitude() const noexcept { return magnitude_; }

 private:
  RopeTable(std::shared_ptr<const void> values, RopeTableView view, double magnitude)
      : values_(std::move(values)), view_(view), magnitude_(magnitude) {}

  std::shared_ptr<const void> values_;
  RopeTableView view_;
  double magnitude_;
};

/// The frequencies a table is built from, [rotary_dim/2], after scaling; in double under kExact, rounded through fp32
/// at each of Hugging Face's steps under kFp32Product. Exposed for tests and for engines that keep such a vector.
[[nodiscard]] PIKV_API Result<std::vector<double>> inverse_frequencies(const RopeConfig& config,
                                                                       std::int32_t rotary_dim,
                                                                       std::int64_t sequence_length);

}  // namespace v0
}  // namespace pikv
