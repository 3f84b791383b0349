#include "rope_frequencies.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pikv {
namespace detail {
namespace {

// Each formula is written once, over Real. With Real = double it is the mathematics (AngleRule::kExact). With
// Real = float every operation rounds to fp32 in the order in which Hugging Face transformers' tensors do, which
// includes that PyTorch divides a number by a tensor as number * (1 / tensor). The powers are rounded correctly, where
// PyTorch's vectorised powf may miss by one unit in the last place.

template <class Real>
Real power(Real base, double exponent) {
  return static_cast<Real>(std::pow(static_cast<double>(base), exponent));
}

/// number / x.
template <class Real>
Real divide_number(Real number, Real x) {
  if constexpr (sizeof(Real) == sizeof(float)) return (Real{1} / x) * number;
  return number / x;
}

/// base^(2i/r), [r/2].
template <class Real>
std::vector<Real> wavelength_powers(Real base, std::int32_t rotary_dim) {
  std::vector<Real> powers(static_cast<std::size_t>(rotary_dim / 2));
  for (std::size_t i = 0; i < powers.size(); ++i) {
    powers[i] = power(base, double{static_cast<Real>(2 * i) / static_cast<Real>(rotary_dim)});
  }
  return powers;
}

/// The dimension whose channel turns `num_turns` times within `num_positions`.
double turning_dimension(double num_turns, double theta, std::int32_t rotary_dim, std::int32_t num_positions) {
  return rotary_dim * std::log(num_positions / (num_turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

template <class Real>
struct FrequencyRule {
  double theta;
  std::int32_t rotary_dim;
  std::int64_t sequence_length;

  std::vector<Real> operator()(const NoScaling&) const { return unscaled(static_cast<Real>(theta)); }

  std::vector<Real> operator()(const LinearScaling& s) const {
    std::vector<Real> frequencies = unscaled(static_cast<Real>(theta));
    for (Real& f : frequencies) f /= static_cast<Real>(s.factor);
    return frequencies;
  }

  std::vector<Real> operator()(const DynamicNtkScaling& s) const {
    if (sequence_length <= s.original_max_positions) return unscaled(static_cast<Real>(theta));
    const Real stretched =
        static_cast<Real>(s.factor) * static_cast<Real>(sequence_length) / static_cast<Real>(s.original_max_positions);
    const Real growth = stretched - static_cast<Real>(s.factor - 1);
    // A Python number, which PyTorch does not round to fp32 before it takes the power of a single value.
    const double exponent = rotary_dim / (rotary_dim - 2.0);
    return unscaled(static_cast<Real>(theta) * power(growth, exponent));
  }

  std::vector<Real> operator()(const YarnScaling& s) const {
    double low = turning_dimension(s.beta_fast, theta, rotary_dim, s.original_max_positions);
    double high = turning_dimension(s.beta_slow, theta, rotary_dim, s.original_max_positions);
    if (s.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, rotary_dim - 1.0);
    if (low == high) high += 0.001;  // a step, as the reference code makes it

    std::vector<Real> frequencies = wavelength_powers(static_cast<Real>(theta), rotary_dim);
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const Real kept = Real{1} / frequencies[i];
      const Real stretched = Real{1} / (static_cast<Real>(s.factor) * frequencies[i]);
      const Real place = (static_cast<Real>(i) - static_cast<Real>(low)) / static_cast<Real>(high - low);
      const Real keep_share = Real{1} - std::clamp(place, Real{0}, Real{1});
      const Real stretch_share = Real{1} - keep_share;
      const Real stretched_part = stretched * stretch_share;
      const Real kept_part = kept * keep_share;
      frequencies[i] = stretched_part + kept_part;
    }
    return frequencies;
  }

  std::vector<Real> operator()(const Llama3Scaling& s) const {
    const Real longest_blended = static_cast<Real>(s.original_max_positions / s.low_freq_factor);
    const Real longest_kept = static_cast<Real>(s.original_max_positions / s.high_freq_factor);
    const Real factor = static_cast<Real>(s.factor);
    std::vector<Real> frequencies = unscaled(static_cast<Real>(theta));
    for (Real& f : frequencies) {
      const Real wavelength = divide_number(static_cast<Real>(2 * std::numbers::pi), f);
      if (wavelength < longest_kept) continue;
      if (wavelength > longest_blended) {
        f /= factor;
        continue;
      }
      const Real turns = divide_number(static_cast<Real>(s.original_max_positions), wavelength);
      const Real keep_share =
          (turns - static_cast<Real>(s.low_freq_factor)) / static_cast<Real>(s.high_freq_factor - s.low_freq_factor);
      const Real stretched_part = (Real{1} - keep_share) * f / factor;
      const Real kept_part = keep_share * f;
      f = stretched_part + kept_part;
    }
    return frequencies;
  }

  std::vector<Real> operator()(const LongRopeScaling& s) const {
    const std::vector<float>& divisors = sequence_length > s.original_max_positions ? s.long_factors : s.short_factors;
    std::vector<Real> frequencies = wavelength_powers(static_cast<Real>(theta), rotary_dim);
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      frequencies[i] = Real{1} / (static_cast<Real>(divisors[i]) * frequencies[i]);
    }
    return frequencies;
  }

 private:
  std::vector<Real> unscaled(Real base) const {
    std::vector<Real> frequencies = wavelength_powers(base, rotary_dim);
    for (Real& f : frequencies) f = Real{1} / f;
    return frequencies;
  }
};

struct AttentionFactorRule {
  double operator()(const YarnScaling& s) const noexcept {
    return s.attention_factor > 0 ? s.attention_factor : 0.1 * std::log(s.factor) + 1;
  }
  double operator()(const LongRopeScaling& s) const noexcept {
    if (s.attention_factor > 0) return s.attention_factor;
    if (s.factor <= 1) return 1;
    return std::sqrt(1 + std::log(s.factor) / std::log(static_cast<double>(s.original_max_positions)));
  }
  template <class Other>
  double operator()(const Other&) const noexcept {
    return 1;
  }
};

}  // namespace

std::vector<double> compute_inverse_frequencies(const RopeConfig& config, std::int32_t rotary_dim,
                                                std::int64_t sequence_length) {
  if (config.angle_rule == AngleRule::kExact) {
    return std::visit(FrequencyRule<double>{config.theta, rotary_dim, sequence_length}, config.scaling);
  }
  const std::vector<float> rounded =
      std::visit(FrequencyRule<float>{config.theta, rotary_dim, sequence_length}, config.scaling);
  return {rounded.begin(), rounded.end()};
}

double attention_factor(const RopeConfig& config) noexcept { return std::visit(AttentionFactorRule{}, config.scaling); }

}  // namespace detail

inline namespace v0 {

Result<std::vector<double>> inverse_frequencies(const RopeConfig& config, std::int32_t rotary_dim,
                                                std::int64_t sequence_length) {
  PIKV_TRY(validate(config, rotary_dim));
  if (sequence_length < 0) return invalid_argument("inverse_frequencies: sequence_length is negative");
  return detail::compute_inverse_frequencies(config, rotary_dim, sequence_length);
}

}  // namespace v0
}  // namespace pikv
