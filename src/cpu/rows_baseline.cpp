// Row kernels for any CPU: one lane, made of the library's reference conversions.
#include <cmath>
#include <cstring>

#include "cpu/row_kernels.hpp"
#include "pikv/detail/bits.hpp"
#include "pikv/detail/half.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

struct Float32 {
  static constexpr int kId = 0;
  static constexpr std::int64_t kBytes = 4;
  using Bits = float;
  static float decode(float value) { return value; }
  static float encode(float value) { return value; }
};
struct Float16 {
  static constexpr int kId = 1;
  static constexpr std::int64_t kBytes = 2;
  using Bits = std::uint16_t;
  static float decode(std::uint16_t bits) { return detail::float16_to_float(bits); }
  static std::uint16_t encode(float value) { return detail::float_to_float16(value); }
};
struct BFloat16 {
  static constexpr int kId = 2;
  static constexpr std::int64_t kBytes = 2;
  using Bits = std::uint16_t;
  static float decode(std::uint16_t bits) { return detail::bfloat16_to_float(bits); }
  static std::uint16_t encode(float value) { return detail::float_to_bfloat16(value); }
};

struct Lanes {
  static constexpr std::int64_t kLanes = 1;
  float value;
};

Lanes broadcast(float value) { return {value}; }
void store_floats(float* p, Lanes lanes) { *p = lanes.value; }
Lanes load_floats(const float* p) { return {*p}; }
Lanes load_floats(const float* p, std::int64_t /*count*/) { return {*p}; }
Lanes multiply(Lanes a, Lanes b) { return {a.value * b.value}; }
Lanes fma(Lanes a, Lanes b, Lanes c) { return {std::fma(a.value, b.value, c.value)}; }
Lanes fms(Lanes a, Lanes b, Lanes c) { return {std::fma(a.value, b.value, -c.value)}; }
Lanes add(Lanes a, Lanes b) { return {a.value + b.value}; }
Lanes subtract(Lanes a, Lanes b) { return {a.value - b.value}; }
Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {a.value * b.value + c.value}; }  // fused only where it is fast
Lanes larger(Lanes a, Lanes b) { return {a.value > b.value ? a.value : b.value}; }
Lanes add_to_exponent(Lanes values, Lanes shifts) {
  const std::uint32_t moved = detail::bit_cast<std::uint32_t>(shifts.value) << 23;
  return {detail::bit_cast<float>(detail::bit_cast<std::uint32_t>(values.value) + moved)};
}
Lanes even(Lanes a, Lanes /*b*/) { return a; }
Lanes odd(Lanes /*a*/, Lanes b) { return b; }
Lanes low(Lanes first, Lanes /*second*/) { return first; }
Lanes high(Lanes /*first*/, Lanes second) { return second; }

template <class Type>
Lanes load(const std::byte* p) {
  typename Type::Bits bits;
  std::memcpy(&bits, p, sizeof bits);
  return {Type::decode(bits)};
}

template <class Type, bool kStreamed>
void store(std::byte* p, Lanes lanes) {
  const typename Type::Bits bits = Type::encode(lanes.value);
  std::memcpy(p, &bits, sizeof bits);
}

// With one lane there is never a remainder.
template <class Type>
Lanes load(const std::byte* p, std::int64_t /*count*/) {
  return load<Type>(p);
}
template <class Type>
void store(std::byte* p, Lanes lanes, std::int64_t /*count*/) {
  store<Type, false>(p, lanes);
}

template <bool kStreamed>
void move_bytes(const std::byte* source, std::byte* target, std::int64_t num_bytes) {
  std::memcpy(target, source, static_cast<std::size_t>(num_bytes));
}

void finish_streaming() noexcept {}

#include "cpu/row_kernels_table.inc"

}  // namespace

constinit const RowKernels kBaselineRowKernels = PIKV_ROW_KERNELS("baseline");

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
