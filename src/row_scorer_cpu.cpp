#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu/attention_scores.hpp"
#include "cpu/head_reader.hpp"
#include "cpu/select_row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "pikv/row_scores.hpp"
#include "row_checks.hpp"
#include "row_score_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::int64_t kBlockRows = cpu::HeadReader::kMaxTokens;
/// Work smaller than this is done before another thread would have woken up.
constexpr std::int64_t kParallelFromElements = std::int64_t{32} << 10;

class CpuRowScorer final : public RowScorer {
 public:
  explicit CpuRowScorer(std::int32_t num_threads)
      : pool_(num_threads), kernels_(*cpu::supported_row_kernels().back()), attention_(pool_, kernels_) {}

  MemorySpace space() const noexcept override { return MemorySpace::kHost; }

  Status add_deviation_async(const DeviationScoring& scoring, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_deviation(scoring, caps()));
    PIKV_TRY(detail::check_deviation_arrays(scoring));
    try {
      add_deviation(scoring);
      return {};
    } catch (const std::bad_alloc&) {
      return out_of_memory("row scorer: no memory for the rows that its threads compare");
    }
  }

  Status add_attention_async(const AttentionScoring& scoring, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_attention(scoring, caps()));
    PIKV_TRY(detail::check_attention_arrays(scoring));
    if (scoring.query_rows.empty() || (scoring.key_scores.empty() && scoring.segment_scores.empty())) return {};
    try {
      attention_.add(scoring);
      return {};
    } catch (const std::bad_alloc&) {
      return out_of_memory("row scorer: no memory for the weights of its rows");
    }
  }

 private:
  static BackendCaps caps() noexcept { return {.name = "cpu", .space = MemorySpace::kHost}; }

  void add_deviation(const DeviationScoring& scoring) {
    const std::int64_t num_rows = scoring.fresh_slots.num_tokens();
    const std::int64_t block_floats = kBlockRows * scoring.geometry.head_dim;
    const std::int64_t worker_floats = 2 * block_floats + cpu::HeadReader::scratch_elements(scoring.geometry);
    const auto needed = static_cast<std::size_t>(pool_.num_workers() * worker_floats);
    if (scratch_.size() < needed) scratch_.resize(needed);

    const std::int64_t num_blocks = (num_rows + kBlockRows - 1) / kBlockRows;
    const auto body = [&](std::int64_t block, std::int32_t worker) {
      compare_rows(scoring, block * kBlockRows, std::min((block + 1) * kBlockRows, num_rows),
                   scratch_.data() + worker * worker_floats);
    };
    if (num_rows * scoring.geometry.num_kv_heads * scoring.geometry.head_dim >= kParallelFromElements) {
      pool_.parallel_for(num_blocks, body);
    } else {
      for (std::int64_t block = 0; block < num_blocks; ++block) body(block, 0);
    }
  }

  void compare_rows(const DeviationScoring& scoring, std::int64_t begin, std::int64_t end,
                    float* memory) const noexcept {
    const std::int32_t head_dim = scoring.geometry.head_dim;
    float* const fresh = memory;
    float* const cached = fresh + kBlockRows * head_dim;
    float* const reader_scratch = cached + kBlockRows * head_dim;
    const cpu::HeadReader fresh_reader({.view = detail::single_layer(scoring.fresh),
                                        .slots = scoring.fresh_slots,
                                        .positions = scoring.positions,
                                        .rope = scoring.rope,
                                        .head_dim = head_dim},
                                       kernels_, reader_scratch);
    const cpu::HeadReader cached_reader({.view = scoring.cached, .slots = scoring.cached_slots, .head_dim = head_dim},
                                        kernels_, reader_scratch);

    const std::int64_t count = end - begin;
    std::array<float, kBlockRows> sums{};
    const auto add_side = [&](cpu::Side side, float weight) {
      if (weight == 0) return;
      for (std::int32_t head = 0; head < scoring.geometry.num_kv_heads; ++head) {
        fresh_reader.read(side, 0, head, begin, count, fresh);
        cached_reader.read(side, scoring.layer, head, begin, count, cached);
        for (std::int64_t i = 0; i < count; ++i) {
          sums[static_cast<std::size_t>(i)] +=
              weight * kernels_.scores.squared_distance(fresh + i * head_dim, cached + i * head_dim, head_dim);
        }
      }
    };
    add_side(cpu::Side::kKey, scoring.key_weight);
    add_side(cpu::Side::kValue, scoring.value_weight);
    for (std::int64_t i = 0; i < count; ++i) {
      scoring.scores[static_cast<std::size_t>(begin + i)] += sums[static_cast<std::size_t>(i)];
    }
  }

  cpu::ThreadPool pool_;
  const cpu::RowKernels& kernels_;
  cpu::AttentionScores attention_;
  std::vector<float> scratch_;  // [workers] what a worker needs for one block of rows
};

}  // namespace

std::unique_ptr<RowScorer> make_cpu_row_scorer(std::int32_t num_threads) {
  return std::make_unique<CpuRowScorer>(num_threads);
}

}  // namespace v0
}  // namespace pikv
