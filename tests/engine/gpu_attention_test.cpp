// Attention on the GPU against a double-precision oracle: every kernel, split or not, over NaN-poisoned memory, and
// cuDNN's where the build has it.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "mini_engine/bfloat16.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/gpu/attention.hpp"
#include "mini_engine/gpu/cudnn_attention.hpp"
#include "mini_engine/gpu/device.hpp"
#include "support/gpu_runs.hpp"

namespace {

using mini_engine::BFloat16;
using mini_engine::Precision;
using mini_engine::gpu::Attention;
using mini_engine::gpu::AttentionBatch;
using mini_engine::gpu::AttentionSequence;
using mini_engine::gpu::CacheLayer;
using mini_engine::gpu::CudnnAttention;
using mini_engine::gpu::DeviceBuffer;
using mini_engine::gpu::HeadSizes;

/// Rows of one sequence: so many, the last of them at `last_position`, `apart` positions between them.
struct Rows {
  std::int32_t count;
  std::int32_t last_position;
  std::int32_t apart = 1;
  bool has_documents = false;
};

struct Case {
  const char* name;
  HeadSizes sizes;
  std::int32_t page_size;
  std::vector<Rows> sequences;
};

const Case kCases[] = {
    {"one row of a short sequence", {8, 2, 128}, 16, {{1, 0}}},
    {"one row, keys split", {8, 2, 128}, 16, {{1, 4095}}},
    {"one row, heads of 64, a page cut short", {6, 2, 64}, 16, {{1, 700}}},
    {"a query head a KV head", {3, 3, 128}, 16, {{1, 300}, {16, 129}}},
    {"few rows, pages of one", {4, 1, 64}, 1, {{5, 77}}},
    {"few rows, pages of 17", {4, 1, 128}, 17, {{16, 511}}},
    {"rows just beyond the narrow tile", {8, 2, 128}, 16, {{17, 16}}},
    {"a question behind much context", {8, 2, 128}, 16, {{64, 2111}}},
    {"a prompt of odd length", {8, 2, 128}, 16, {{333, 332}}},
    {"a prompt, heads of 64, groups of three", {6, 2, 64}, 16, {{257, 256}}},
    {"a prompt longer than the blocks at once", {8, 2, 128}, 16, {{1100, 1099}}},
    {"pages of 5, groups of 32", {32, 1, 64}, 5, {{40, 99}}},
    {"rows apart", {8, 2, 128}, 16, {{70, 900, 9}}},
    {"sequences of many lengths, one row of some", {8, 2, 128}, 16, {{1, 900}, {130, 129}, {1, 0}, {7, 300}}},
    {"documents", {8, 2, 128}, 16, {{150, 149, 1, true}, {30, 400, 1, false}}},
    {"documents, few rows", {8, 2, 64}, 16, {{3, 200, 1, true}}},
    {"odd heads", {4, 2, 40}, 16, {{50, 120}, {1, 3}}},
    {"the largest heads", {2, 1, 256}, 16, {{33, 64}}},
};

/// What cuDNN computes: rows that follow on each other, from an empty cache and behind rows that are there.
const Case kCudnnCases[] = {
    {"a prompt of whole tiles", {8, 2, 128}, 16, {{512, 511}}},
    {"a prompt of odd length", {8, 2, 128}, 16, {{333, 332}}},
    {"a prompt, heads of 64, groups of three", {6, 2, 64}, 16, {{257, 256}}},
    {"rows behind cached ones", {8, 2, 128}, 16, {{130, 1200}}},
    {"heads of 64 behind cached ones", {6, 2, 64}, 16, {{600, 777}}},
    {"large pages", {8, 2, 128}, 64, {{200, 500}}},
};

/// Of row `i` of a sequence with documents: a system prompt, two documents, a question.
std::int32_t document_of(std::int32_t i) { return i < 10 ? -1 : i < 60 ? 0 : i < 110 ? 1 : -1; }

class World {
 public:
  /// filler: what lies in the cache where no keys are.
  World(const Case& from, Precision precision, float filler = std::nanf(""))
      : case_(from), is_float_(precision == Precision::kFloat32) {
    std::mt19937 random(7);
    const HeadSizes& sizes = case_.sizes;
    const std::int64_t token_elements = std::int64_t{sizes.num_kv_heads} * sizes.head_dim;
    std::int32_t num_pages = 1;
    for (const Rows& rows : case_.sequences) num_pages += rows.last_position / case_.page_size + 2;
    std::vector<std::int32_t> free_pages(static_cast<std::size_t>(num_pages));
    for (std::int32_t i = 0; i < num_pages; ++i) free_pages[static_cast<std::size_t>(i)] = i;
    std::shuffle(free_pages.begin(), free_pages.end(), random);
    layer_ = {.data = nullptr,
              .page_stride = 2 * case_.page_size * token_elements,
              .token_stride = token_elements,
              .head_stride = sizes.head_dim,
              .value_offset = case_.page_size * token_elements,
              .page_size = case_.page_size,
              .num_pages = num_pages};
    cache_.assign(static_cast<std::size_t>(num_pages * layer_.page_stride), filler);
    for (const Rows& rows : case_.sequences) add_sequence(rows, free_pages, random);
    queries_.resize(positions_.size() * query_size());
    for (float& query : queries_) query = draw(random, 3.0F);
  }

