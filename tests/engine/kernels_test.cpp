// Every set of kernels that this machine can run against plain double arithmetic, at sizes that fill vectors and
// sizes that do not.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "mini_engine/matmul.hpp"
#include "mini_engine/simd/kernels.hpp"
#include "support/engine_runs.hpp"

namespace {

using mini_engine::BFloat16;
using mini_engine::to_bfloat16;
using mini_engine::to_float;
using mini_engine::simd::Kernels;

const int kSizes[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257};

std::vector<float> noise(std::size_t size, unsigned seed, float spread = 1.0F) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> values(-spread, spread);
  std::vector<float> out(size);
  for (float& value : out) value = values(random);
  return out;
}

template <typename Check>
void for_each_set(const Check& check) {
  for (int index = 0; const Kernels* kernels = mini_engine::simd::kernels_at(index); ++index) {
    CAPTURE(kernels->name);
    check(*kernels);
  }
}

TEST_CASE("dot products of a few rows") {
  for_each_set([](const Kernels& kernels) {
    for (const int size : kSizes) {
      for (const int num_rows : {1, 2, 3, 4, 5, 9}) {
        for (const int num_outputs : {1, 3, 4, 6}) {
          // Strides wider than the rows, to see that nothing beyond them is used or written.
          const auto w = noise(static_cast<std::size_t>(num_outputs * (size + 3)), 1);
          const auto x = noise(static_cast<std::size_t>(num_rows * (size + 5)), 2);
          std::vector<BFloat16> w_bf16;
          for (const float value : w) w_bf16.push_back(to_bfloat16(value));
          for (const bool adds : {false, true}) {
            std::vector<float> y(static_cast<std::size_t>(num_rows * (num_outputs + 2)), 0.5F), y_bf16 = y;
            kernels.dot_f32(
                {w.data(), size + 3, num_outputs, size, x.data(), size + 5, num_rows, y.data(), num_outputs + 2, adds});
            kernels.dot_bf16({w_bf16.data(), size + 3, num_outputs, size, x.data(), size + 5, num_rows, y_bf16.data(),
                              num_outputs + 2, adds});
            for (int r = 0; r < num_rows; ++r) {
              for (int o = 0; o < num_outputs + 2; ++o) {
                double expected = 0.5, expected_bf16 = 0.5;
                if (o < num_outputs) {
                  if (!adds) expected = expected_bf16 = 0.0;
                  for (int i = 0; i < size; ++i) {
                    const auto at = static_cast<std::size_t>(o * (size + 3) + i);
                    const double input = double{x[static_cast<std::size_t>(r * (size + 5) + i)]};
                    expected += double{w[at]} * input;
                    expected_bf16 += double{to_float(w_bf16[at])} * input;
                  }
                }
                const auto at = static_cast<std::size_t>(r * (num_outputs + 2) + o);
                CHECK(std::abs(double{y[at]} - expected) < 1e-5);
                CHECK(std::abs(double{y_bf16[at]} - expected_bf16) < 1e-5);
              }
            }
          }
        }
      }
    }
  });
}

TEST_CASE("weighted sums") {
  for_each_set([](const Kernels& kernels) {
    for (const int size : kSizes) {
      for (const int num_rows : {1, 2, 3, 4, 6}) {
        const int num_terms = 11;
        const auto v = noise(static_cast<std::size_t>(num_terms * (size + 2)), 3);
        const auto p = noise(static_cast<std::size_t>(num_rows * 20), 4);
        std::vector<BFloat16> v_bf16;
        for (const float value : v) v_bf16.push_back(to_bfloat16(value));
        std::vector<float> y(static_cast<std::size_t>(num_rows * (size + 1)), 0.25F), y_bf16 = y;
        kernels.weighted_sum_f32({v.data(), size + 2, num_terms, size, p.data(), 20, num_rows, y.data(), size + 1});
        kernels.weighted_sum_bf16(
            {v_bf16.data(), size + 2, num_terms, size, p.data(), 20, num_rows, y_bf16.data(), size + 1});
        for (int r = 0; r < num_rows; ++r) {
          for (int d = 0; d < size + 1; ++d) {
            double expected = 0.25, expected_bf16 = 0.25;
            for (int j = 0; j < num_terms && d < size; ++j) {
              const auto at = static_cast<std::size_t>(j * (size + 2) + d);
              const double weight = double{p[static_cast<std::size_t>(r * 20 + j)]};
              expected += weight * double{v[at]};
              expected_bf16 += weight * double{to_float(v_bf16[at])};
            }
            const auto at = static_cast<std::size_t>(r * (size + 1) + d);
            CHECK(std::abs(double{y[at]} - expected) < 3e-6);
            CHECK(std::abs(double{y_bf16[at]} - expected_bf16) < 3e-6);
          }
        }
      }
    }
  });
}

