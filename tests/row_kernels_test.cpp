// Every instruction set's row kernels against the baseline's, bit for bit: all types, pairings, directions, stores,
// head sizes with and without a remainder, and numbers of every magnitude.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/select_row_kernels.hpp"
#include "pikv/types.hpp"
#include "support/guarded_buffer.hpp"
#include "support/oracle.hpp"

namespace {

using pikv::DType;
using pikv::cpu::KeyRow;
using pikv::cpu::RowKernels;
using test_support::GuardedBuffer;

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr std::int32_t kNumHeads = 3;

struct Shape {
  std::int32_t head_dim;
  std::int32_t half_dim;
};
constexpr Shape kShapes[] = {{128, 64}, {64, 32}, {256, 128}, {96, 48}, {80, 40}, {80, 10}, {128, 32},
                             {2, 1},    {14, 7},  {34, 17},   {50, 15}, {31, 9},  {16, 0},  {64, 31}};

/// Any bits: subnormal, infinite and NaN among them.
void fill_with_bits(GuardedBuffer& buffer, std::mt19937& random) {
  for (std::int64_t i = 0; i < buffer.size_bytes(); ++i) buffer.data()[i] = static_cast<std::byte>(random() & 0xFFU);
}

/// Whether both hold the same elements; a NaN that a rotation made may carry any payload.
bool same_elements(const GuardedBuffer& a, const GuardedBuffer& b, DType dtype) {
  const std::int64_t element_bytes = pikv::dtype_bytes(dtype);
  for (std::int64_t at = 0; at < a.size_bytes(); at += element_bytes) {
    if (std::memcmp(a.data() + at, b.data() + at, static_cast<std::size_t>(element_bytes)) == 0) continue;
    if (!std::isnan(test_support::oracle_decode(a.data() + at, dtype))) return false;
    if (!std::isnan(test_support::oracle_decode(b.data() + at, dtype))) return false;
  }
  return true;
}

TEST_CASE("keys turn alike on every instruction set") {
  const RowKernels& baseline = *pikv::cpu::supported_row_kernels().front();
  std::mt19937 random(3);
  std::int64_t num_rows = 0;
  for (const RowKernels* kernels : pikv::cpu::supported_row_kernels()) {
    CAPTURE(kernels->name);
    for (const Shape shape : kShapes) {
      for (const DType source_dtype : kDTypes) {
        for (const DType target_dtype : kDTypes) {
          const std::int64_t source_head = shape.head_dim * pikv::dtype_bytes(source_dtype);
          const std::int64_t target_head = shape.head_dim * pikv::dtype_bytes(target_dtype);
          GuardedBuffer source(kNumHeads * source_head, 4);
          fill_with_bits(source, random);
          std::vector<float> table(static_cast<std::size_t>(2 * shape.half_dim));
          for (float& value : table) value = std::uniform_real_distribution<float>(-1, 1)(random);
          for (std::size_t variant = 0; variant < 8; ++variant) {
            const std::size_t direction = variant & 1U;
            const std::size_t pairing = (variant >> 1) & 1U;
            const std::size_t store = variant >> 2;
            const bool may_stream = shape.head_dim % 16 == 0 && shape.half_dim % 16 == 0;
            if (store == pikv::cpu::kStream && !may_stream) continue;
            GuardedBuffer expected(kNumHeads * target_head);
            GuardedBuffer got(kNumHeads * target_head);
            KeyRow row{.source = source.data(),
                       .target = expected.data(),
                       .source_head_bytes = source_head,
                       .target_head_bytes = target_head,
                       .num_heads = kNumHeads,
                       .head_dim = shape.head_dim,
                       .half_dim = shape.half_dim,
                       .cos = table.data(),
                       .sin = table.data() + shape.half_dim,
                       .inverse_square = 0.75F};
            const auto from = static_cast<std::size_t>(source_dtype);
            const auto to = static_cast<std::size_t>(target_dtype);
            baseline.keys[direction][pairing][pikv::cpu::kCached][from][to](row);
            row.target = got.data();
            kernels->keys[direction][pairing][store][from][to](row);
            kernels->finish_streaming();
            ++num_rows;
            CAPTURE(shape.head_dim);
            CAPTURE(shape.half_dim);
            CAPTURE(pikv::dtype_name(source_dtype));
            CAPTURE(pikv::dtype_name(target_dtype));
            CAPTURE(variant);
            CHECK(same_elements(expected, got, target_dtype));
            CHECK(got.guards_intact());
          }
        }
      }
    }
  }
  MESSAGE(pikv::cpu::supported_row_kernels().size() << " instruction sets, " << num_rows << " rows");
}

TEST_CASE("elements move alike on every instruction set, NaN payloads included") {
  const RowKernels& baseline = *pikv::cpu::supported_row_kernels().front();
  std::mt19937 random(4);
  for (const RowKernels* kernels : pikv::cpu::supported_row_kernels()) {
    CAPTURE(kernels->name);
    for (const std::int64_t count : {1, 7, 8, 15, 16, 17, 31, 32, 48, 63, 160, 1024}) {
      for (const DType source_dtype : kDTypes) {
        for (const DType target_dtype : kDTypes) {
          GuardedBuffer source(count * pikv::dtype_bytes(source_dtype), 8);
          fill_with_bits(source, random);
          for (const std::size_t store : {std::size_t{0}, std::size_t{1}}) {
            if (store == pikv::cpu::kStream && count % 16 != 0) continue;
            GuardedBuffer expected(count * pikv::dtype_bytes(target_dtype));
            GuardedBuffer got(count * pikv::dtype_bytes(target_dtype));
            const auto from = static_cast<std::size_t>(source_dtype);
            const auto to = static_cast<std::size_t>(target_dtype);
            baseline.elements[pikv::cpu::kCached][from][to](source.data(), expected.data(), count);
            kernels->elements[store][from][to](source.data(), got.data(), count);
            kernels->finish_streaming();
            CAPTURE(count);
            CAPTURE(pikv::dtype_name(source_dtype));
            CAPTURE(pikv::dtype_name(target_dtype));
            CHECK(std::memcmp(expected.data(), got.data(), static_cast<std::size_t>(got.size_bytes())) == 0);
            CHECK(got.guards_intact());
          }
        }
      }
    }
  }
}

}  // namespace