  /// attend(batch, cache, queries, query_stride, out, stream) queues the work.
  template <class Attend>
  [[nodiscard]] std::vector<float> run(const Attend& attend) {
    const mini_engine::gpu::Stream stream;
    const std::int64_t stride = static_cast<std::int64_t>(query_size()) + 16;
    std::vector<float> spaced(positions_.size() * static_cast<std::size_t>(stride), std::nanf(""));
    for (std::size_t row = 0; row < positions_.size(); ++row) {
      std::copy_n(queries_.begin() + static_cast<std::ptrdiff_t>(row * query_size()), query_size(),
                  spaced.begin() + static_cast<std::ptrdiff_t>(row) * stride);
    }
    DeviceBuffer cache = to_device(cache_, stream.get());
    DeviceBuffer queries = to_device(spaced, stream.get());
    // The output lies between guards.
    std::vector<float> poisoned(queries_.size() + 2 * kGuard, std::nanf(""));
    DeviceBuffer out = to_device(poisoned, stream.get());
    DeviceBuffer positions;
    DeviceBuffer pages;
    DeviceBuffer documents;
    upload(positions, std::span<const std::int32_t>(positions_), stream.get());
    upload(pages, std::span<const std::int32_t>(pages_), stream.get());
    if (!documents_.empty()) upload(documents, std::span<const std::int32_t>(documents_), stream.get());
    layer_.data = cache.as<void>();
    attend({.positions = positions.as<std::int32_t>(),
            .pages = pages.as<std::int32_t>(),
            .documents = documents.as<std::int32_t>()},
           layer_, queries.as<void>(), stride, out.as<std::byte>() + kGuard * element_bytes(), stream.get());
    stream.synchronize();
    const std::vector<float> all = to_host(out, poisoned.size());
    for (std::size_t i = 0; i < kGuard; ++i) {
      CHECK(std::isnan(all[i]));
      CHECK(std::isnan(all[all.size() - 1 - i]));
    }
    return {all.begin() + kGuard, all.end() - kGuard};
  }

  [[nodiscard]] std::vector<float> attend(Precision precision) {
    Attention attention(precision, case_.sizes);
    return run([&](const AttentionBatch& batch, const CacheLayer& cache, const void* queries, std::int64_t query_stride,
                   void* out, cudaStream_t stream) {
      attention.plan(sequences_, positions_, stream);
      attention(batch, cache, queries, query_stride, out, stream);
    });
  }

  [[nodiscard]] std::vector<float> attend_by_cudnn() {
    REQUIRE(CudnnAttention::can_compute(sequences_, positions_));
    CudnnAttention attention(case_.sizes);
    return run([&](const AttentionBatch& batch, const CacheLayer& cache, const void* queries, std::int64_t query_stride,
                   void* out, cudaStream_t stream) {
      attention(batch, sequences_[0], positions_.back() + 1, cache, queries, query_stride, out, stream);
    });
  }

