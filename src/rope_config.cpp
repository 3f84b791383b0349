#include <cmath>
#include <string>

#include "pikv/rope.hpp"

namespace pikv {
inline namespace v0 {
namespace {

constexpr double kMaxTheta = 1e30;  // its powers fit into fp32

Status refuse(const std::string& field, double value, const char* rule) {
  return invalid_argument("RopeConfig: " + field + " is " + std::to_string(value) + ", must be " + rule);
}

Status check_factor(const char* field, double value) {
  if (!std::isfinite(value) || value < 1) return refuse(field, value, "finite and at least 1");
  return {};
}

Status check_positive(const char* field, double value) {
  if (!std::isfinite(value) || value <= 0) return refuse(field, value, "finite and positive");
  return {};
}

Status check_attention_factor(const char* field, double value) {
  if (!std::isfinite(value) || value < 0) return refuse(field, value, "finite and positive, or 0 for the default");
  return {};
}

Status check_divisors(const char* field, const std::vector<float>& divisors, std::int32_t rotary_dim) {
  if (divisors.size() != static_cast<std::size_t>(rotary_dim / 2)) {
    return invalid_argument("RopeConfig: " + std::string(field) + " has " + std::to_string(divisors.size()) +
                            " entries, must have rotary_dim / 2 = " + std::to_string(rotary_dim / 2));
  }
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    PIKV_TRY(check_positive((std::string(field) + "[" + std::to_string(i) + "]").c_str(), divisors[i]));
  }
  return {};
}

struct ScalingChecker {
  std::int32_t rotary_dim;

  Status operator()(const NoScaling&) const { return {}; }

  Status operator()(const LinearScaling& s) const { return check_factor("LinearScaling.factor", s.factor); }

  Status operator()(const DynamicNtkScaling& s) const {
    PIKV_TRY(check_factor("DynamicNtkScaling.factor", s.factor));
    if (rotary_dim <= 2) return refuse("rotary_dim", rotary_dim, "above 2 for DynamicNtkScaling");
    return check_positive("DynamicNtkScaling.original_max_positions", s.original_max_positions);
  }

  Status operator()(const YarnScaling& s) const {
    PIKV_TRY(check_factor("YarnScaling.factor", s.factor));
    PIKV_TRY(check_positive("YarnScaling.original_max_positions", s.original_max_positions));
    PIKV_TRY(check_positive("YarnScaling.beta_fast", s.beta_fast));
    PIKV_TRY(check_positive("YarnScaling.beta_slow", s.beta_slow));
    if (s.beta_fast < s.beta_slow) return refuse("YarnScaling.beta_fast", s.beta_fast, "at least beta_slow");
    return check_attention_factor("YarnScaling.attention_factor", s.attention_factor);
  }

  Status operator()(const Llama3Scaling& s) const {
    PIKV_TRY(check_factor("Llama3Scaling.factor", s.factor));
    PIKV_TRY(check_positive("Llama3Scaling.low_freq_factor", s.low_freq_factor));
    PIKV_TRY(check_positive("Llama3Scaling.high_freq_factor", s.high_freq_factor));
    if (s.high_freq_factor <= s.low_freq_factor) {
      return refuse("Llama3Scaling.high_freq_factor", s.high_freq_factor, "above low_freq_factor");
    }
    return check_positive("Llama3Scaling.original_max_positions", s.original_max_positions);
  }

  Status operator()(const LongRopeScaling& s) const {
    PIKV_TRY(check_divisors("LongRopeScaling.short_factors", s.short_factors, rotary_dim));
    PIKV_TRY(check_divisors("LongRopeScaling.long_factors", s.long_factors, rotary_dim));
    if (s.original_max_positions < 2) {  // the default attention factor divides by its logarithm
      return refuse("LongRopeScaling.original_max_positions", s.original_max_positions, "at least 2");
    }
    PIKV_TRY(check_attention_factor("LongRopeScaling.attention_factor", s.attention_factor));
    if (s.attention_factor > 0 && s.factor == 0) return {};  // the factor has no other use
    return check_positive("LongRopeScaling.factor", s.factor);
  }
};

}  // namespace

Status validate(const RopeConfig& config, std::int32_t rotary_dim) {
  if (rotary_dim <= 0 || rotary_dim % 2 != 0) {
    return invalid_argument("RopeConfig: rotary_dim is " + std::to_string(rotary_dim) + ", must be positive and even");
  }
  if (!(config.theta > 1 && config.theta <= kMaxTheta))
    return refuse("theta", config.theta, "above 1 and at most 1e30");
  if (config.pairing != Pairing::kHalfSplit && config.pairing != Pairing::kInterleaved) {
    return invalid_argument("RopeConfig: pairing holds no enumerator");
  }
  if (config.angle_rule != AngleRule::kExact && config.angle_rule != AngleRule::kFp32Product) {
    return invalid_argument("RopeConfig: angle_rule holds no enumerator");
  }
  return std::visit(ScalingChecker{rotary_dim}, config.scaling);
}

}  // namespace v0
}  // namespace pikv
