#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string>

#include "pikv/rope.hpp"
#include "rope_frequencies.hpp"

namespace pikv {
inline namespace v0 {
namespace {

float cosine_of(AngleRule rule, double angle, double magnitude) {
  const double cosine = std::cos(angle);
  if (rule == AngleRule::kExact) return static_cast<float>(cosine * magnitude);
  return static_cast<float>(cosine) * static_cast<float>(magnitude);
}

float sine_of(AngleRule rule, double angle, double magnitude) {
  const double sine = std::sin(angle);
  if (rule == AngleRule::kExact) return static_cast<float>(sine * magnitude);
  return static_cast<float>(sine) * static_cast<float>(magnitude);
}

double angle_of(AngleRule rule, std::int32_t position, double frequency) {
  if (rule == AngleRule::kExact) return position * frequency;
  return static_cast<float>(position) * static_cast<float>(frequency);
}

Result<std::shared_ptr<std::vector<float>>> make_values(std::int64_t num_positions, std::int32_t rotary_dim) {
  try {
    return std::make_shared<std::vector<float>>(static_cast<std::size_t>(num_positions * rotary_dim));
  } catch (const std::exception&) {  // bad_alloc, or length_error from the vector
    return out_of_memory("RopeTable: no memory for " + std::to_string(num_positions) + " positions of " +
                         std::to_string(rotary_dim) + " values");
  }
}

RopeTableView view_of(const std::vector<float>& values, std::int64_t num_positions, std::int32_t rotary_dim,
                      double magnitude, Pairing pairing) {
  return RopeTableView{.values = values.data(),
                       .num_positions = static_cast<std::int32_t>(num_positions),
                       .half_dim = rotary_dim / 2,
                       .inverse_square = static_cast<float>(1 / (magnitude * magnitude)),
                       .pairing = pairing};
}

}  // namespace

Result<RopeTable> RopeTable::build(const RopeConfig& config, std::int32_t rotary_dim, std::int32_t num_positions,
                                   std::int64_t sequence_length) {
  PIKV_TRY(validate(config, rotary_dim));
  if (num_positions <= 0) {
    return invalid_argument("RopeTable: num_positions is " + std::to_string(num_positions) + ", must be positive");
  }
  if (sequence_length < 0) {
    return invalid_argument("RopeTable: sequence_length is " + std::to_string(sequence_length) +
                            ", must not be negative");
  }
  if (sequence_length == 0) sequence_length = num_positions;

  Result<std::shared_ptr<std::vector<float>>> values = make_values(num_positions, rotary_dim);
  if (!values.ok()) return values.status();

  const std::vector<double> frequencies = detail::compute_inverse_frequencies(config, rotary_dim, sequence_length);
  const double magnitude = detail::attention_factor(config);
  float* out = (*values)->data();
  for (std::int32_t position = 0; position < num_positions; ++position) {
    float* const cosines = out;
    float* const sines = out + frequencies.size();
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = angle_of(config.angle_rule, position, frequencies[i]);
      cosines[i] = cosine_of(config.angle_rule, angle, magnitude);
      sines[i] = sine_of(config.angle_rule, angle, magnitude);
    }
    out += rotary_dim;
  }
  const RopeTableView view = view_of(**values, num_positions, rotary_dim, magnitude, config.pairing);
  return RopeTable(*std::move(values), view, magnitude);
}

Result<RopeTable> RopeTable::adopt(std::span<const float> cos, std::span<const float> sin, std::int32_t rotary_dim,
                                   Pairing pairing, double magnitude) {
  if (rotary_dim <= 0 || rotary_dim % 2 != 0) {
    return invalid_argument("RopeTable: rotary_dim is " + std::to_string(rotary_dim) + ", must be positive and even");
  }
  if (cos.size() != sin.size()) {
    return invalid_argument("RopeTable: cos has " + std::to_string(cos.size()) + " values and sin " +
                            std::to_string(sin.size()) + ", must be equal");
  }
  const std::size_t half_dim = static_cast<std::size_t>(rotary_dim / 2);
  if (cos.empty() || cos.size() % half_dim != 0) {
    return invalid_argument("RopeTable: cos has " + std::to_string(cos.size()) +
                            " values, must be a positive multiple of rotary_dim / 2 = " + std::to_string(half_dim));
  }
  const std::size_t num_positions = cos.size() / half_dim;
  if (num_positions > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return invalid_argument("RopeTable: cos holds more than 2^31 - 1 positions");
  }
  if (pairing != Pairing::kHalfSplit && pairing != Pairing::kInterleaved) {
    return invalid_argument("RopeTable: pairing holds no enumerator");
  }
  if (!std::isfinite(magnitude) || magnitude <= 0) {
    return invalid_argument("RopeTable: magnitude is " + std::to_string(magnitude) + ", must be finite and positive");
  }

  Result<std::shared_ptr<std::vector<float>>> values =
      make_values(static_cast<std::int64_t>(num_positions), rotary_dim);
  if (!values.ok()) return values.status();
  auto out = (*values)->begin();
  for (std::size_t position = 0; position < num_positions; ++position) {
    const std::size_t row = position * half_dim;
    out = std::copy_n(cos.begin() + static_cast<std::ptrdiff_t>(row), half_dim, out);
    out = std::copy_n(sin.begin() + static_cast<std::ptrdiff_t>(row), half_dim, out);
  }
  const RopeTableView view =
      view_of(**values, static_cast<std::int64_t>(num_positions), rotary_dim, magnitude, pairing);
  return RopeTable(*std::move(values), view, magnitude);
}

}  // namespace v0
}  // namespace pikv