  /// The largest distance from the oracle, relative to the largest value.
  [[nodiscard]] double error_of(const std::vector<float>& out) const {
    double worst = 0;
    const HeadSizes& sizes = case_.sizes;
    for (const AttentionSequence& sequence : sequences_) {
      for (std::int32_t row = sequence.first_row; row < sequence.first_row + sequence.num_rows; ++row) {
        for (std::int32_t head = 0; head < sizes.num_heads; ++head) {
          const std::vector<double> expected = oracle(sequence, row, head);
          for (std::int32_t d = 0; d < sizes.head_dim; ++d) {
            const float given =
                out[static_cast<std::size_t>(row) * query_size() + static_cast<std::size_t>(head * sizes.head_dim + d)];
            if (!std::isfinite(given)) return HUGE_VAL;
            worst = std::max(worst, std::abs(given - expected[static_cast<std::size_t>(d)]));
          }
        }
      }
    }
    return worst;
  }

 private:
  static constexpr std::size_t kGuard = 64;

  [[nodiscard]] std::size_t query_size() const {
    return static_cast<std::size_t>(case_.sizes.num_heads * case_.sizes.head_dim);
  }
  [[nodiscard]] std::size_t element_bytes() const { return is_float_ ? sizeof(float) : sizeof(BFloat16); }

  [[nodiscard]] float draw(std::mt19937& random, float scale) const {
    const float value = std::uniform_real_distribution<float>(-scale, scale)(random);
    return is_float_ ? value : mini_engine::to_float(mini_engine::to_bfloat16(value));
  }

  void add_sequence(const Rows& rows, std::vector<std::int32_t>& free_pages, std::mt19937& random) {
    const std::int32_t num_keys = rows.last_position + 1;
    sequences_.push_back({.first_row = static_cast<std::int32_t>(positions_.size()),
                          .num_rows = rows.count,
                          .first_page = static_cast<std::int32_t>(pages_.size()),
                          .first_document = rows.has_documents ? static_cast<std::int32_t>(documents_.size()) : -1});
    for (std::int32_t i = 0; i < rows.count; ++i) {
      positions_.push_back(rows.last_position - (rows.count - 1 - i) * rows.apart);
    }
    for (std::int32_t key = 0; key < num_keys; ++key) {
      if (key % case_.page_size == 0) {
        pages_.push_back(free_pages.back());
        free_pages.pop_back();
      }
      if (rows.has_documents) documents_.push_back(document_of(key));
      const std::int64_t place = pages_.back() * layer_.page_stride + key % case_.page_size * layer_.token_stride;
      for (std::int64_t i = 0; i < layer_.token_stride; ++i) {
        cache_[static_cast<std::size_t>(place + i)] = draw(random, 1.0F);
        cache_[static_cast<std::size_t>(place + layer_.value_offset + i)] = draw(random, 1.0F);
      }
    }
  }

  [[nodiscard]] std::vector<double> oracle(const AttentionSequence& sequence, std::int32_t row,
                                           std::int32_t head) const {
    const HeadSizes& sizes = case_.sizes;
    const std::int32_t position = positions_[static_cast<std::size_t>(row)];
    const std::int32_t kv_head = head / (sizes.num_heads / sizes.num_kv_heads);
    const float* const query =
        &queries_[static_cast<std::size_t>(row) * query_size() + static_cast<std::size_t>(head * sizes.head_dim)];
    std::vector<double> scores;
    std::vector<const float*> values;
    double largest = -HUGE_VAL;
    for (std::int32_t key = 0; key <= position; ++key) {
      if (sequence.first_document >= 0 && document_of(position) >= 0 && document_of(key) != document_of(position)) {
        continue;
      }
      const std::int64_t page = pages_[static_cast<std::size_t>(sequence.first_page + key / case_.page_size)];
      const float* const k = &cache_[static_cast<std::size_t>(
          page * layer_.page_stride + key % case_.page_size * layer_.token_stride + kv_head * layer_.head_stride)];
      double score = 0;
      for (std::int32_t d = 0; d < sizes.head_dim; ++d) score += static_cast<double>(query[d]) * k[d];
      scores.push_back(score / std::sqrt(sizes.head_dim));
      values.push_back(k + layer_.value_offset);
      largest = std::max(largest, scores.back());
    }
    std::vector<double> out(static_cast<std::size_t>(sizes.head_dim));
    double sum = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double weight = std::exp(scores[i] - largest);
      sum += weight;
      for (std::size_t d = 0; d < out.size(); ++d) out[d] += weight * values[i][d];
    }
    for (double& value : out) value /= sum;
    return out;
  }

