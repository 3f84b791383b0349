#include "rag_demo/exp_sums.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>

namespace rag_demo {
namespace {

// Elements whose exponentials lie in a buffer before they are summed, so that each loop is one the compiler vectorises;
// and the sums kept side by side, since one sum would wait for itself.
constexpr std::size_t kBlock = 512;
constexpr std::size_t kLanes = 8;

// exp(x) for x <= 0, without a branch. x = k ln 2 + r with |r| <= ln 2 / 2; what the polynomial leaves out, r^13 / 13!,
// is below half an ulp.
[[gnu::always_inline]] inline double exp_of(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  // ln 2 in two parts: the upper one times any k that can occur is exact.
  constexpr double kLn2High = 0x1.62e42fefa38p-1;
  constexpr double kLn2Low = 0x1.ef35793c7673p-45;
  // Added to a small number it leaves the nearest integer in the low bits.
  constexpr double kRounder = 0x1.8p52;
  constexpr double kLeast = -708.0;
  const double bounded = x < kLeast ? kLeast : x;
  const double rounded = bounded * kLog2E + kRounder;
  const double k = rounded - kRounder;
  const double r = (bounded - k * kLn2High) - k * kLn2Low;
  double p = 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const std::uint64_t exponent = (std::bit_cast<std::uint64_t>(rounded) + 1023) << 52;
  const double power = std::bit_cast<double>(exponent);
  return x < kLeast ? 0.0 : p * power;
}

struct Arguments {
  std::span<const float> x;
  double shift;
  std::span<const float> y;
  double y_shift;
};

[[gnu::always_inline]] inline ExpSums summed(const Arguments& of) {
  double sums[kLanes] = {};
  double weighted[kLanes] = {};
  double exps[kBlock];
  double terms[kBlock];
  for (std::size_t begin = 0; begin < of.x.size(); begin += kBlock) {
    const std::size_t size = of.x.size() - begin < kBlock ? of.x.size() - begin : kBlock;
    const std::size_t padded = (size + kLanes - 1) / kLanes * kLanes;
    const float* const x = of.x.data() + begin;
    for (std::size_t i = 0; i < size; ++i) exps[i] = exp_of(static_cast<double>(x[i]) - of.shift);
    for (std::size_t i = size; i < padded; ++i) exps[i] = 0.0;
    for (std::size_t i = 0; i < padded; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += exps[i + lane];
    }
    if (of.y.empty()) continue;
    const float* const y = of.y.data() + begin;
    for (std::size_t i = 0; i < size; ++i) {
      const double term = exps[i] * ((static_cast<double>(x[i]) - of.shift) - (static_cast<double>(y[i]) - of.y_shift));
      terms[i] = exps[i] == 0.0 ? 0.0 : term;
    }
    for (std::size_t i = size; i < padded; ++i) terms[i] = 0.0;
    for (std::size_t i = 0; i < padded; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) weighted[lane] += terms[i + lane];
    }
  }
  ExpSums result;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    result.sum += sums[lane];
    result.weighted += weighted[lane];
  }
  return result;
}

ExpSums plainly_summed(const Arguments& of) { return summed(of); }

#if defined(__x86_64__) && defined(__GNUC__)
// The same once more for machines that do four at a time.
[[gnu::target("avx2,fma")]] ExpSums widely_summed(const Arguments& of) { return summed(of); }

bool is_wide() { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0; }
#else
ExpSums widely_summed(const Arguments& of) { return summed(of); }

bool is_wide() { return false; }
#endif

}  // namespace

ExpSums exp_sums(std::span<const float> x, double shift, std::span<const float> y, double y_shift) {
  const Arguments of{x, shift, y, y_shift};
  return is_wide() ? widely_summed(of) : plainly_summed(of);
}

}  // namespace rag_demo
