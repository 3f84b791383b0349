// Row kernels for AVX-512 F, BW, DQ and VL: 16 lanes. See row_kernels.hpp for why nothing shared is included here.
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
  static constexpr std::int64_t kLanes = 16;
  __m512 value;
};

inline Lanes broadcast(float value) { return {_mm512_set1_ps(value)}; }
inline Lanes multiply(Lanes a, Lanes b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
inline Lanes fms(Lanes a, Lanes b, Lanes c) { return {_mm512_fmsub_ps(a.value, b.value, c.value)}; }
inline Lanes add(Lanes a, Lanes b) { return {_mm512_add_ps(a.value, b.value)}; }
inline Lanes subtract(Lanes a, Lanes b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return fma(a, b, c); }
inline Lanes larger(Lanes a, Lanes b) { return {_mm512_max_ps(a.value, b.value)}; }
/// The bits of `shifts`, moved up to where an exponent is, are added to those of `values`.
inline Lanes add_to_exponent(Lanes values, Lanes shifts) {
  const __m512i moved = _mm512_slli_epi32(_mm512_castps_si512(shifts.value), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(values.value), moved))};
}

// Index 16 + i names lane i of the second operand.
inline Lanes even(Lanes a, Lanes b) {
  const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(a.value, index, b.value)};
}
inline Lanes odd(Lanes a, Lanes b) {
  const __m512i index = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(a.value, index, b.value)};
}
inline Lanes low(Lanes first, Lanes second) {
  const __m512i index = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(first.value, index, second.value)};
}
inline Lanes high(Lanes first, Lanes second) {
  const __m512i index = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(first.value, index, second.value)};
}

inline __mmask16 first_lanes(std::int64_t count) { return static_cast<__mmask16>((1U << count) - 1U); }

inline void store_floats(float* p, Lanes lanes) { _mm512_storeu_ps(p, lanes.value); }
inline Lanes load_floats(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Lanes load_floats(const float* p, std::int64_t count) { return {_mm512_maskz_loadu_ps(first_lanes(count), p)}; }

template <class Type>
inline Lanes decode(__m256i bits) {
  if constexpr (Type::kId == Float16::kId) return {_mm512_cvtph_ps(bits)};
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

/// Round to nearest even by integer addition below the kept bits; a NaN keeps its upper half and becomes quiet.
/// The AVX-512 BF16 instruction is no help: it takes subnormal numbers for zero.
inline __m256i to_bfloat16(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i kept_odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounding = _mm512_add_epi32(kept_odd, _mm512_set1_epi32(0x7FFF));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, rounding), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40)));
}

template <class Type>
inline __m256i encode(Lanes lanes) {
  if constexpr (Type::kId == Float16::kId) {
    return _mm512_cvtps_ph(lanes.value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  return to_bfloat16(lanes.value);
}

template <class Type>
inline Lanes load(const std::byte* p) {
  if constexpr (Type::kId == Float32::kId) return {_mm512_loadu_ps(p)};
  return decode<Type>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <class Type>
inline Lanes load(const std::byte* p, std::int64_t count) {
  if constexpr (Type::kId == Float32::kId) return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
  return decode<Type>(_mm256_maskz_loadu_epi16(first_lanes(count), p));
}

template <class Type, bool kStreamed>
inline void store(std::byte* p, Lanes lanes) {
  if constexpr (Type::kId == Float32::kId) {
    if constexpr (kStreamed) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p), _mm512_castps_si512(lanes.value));
    } else {
      _mm512_storeu_ps(p, lanes.value);
    }
  } else if constexpr (kStreamed) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), encode<Type>(lanes));
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), encode<Type>(lanes));
  }
}

template <class Type>
inline void store(std::byte* p, Lanes lanes, std::int64_t count) {
  if constexpr (Type::kId == Float32::kId) {
    _mm512_mask_storeu_ps(p, first_lanes(count), lanes.value);
  } else {
    _mm256_mask_storeu_epi16(p, first_lanes(count), encode<Type>(lanes));
  }
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

constinit const RowKernels kAvx512RowKernels = PIKV_ROW_KERNELS("avx512");

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