  [[nodiscard]] DeviceBuffer to_device(const std::vector<float>& numbers, cudaStream_t stream) const {
    DeviceBuffer buffer;
    if (is_float_) {
      upload(buffer, std::span<const float>(numbers), stream);
      return buffer;
    }
    std::vector<BFloat16> narrow(numbers.size());
    std::transform(numbers.begin(), numbers.end(), narrow.begin(), mini_engine::to_bfloat16);
    upload(buffer, std::span<const BFloat16>(narrow), stream);
    return buffer;
  }

  [[nodiscard]] std::vector<float> to_host(const DeviceBuffer& buffer, std::size_t count) const {
    std::vector<std::byte> bytes(count * element_bytes());
    REQUIRE(cudaMemcpy(bytes.data(), buffer.as<void>(), bytes.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
    std::vector<float> numbers(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (is_float_) {
        std::memcpy(&numbers[i], &bytes[i * sizeof(float)], sizeof(float));
      } else {
        BFloat16 narrow{};
        std::memcpy(&narrow, &bytes[i * sizeof(BFloat16)], sizeof(BFloat16));
        numbers[i] = mini_engine::to_float(narrow);
      }
    }
    return numbers;
  }

  const Case& case_;
  bool is_float_;
  CacheLayer layer_{};
  std::vector<AttentionSequence> sequences_;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> pages_;
  std::vector<std::int32_t> documents_;
  std::vector<float> cache_;
  std::vector<float> queries_;
};

TEST_CASE("attention gives the oracle's rows and touches nothing else") {
  if (!test_support::has_gpu()) return;
  for (const Case& one : kCases) {
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      CAPTURE(one.name);
      CAPTURE(static_cast<int>(precision));
      World world(one, precision);
      const std::vector<float> out = world.attend(precision);
      // Weights and output are rounded to bf16: twice 2^-9 of values up to 1.
      CHECK(world.error_of(out) < (precision == Precision::kFloat32 ? 1e-5 : 5e-3));
      CHECK(world.attend(precision) == out);
    }
  }
}

TEST_CASE("cuDNN's attention gives the oracle's rows too") {
  if (!test_support::has_cudnn()) {
    CHECK_THROWS_AS(CudnnAttention({8, 2, 128}), mini_engine::Error);
    return;
  }
  if (!test_support::has_gpu()) return;
  for (const Case& one : kCudnnCases) {
    CAPTURE(one.name);
    // Beyond the keys it wants finite numbers; that large, they would show.
    World world(one, Precision::kBFloat16, 1e4F);
    CHECK(world.error_of(world.attend_by_cudnn()) < 5e-3);
  }
}

TEST_CASE("cuDNN is not asked for rows apart, several sequences or documents") {
  const auto can_compute = [](std::vector<AttentionSequence> sequences, std::vector<std::int32_t> positions) {
    return CudnnAttention::can_compute(sequences, positions);
  };
  const AttentionSequence three{.first_row = 0, .num_rows = 3, .first_page = 0, .first_document = -1};
  CHECK(can_compute({three}, {0, 1, 2}));
  CHECK(can_compute({three}, {7, 8, 9}));
  CHECK_FALSE(can_compute({three}, {7, 8, 10}));
  AttentionSequence with_documents = three;
  with_documents.first_document = 0;
  CHECK_FALSE(can_compute({with_documents}, {0, 1, 2}));
  AttentionSequence next = three;
  next.first_row = 3;
  CHECK_FALSE(can_compute({three, next}, {0, 1, 2, 0, 1, 2}));
  CHECK_FALSE(can_compute({}, {}));
}

}  // namespace
