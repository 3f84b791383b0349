// Hugging Face's rotary tables, operation by operation in fp32: rounding in another order gives frequencies off by an
// ulp, which at position 100,000 turns an angle by a hundredth of a radian.
#include <cmath>
#include <numbers>
#include <string>

#include "error.hpp"
#include "model.hpp"

namespace mini_engine {
namespace {

// torch evaluates theta^(2i/D) by a vectorised fp32 routine good to one ulp. Rounding the double result is what it
// gives for all but a few exponents in a thousand.
std::vector<float> default_frequencies(double theta, int head_dim) {
  std::vector<float> frequencies;
  for (int i = 0; i < head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(head_dim);
    const auto power = static_cast<float>(std::pow(double{static_cast<float>(theta)}, double{exponent}));
    frequencies.push_back(1.0F / power);
  }
  return frequencies;
}

// Long waves are slowed by `factor`, short ones kept, those between blended.
float llama3_frequency(float frequency, const RopeParameters& rope) {
  const auto factor = static_cast<float>(rope.factor);
  const double length = rope.original_max_positions;
  const auto low_wavelength = static_cast<float>(length / rope.low_freq_factor);
  const auto high_wavelength = static_cast<float>(length / rope.high_freq_factor);
  // A scalar divided by a tensor is, in torch, the tensor's reciprocal times the scalar.
  const float wavelength = (1.0F / frequency) * static_cast<float>(2.0 * std::numbers::pi);
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth = ((1.0F / wavelength) * static_cast<float>(length) - static_cast<float>(rope.low_freq_factor)) /
                       static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.0F - smooth) * frequency / factor + smooth * frequency;
}

std::vector<float> scaled_frequencies(const RopeParameters& rope, int head_dim) {
  std::vector<float> frequencies = default_frequencies(rope.theta, head_dim);
  if (!rope.frequency_divisors.empty()) {
    if (rope.frequency_divisors.size() != frequencies.size()) {
      throw Error("rotary table: " + std::to_string(rope.frequency_divisors.size()) +
                  " frequency divisors for a head size of " + std::to_string(head_dim));
    }
    for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= rope.frequency_divisors[i];
    return frequencies;
  }
  for (float& frequency : frequencies) {
    switch (rope.scaling) {
      case RopeScaling::kNone:
        break;
      case RopeScaling::kLinear:
        frequency /= static_cast<float>(rope.factor);
        break;
      case RopeScaling::kLlama3:
        frequency = llama3_frequency(frequency, rope);
        break;
    }
  }
  return frequencies;
}

}  // namespace

RotaryTable make_rotary_table(const RopeParameters& rope, int head_dim, int num_positions) {
  if (head_dim <= 0 || head_dim % 2 != 0) {
    throw Error("rotary table: head size is " + std::to_string(head_dim) + ", not positive and even");
  }
  if (num_positions <= 0) {
    throw Error("rotary table: number of positions is " + std::to_string(num_positions) + ", not positive");
  }
  RotaryTable table;
  table.inverse_frequencies = scaled_frequencies(rope, head_dim);
  table.num_positions = num_positions;
  const std::size_t size = static_cast<std::size_t>(num_positions) * table.inverse_frequencies.size();
  table.cos.reserve(size);
  table.sin.reserve(size);
  for (int position = 0; position < num_positions; ++position) {
    for (const float frequency : table.inverse_frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      table.cos.push_back(static_cast<float>(std::cos(double{angle})));
      table.sin.push_back(static_cast<float>(std::sin(double{angle})));
    }
  }
  return table;
}

}  // namespace mini_engine
