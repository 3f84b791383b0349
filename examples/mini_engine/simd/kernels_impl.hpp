// The bodies of the kernels, included by one source file per instruction set, which defines MINI_ENGINE_KERNELS and
// MINI_ENGINE_KERNELS_NAME. As in vec.hpp, nothing here may be visible to the linker but the table.
#include "kernels.hpp"
#include "vec.hpp"

namespace mini_engine::simd {
namespace {

constexpr int kWidth = Vec::kWidth;

// kOutputs x kRows dot products at once, so that each value loaded is used several times.
template <int kOutputs, int kRows, typename T>
void dot_tile(const DotArguments<T>& a, int output, int row) {
  Vec sums[kOutputs][kRows];
  for (auto& of_output : sums) {
    for (Vec& sum : of_output) sum = Vec::all(0.0F);
  }
  const T* w = a.w + output * a.w_stride;
  const float* x = a.x + row * a.x_stride;
  int i = 0;
  for (; i + kWidth <= a.size; i += kWidth) {
    Vec xs[kRows];
    for (int r = 0; r < kRows; ++r) xs[r] = Vec::load(x + r * a.x_stride + i);
    for (int o = 0; o < kOutputs; ++o) {
      const Vec weights = Vec::load(w + o * a.w_stride + i);
      for (int r = 0; r < kRows; ++r) sums[o][r] = Vec::multiply_add(weights, xs[r], sums[o][r]);
    }
  }
  if (i < a.size) {
    for (int o = 0; o < kOutputs; ++o) {
      const Vec weights = load_part(w + o * a.w_stride + i, a.size - i, 0.0F);
      for (int r = 0; r < kRows; ++r) {
        sums[o][r] = Vec::multiply_add(weights, load_part(x + r * a.x_stride + i, a.size - i, 0.0F), sums[o][r]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* y = a.y + (row + r) * a.y_stride + output;
    for (int o = 0; o < kOutputs; ++o) y[o] = a.adds ? y[o] + sum_of(sums[o][r]) : sum_of(sums[o][r]);
  }
}

template <int kOutputs, typename T>
void dot_outputs(const DotArguments<T>& a, int output) {
  int row = 0;
  for (; row + 4 <= a.num_rows; row += 4) dot_tile<kOutputs, 4>(a, output, row);
  switch (a.num_rows - row) {
    case 3:
      dot_tile<kOutputs, 3>(a, output, row);
      break;
    case 2:
      dot_tile<kOutputs, 2>(a, output, row);
      break;
    case 1:
      dot_tile<kOutputs, 1>(a, output, row);
      break;
    default:
      break;
  }
}

template <typename T>
void dot(const DotArguments<T>& a) {
  int output = 0;
  for (; output + 4 <= a.num_outputs; output += 4) dot_outputs<4>(a, output);
  for (; output < a.num_outputs; ++output) dot_outputs<1>(a, output);
}

template <int kRows, typename T>
void weighted_sum_rows(const WeightedSumArguments<T>& a, int row) {
  const float* p = a.p + row * a.p_stride;
  float* y = a.y + row * a.y_stride;
  for (int d = 0; d < a.size; d += kWidth) {
    const int count = a.size - d;
    const bool whole = count >= kWidth;
    Vec sums[kRows];
    for (int r = 0; r < kRows; ++r) {
      sums[r] = whole ? Vec::load(y + r * a.y_stride + d) : load_part(y + r * a.y_stride + d, count, 0.0F);
    }
    for (int j = 0; j < a.num_terms; ++j) {
      const T* from = a.v + j * a.v_stride + d;
      const Vec v = whole ? Vec::load(from) : load_part(from, count, 0.0F);
      for (int r = 0; r < kRows; ++r) sums[r] = Vec::multiply_add(Vec::all(p[r * a.p_stride + j]), v, sums[r]);
    }
    for (int r = 0; r < kRows; ++r) {
      if (whole) {
        sums[r].store(y + r * a.y_stride + d);
      } else {
        store_part(sums[r], y + r * a.y_stride + d, count);
      }
    }
  }
}

template <typename T>
void weighted_sum(const WeightedSumArguments<T>& a) {
  int row = 0;
  for (; row + 4 <= a.num_rows; row += 4) weighted_sum_rows<4>(a, row);
  switch (a.num_rows - row) {
    case 3:
      weighted_sum_rows<3>(a, row);
      break;
    case 2:
      weighted_sum_rows<2>(a, row);
      break;
    case 1:
      weighted_sum_rows<1>(a, row);
      break;
    default:
      break;
  }
}

void rmsnorm(const float* x, const float* weight, float epsilon, float* y, int size) {
  Vec squares = Vec::all(0.0F);
  int i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    const Vec v = Vec::load(x + i);
    squares = Vec::multiply_add(v, v, squares);
  }
  if (i < size) {
    const Vec v = load_part(x + i, size - i, 0.0F);
    squares = Vec::multiply_add(v, v, squares);
  }
  const float factor = 1.0F / __builtin_sqrtf(sum_of(squares) / static_cast<float>(size) + epsilon);
  const Vec factors = Vec::all(factor);
  for (i = 0; i + kWidth <= size; i += kWidth) (Vec::load(weight + i) * (Vec::load(x + i) * factors)).store(y + i);
  for (; i < size; ++i) y[i] = weight[i] * (x[i] * factor);
}

void rotate(const float* x, const float* cos, const float* sin, float* y, int half) {
  const Vec minus_zero = Vec::all(-0.0F);
  int i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const Vec lo = Vec::load(x + i), hi = Vec::load(x + half + i);
    const Vec c = Vec::load(cos + i), s = Vec::load(sin + i);
    Vec::fused(lo, c, minus_zero - hi * s).store(y + i);
    Vec::fused(hi, c, lo * s).store(y + half + i);
  }
  for (; i < half; ++i) {
    const float lo = x[i], hi = x[half + i];
    y[i] = __builtin_fmaf(lo, cos[i], -(hi * sin[i]));
    y[half + i] = __builtin_fmaf(hi, cos[i], lo * sin[i]);
  }
}

inline Vec silu(Vec gate) {
  const Vec one = Vec::all(1.0F);
  return gate / (one + exp(Vec::all(0.0F) - gate));
}

void silu_multiply(const float* gate, const float* up, float* y, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) (silu(Vec::load(gate + i)) * Vec::load(up + i)).store(y + i);
  if (i < size) {
    const int count = static_cast<int>(size - i);
    store_part(silu(load_part(gate + i, count, 0.0F)) * load_part(up + i, count, 0.0F), y + i, count);
  }
}

void scale(const float* x, float factor, float* y, std::int64_t size) {
  std::int64_t i = 0;
  const Vec factors = Vec::all(factor);
  for (; i + kWidth <= size; i += kWidth) (Vec::load(x + i) * factors).store(y + i);
  for (; i < size; ++i) y[i] = x[i] * factor;
}

float largest(const float* x, std::int64_t size) {
  Vec found = Vec::all(-__builtin_inff());
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) found = Vec::max(found, Vec::load(x + i));
  if (i < size) found = Vec::max(found, load_part(x + i, static_cast<int>(size - i), -__builtin_inff()));
  return largest_of(found);
}

float exp_and_sum(float* x, float shift, std::int64_t size) {
  const Vec shifts = Vec::all(shift);
  Vec sums = Vec::all(0.0F);
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    const Vec e = exp(Vec::load(x + i) - shifts);
    e.store(x + i);
    sums = sums + e;
  }
  if (i < size) {
    const int count = static_cast<int>(size - i);
    const Vec e = exp(load_part(x + i, count, -__builtin_inff()) - shifts);
    store_part(e, x + i, count);
    sums = sums + e;
  }
  return sum_of(sums);
}

// The next three are loops over integers, which compilers vectorise by themselves.

void expand_bf16(const BFloat16* x, float* y, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) y[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(x[i]) << 16);
}

inline std::uint32_t rounded_bits(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return (bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000U : rounded;
}

void round_bf16(const float* x, BFloat16* y, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) y[i] = static_cast<BFloat16>(rounded_bits(x[i]) >> 16);
}

void round_to_bf16(const float* x, float* y, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) y[i] = __builtin_bit_cast(float, rounded_bits(x[i]) & 0xFFFF0000U);
}

}  // namespace

extern const Kernels MINI_ENGINE_KERNELS;
const Kernels MINI_ENGINE_KERNELS = {
    MINI_ENGINE_KERNELS_NAME,
    &dot<float>,
    &dot<BFloat16>,
    &weighted_sum<float>,
    &weighted_sum<BFloat16>,
    &rmsnorm,
    &rotate,
    &silu_multiply,
    &scale,
    &largest,
    &exp_and_sum,
    &expand_bf16,
    &round_bf16,
    &round_to_bf16,
};

}  // namespace mini_engine::simd