TEST_CASE("rotation is exactly the stated pair of fused operations") {
  for_each_set([](const Kernels& kernels) {
    for (const int half : kSizes) {
      auto x = noise(static_cast<std::size_t>(2 * half), 5);
      x[0] = 0.0F;
      const auto cos = noise(static_cast<std::size_t>(half), 6), sin = noise(static_cast<std::size_t>(half), 7);
      std::vector<float> y(x.size());
      kernels.rotate(x.data(), cos.data(), sin.data(), y.data(), half);
      std::vector<float> in_place = x;
      kernels.rotate(in_place.data(), cos.data(), sin.data(), in_place.data(), half);
      for (int i = 0; i < half; ++i) {
        const auto a = static_cast<std::size_t>(i), b = static_cast<std::size_t>(i + half);
        const float lo = std::fma(x[a], cos[a], -(x[b] * sin[a])), hi = std::fma(x[b], cos[a], x[a] * sin[a]);
        CHECK(y[a] == lo);
        CHECK(y[b] == hi);
        CHECK(std::signbit(y[a]) == std::signbit(lo));
        CHECK(in_place[a] == lo);
        CHECK(in_place[b] == hi);
      }
    }
  });
}

TEST_CASE("exponentials are accurate over their whole range") {
  for_each_set([](const Kernels& kernels) {
    double worst = 0.0;
    for (double x = -86.99; x < 87.9; x += 0.00137) {
      const auto argument = static_cast<float>(x);
      float value = argument;
      (void)kernels.exp_and_sum(&value, 0.0F, 1);
      const double exact = std::exp(double{argument});
      worst = std::max(worst, std::abs(double{value} - exact) / exact);
    }
    CHECK(worst < 2e-7);

    const float infinity = std::numeric_limits<float>::infinity();
    float ends[] = {-infinity, -1e30F, -87.01F, 0.0F, -0.0F, std::numeric_limits<float>::quiet_NaN()};
    (void)kernels.exp_and_sum(ends, 0.0F, 6);
    CHECK(ends[0] == 0.0F);
    CHECK(ends[1] == 0.0F);
    CHECK(ends[2] == 0.0F);
    CHECK(ends[3] == 1.0F);
    CHECK(ends[4] == 1.0F);
    CHECK(std::isnan(ends[5]));
  });
}

TEST_CASE("largest, sums of exponentials, scaling") {
  for_each_set([](const Kernels& kernels) {
    CHECK(kernels.largest(nullptr, 0) == -std::numeric_limits<float>::infinity());
    for (const int size : kSizes) {
      const auto n = static_cast<std::size_t>(size);
      const auto x = noise(n + 1, 8, 20.0F);
      const float largest = kernels.largest(x.data(), size);
      CHECK(largest == *std::max_element(x.begin(), x.end() - 1));
      std::vector<float> e = x;
      const float sum = kernels.exp_and_sum(e.data(), largest, size);
      double expected = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        expected += std::exp(double{x[i]} - double{largest});
        CHECK(double{e[i]} == doctest::Approx(std::exp(double{x[i]} - double{largest})).epsilon(1e-5));
      }
      CHECK(double{sum} == doctest::Approx(expected).epsilon(1e-5));
      CHECK(e[n] == x[n]);
      kernels.scale(x.data(), 3.0F, e.data(), size);
      for (std::size_t i = 0; i < n; ++i) CHECK(e[i] == 3.0F * x[i]);
      CHECK(e[n] == x[n]);
    }
  });
}

TEST_CASE("normalisation and gating") {
  for_each_set([](const Kernels& kernels) {
    for (const int size : kSizes) {
      const auto n = static_cast<std::size_t>(size);
      const auto x = noise(n, 9, 3.0F), weight = noise(n, 10);
      std::vector<float> y(n + 1, 42.0F);
      kernels.rmsnorm(x.data(), weight.data(), 1e-5F, y.data(), size);
      double squares = 0.0;
      for (const float value : x) squares += double{value} * double{value};
      const double root = std::sqrt(squares / size + 1e-5);
      for (std::size_t i = 0; i < n; ++i) {
        CHECK(double{y[i]} == doctest::Approx(double{weight[i]} * double{x[i]} / root).epsilon(1e-6));
      }
      CHECK(y[n] == 42.0F);

      auto gate = noise(n, 11, 30.0F);
      if (size > 3) gate[2] = -200.0F;  // where exp(-gate) overflows
      kernels.silu_multiply(gate.data(), x.data(), y.data(), size);
      for (std::size_t i = 0; i < n; ++i) {
        const double exact = double{gate[i]} / (1.0 + std::exp(-double{gate[i]})) * double{x[i]};
        CHECK(std::abs(double{y[i]} - exact) <= 5e-7 * std::abs(exact) + 1e-30);
      }
      CHECK(y[n] == 42.0F);
    }
  });
}

