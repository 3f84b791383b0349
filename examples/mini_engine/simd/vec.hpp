// A vector of fp32 as wide as the instruction set this file is compiled for. Everything is in an unnamed namespace and
// nothing of the standard library is used: the same inline function compiled for two instruction sets must never be
// merged by the linker into the one that some machines cannot run.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../bfloat16.hpp"

namespace mini_engine::simd {
namespace {

inline float widened(BFloat16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x) << 16); }

#if defined(__AVX512F__)

struct Vec {
  static constexpr int kWidth = 16;
  __m512 v;

  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const BFloat16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  /// a * b + c, rounded once.
  static Vec fused(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  /// a * b + c by whichever way is fast.
  static Vec multiply_add(Vec a, Vec b, Vec c) { return fused(a, b, c); }
  /// x * 2^n for whole n in [-126, 127].
  static Vec times_power(Vec x, Vec n) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
    return {_mm512_mul_ps(x.v, _mm512_castsi512_ps(exponent))};
  }
  static Vec zero_where_below(Vec x, Vec tested, Vec bound) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(tested.v, bound.v, _CMP_NLT_UQ), x.v)};
  }
};

#elif defined(__AVX2__)

struct Vec {
  static constexpr int kWidth = 8;
  __m256 v;

  static Vec all(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const BFloat16* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vec fused(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec multiply_add(Vec a, Vec b, Vec c) { return fused(a, b, c); }
  static Vec times_power(Vec x, Vec n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
    return {_mm256_mul_ps(x.v, _mm256_castsi256_ps(exponent))};
  }
  static Vec zero_where_below(Vec x, Vec tested, Vec bound) {
    return {_mm256_and_ps(x.v, _mm256_cmp_ps(tested.v, bound.v, _CMP_NLT_UQ))};
  }
};

#else

// Four lanes as an array: compilers turn these loops into whatever the baseline machine has.
struct Vec {
  static constexpr int kWidth = 4;
  float v[kWidth];

  template <typename Function>
  static Vec each(Function function) {
    Vec out{};
    for (int i = 0; i < kWidth; ++i) out.v[i] = function(i);
    return out;
  }
  static Vec all(float x) {
    return each([&](int) { return x; });
  }
  static Vec load(const float* p) {
    return each([&](int i) { return p[i]; });
  }
  static Vec load(const BFloat16* p) {
    return each([&](int i) { return widened(p[i]); });
  }
  void store(float* p) const {
    for (int i = 0; i < kWidth; ++i) p[i] = v[i];
  }
  friend Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
  }
  static Vec max(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec min(Vec a, Vec b) {
    return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec fused(Vec a, Vec b, Vec c) {
    return each([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  // A machine without a fused instruction emulates it at a hundred times the cost.
  static Vec multiply_add(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec times_power(Vec x, Vec n) {
    return each([&](int i) {
      const int power = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
      return x.v[i] * __builtin_bit_cast(float, static_cast<std::uint32_t>(power + 127) << 23);
    });
  }
  static Vec zero_where_below(Vec x, Vec tested, Vec bound) {
    return each([&](int i) { return tested.v[i] < bound.v[i] ? 0.0F : x.v[i]; });
  }
};

#endif

/// The first `count` < kWidth elements, the rest filled.
template <typename T>
inline Vec load_part(const T* p, int count, float fill) {
  float lanes[Vec::kWidth];
  Vec::all(fill).store(lanes);
  for (int i = 0; i < count; ++i) {
    if constexpr (sizeof(T) == sizeof(float)) {
      lanes[i] = p[i];
    } else {
      lanes[i] = widened(p[i]);
    }
  }
  return Vec::load(lanes);
}

inline void store_part(Vec x, float* p, int count) {
  float lanes[Vec::kWidth];
  x.store(lanes);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

inline float sum_of(Vec x) {
  float lanes[Vec::kWidth];
  x.store(lanes);
  for (int width = Vec::kWidth / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

inline float largest_of(Vec x) {
  float lanes[Vec::kWidth];
  x.store(lanes);
  float largest = lanes[0];
  for (int i = 1; i < Vec::kWidth; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

/// e^x; 0 below -87, e^88 above 88, NaN of a NaN. exp(x) = 2^n * exp(r) with |r| <= ln(2)/2.
inline Vec exp(Vec x) {
  const Vec lowest = Vec::all(-87.0F);
  // When one operand is a NaN, max and min return the second.
  const Vec clamped = Vec::min(Vec::all(88.0F), Vec::max(lowest, x));
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number.
  const Vec rounder = Vec::all(12582912.0F);
  const Vec n = Vec::multiply_add(clamped, Vec::all(1.44269504F), rounder) - rounder;
  // ln(2) in two parts, the first short enough that n times it is exact.
  Vec r = clamped - n * Vec::all(0.693359375F);
  r = Vec::multiply_add(n, Vec::all(2.12194440e-4F), r);
  // Taylor's coefficients from r^7 on down: on this range the first term left out is 3e-9 relative.
  Vec p = Vec::all(1.0F / 5040.0F);
  p = Vec::multiply_add(p, r, Vec::all(1.0F / 720.0F));
  p = Vec::multiply_add(p, r, Vec::all(1.0F / 120.0F));
  p = Vec::multiply_add(p, r, Vec::all(1.0F / 24.0F));
  p = Vec::multiply_add(p, r, Vec::all(1.0F / 6.0F));
  p = Vec::multiply_add(p, r, Vec::all(0.5F));
  p = Vec::multiply_add(p * r, r, r) + Vec::all(1.0F);
  return Vec::zero_where_below(Vec::times_power(p, n), x, lowest);
}

}  // namespace
}  // namespace mini_engine::simd
