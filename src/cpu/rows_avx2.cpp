// Row kernels for AVX2, FMA and F16C: 8 lanes. See row_kernels.hpp for why nothing shared is included here.
#include <immintrin.h>

#include "cpu/row_kernels.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

struct Float32 {
  static constexpr int kId = 0;
  static constexpr std::int64_t kBytes = 4;
};
struct Float16 {
  static constexpr int kId = 1;
  static constexpr std::int64_t kBytes = 2;
};
struct BFloat16 {
  static constexpr int kId = 2;
  static constexpr std::int64_t kBytes = 2;
};

struct Lanes {
  static constexpr std::int64_t kLanes = 8;
  __m256 value;
};

inline Lanes broadcast(float value) { return {_mm256_set1_ps(value)}; }
inline Lanes multiply(Lanes a, Lanes b) { return {_mm256_mul_ps(a.value, b.value)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
inline Lanes fms(Lanes a, Lanes b, Lanes c) { return {_mm256_fmsub_ps(a.value, b.value, c.value)}; }
inline Lanes add(Lanes a, Lanes b) { return {_mm256_add_ps(a.value, b.value)}; }
inline Lanes subtract(Lanes a, Lanes b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return fma(a, b, c); }
inline Lanes larger(Lanes a, Lanes b) { return {_mm256_max_ps(a.value, b.value)}; }
/// The bits of `shifts`, moved up to where an exponent is, are added to those of `values`.
inline Lanes add_to_exponent(Lanes values, Lanes shifts) {
  const __m256i moved = _mm256_slli_epi32(_mm256_castps_si256(shifts.value), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(values.value), moved))};
}

/// Pairs (a0 a1) (a2 a3) ... (b0 b1) ...: all first, or all second, members in order.
template <int kSelect>
inline Lanes every_other(Lanes a, Lanes b) {
  const __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a.value, b.value, kSelect));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xD8))};
}
inline Lanes even(Lanes a, Lanes b) { return every_other<0x88>(a, b); }
inline Lanes odd(Lanes a, Lanes b) { return every_other<0xDD>(a, b); }

/// The inverse: the lower, or the upper, four pairs of (first, second).
template <int kHalf>
inline Lanes zip(Lanes first, Lanes second) {
  const __m256 inner = _mm256_unpacklo_ps(first.value, second.value);
  const __m256 outer = _mm256_unpackhi_ps(first.value, second.value);
  return {_mm256_permute2f128_ps(inner, outer, kHalf)};
}
inline Lanes low(Lanes first, Lanes second) { return zip<0x20>(first, second); }
inline Lanes high(Lanes first, Lanes second) { return zip<0x31>(first, second); }

inline void store_floats(float* p, Lanes lanes) { _mm256_storeu_ps(p, lanes.value); }
inline Lanes load_floats(const float* p) { return {_mm256_loadu_ps(p)}; }

template <class Type>
inline Lanes load(const std::byte* p) {
  if constexpr (Type::kId == Float32::kId) {
    return {_mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  } else {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (Type::kId == Float16::kId) return {_mm256_cvtph_ps(bits)};
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
}

/// Round to nearest even by integer addition below the kept bits; a NaN keeps its upper half and becomes quiet.
inline __m128i to_bfloat16(__m256 value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i kept_odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounding = _mm256_add_epi32(kept_odd, _mm256_set1_epi32(0x7FFF));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, rounding), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, is_nan);
  const __m256i packed = _mm256_packus_epi32(words, words);  // works within each half of the register
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

template <class Type, bool kStreamed>
inline void store(std::byte* p, Lanes lanes) {
  if constexpr (Type::kId == Float32::kId) {
    const __m256i bits = _mm256_castps_si256(lanes.value);
    if constexpr (kStreamed) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bits);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
    }
  } else {
    __m128i bits;
    if constexpr (Type::kId == Float16::kId) {
      bits = _mm256_cvtps_ph(lanes.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
      bits = to_bfloat16(lanes.value);
    }
    if constexpr (kStreamed) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(p), bits);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
    }
  }
}

// Remainders go through a buffer of whole lanes.
template <class Type>
inline Lanes load(const std::byte* p, std::int64_t count) {
  alignas(32) std::byte padded[Lanes::kLanes * 4] = {};
  __builtin_memcpy(padded, p, static_cast<std::size_t>(count * Type::kBytes));
  return load<Type>(padded);
}
inline Lanes load_floats(const float* p, std::int64_t count) {
  return load<Float32>(reinterpret_cast<const std::byte*>(p), count);
}
template <class Type>
inline void store(std::byte* p, Lanes lanes, std::int64_t count) {
  alignas(32) std::byte padded[Lanes::kLanes * 4];
  store<Type, false>(padded, lanes);
  __builtin_memcpy(p, padded, static_cast<std::size_t>(count * Type::kBytes));
}

template <bool kStreamed>
inline void move_bytes(const std::byte* source, std::byte* target, std::int64_t num_bytes) {
  if constexpr (!kStreamed) {
    __builtin_memcpy(target, source, static_cast<std::size_t>(num_bytes));
  } else {
    for (std::int64_t i = 0; i < num_bytes; i += 32) {
      const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(target + i), bytes);
    }
  }
}

void finish_streaming() noexcept { _mm_sfence(); }

#include "cpu/row_kernels_table.inc"

}  // namespace

constinit const RowKernels kAvx2RowKernels = PIKV_ROW_KERNELS("avx2");

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