TEST_CASE("bf16 is rounded to nearest even, and NaN and infinity stay what they are") {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x = noise(4000, 12, 1000.0F);
  for (const float tie : {1.00390625F, 1.01171875F, -1.00390625F}) x.push_back(tie);
  for (const float end : {0.0F, -0.0F, infinity, -infinity, 3.4e38F, 1e-40F}) x.push_back(end);
  x.push_back(std::numeric_limits<float>::quiet_NaN());
  x.push_back(std::bit_cast<float>(0x7F800001U));  // a NaN whose payload would be rounded away
  x.push_back(std::bit_cast<float>(0xFFFFFFFFU));
  CHECK(to_float(to_bfloat16(1.00390625F)) == 1.0F);
  CHECK(to_float(to_bfloat16(1.01171875F)) == 1.015625F);
  CHECK(to_float(to_bfloat16(3.4e38F)) == infinity);
  CHECK(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7F800001U)))));
  for_each_set([&](const Kernels& kernels) {
    const auto size = static_cast<std::int64_t>(x.size());
    std::vector<BFloat16> rounded(x.size());
    std::vector<float> expanded(x.size()), stayed(x.size());
    kernels.round_bf16(x.data(), rounded.data(), size);
    kernels.expand_bf16(rounded.data(), expanded.data(), size);
    kernels.round_to_bf16(x.data(), stayed.data(), size);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK(rounded[i] == to_bfloat16(x[i]));
      CHECK(std::bit_cast<std::uint32_t>(expanded[i]) == std::uint32_t{rounded[i]} << 16);
      CHECK(std::bit_cast<std::uint32_t>(stayed[i]) == std::bit_cast<std::uint32_t>(expanded[i]));
    }
  });
}

TEST_CASE("matrix products of every number of rows, whole matrices and parts of them") {
  using mini_engine::Matrix;
  using mini_engine::Precision;
  mini_engine::ThreadPool pool(2);
  mini_engine::MatMul matmul(pool);
  const mini_engine::SingleThreadedBlas single_threaded_blas;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    const int outputs = 203, inputs = 70;
    const auto values = noise(static_cast<std::size_t>(outputs * inputs), 13);
    Matrix w(precision, outputs, inputs);
    std::vector<float> exact(values.size());
    for (int o = 0; o < outputs; ++o) {
      w.set_row(o, values.data() + o * inputs);
      w.get_row(o, exact.data() + o * inputs);
    }
    if (precision == Precision::kFloat32) CHECK(exact == values);
    for (const int num_rows : {1, 3, 8, 9, 40}) {
      for (const auto& [begin, end] : {std::pair{0, outputs}, std::pair{17, 150}, std::pair{202, 203}}) {
        for (const mini_engine::Store store : {mini_engine::Store::kReplace, mini_engine::Store::kAdd}) {
          const auto x = noise(static_cast<std::size_t>(num_rows * 75), 14);
          std::vector<float> y(static_cast<std::size_t>(num_rows * 210), 2.0F);
          matmul({x.data(), 75}, num_rows, {w, begin, end}, {y.data(), 210}, store);
          double worst = 0.0;
          for (int r = 0; r < num_rows; ++r) {
            for (int o = 0; o < 210; ++o) {
              double expected = 2.0;
              if (o < end - begin) {
                if (store == mini_engine::Store::kReplace) expected = 0.0;
                for (int i = 0; i < inputs; ++i) {
                  expected += double{exact[static_cast<std::size_t>((begin + o) * inputs + i)]} *
                              double{x[static_cast<std::size_t>(r * 75 + i)]};
                }
              }
              worst = std::max(worst, std::abs(double{y[static_cast<std::size_t>(r * 210 + o)]} - expected));
            }
          }
          CHECK(worst < 1e-5);
        }
      }
    }
  }
}

}  // namespace
