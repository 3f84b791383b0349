#include "cpu/attention_scores.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "cpu/head_reader.hpp"
#include "cpu/transpose.hpp"

namespace pikv {
inline namespace v0 {
namespace cpu {
namespace {

/// Products of one block of rows stay in the second-level cache where rows are not too long for that.
constexpr std::int64_t kBlockProducts = std::int64_t{128} << 10;
constexpr std::int64_t kMaxBlockRows = 8;
/// Sums by key are kept apart in so many parts a head, each the work of one task, and added up in their order: what a
/// score is then does not depend on the number of threads.
constexpr std::int64_t kMaxParts = 16;
/// Work smaller than this many products is done before another thread would have woken up.
constexpr std::int64_t kParallelFromProducts = std::int64_t{8} << 10;

std::int64_t divide_up(std::int64_t count, std::int64_t size) noexcept { return (count + size - 1) / size; }

void grow(std::vector<float>& values, std::int64_t size) {
  if (values.size() < static_cast<std::size_t>(size)) values.resize(static_cast<std::size_t>(size));
}

}  // namespace

/// One scoring: its sizes, and the steps that tasks do.
class AttentionScores::Call {
 public:
  Call(AttentionScores& owner, const AttentionScoring& scoring)
      : owner_(owner),
        scoring_(scoring),
        kernels_(owner.kernels_),
        head_dim_(scoring.geometry.head_dim),
        num_kv_heads_(scoring.geometry.num_kv_heads),
        group_(scoring.num_query_heads / scoring.geometry.num_kv_heads),
        num_rows_(static_cast<std::int64_t>(scoring.query_rows.size())),
        num_keys_(std::int64_t{scoring.query_rows.back()} + 1),  // nobody attends what follows
        num_tiles_(divide_up(num_keys_, kTileKeys)),
        padded_keys_(num_tiles_ * kTileKeys),
        block_rows_(std::clamp<std::int64_t>(kBlockProducts / (group_ * padded_keys_), 1, kMaxBlockRows)),
        num_blocks_(divide_up(num_rows_, block_rows_)),
        num_parts_(std::min(num_blocks_, kMaxParts)),
        query_floats_(block_rows_ * group_ * head_dim_),
        product_floats_(block_rows_ * group_ * padded_keys_) {
    const std::int64_t reader_floats =
        HeadReader::scratch_elements(scoring.geometry) + HeadReader::kMaxTokens * head_dim_;
    worker_floats_ = std::max(query_floats_ + product_floats_ + padded_keys_, reader_floats);
    const double scale = scoring.scale != 0 ? scoring.scale : 1 / std::sqrt(static_cast<double>(head_dim_));
    query_factor_ = static_cast<float>(scale * std::numbers::log2e);
  }

  void reserve() {
    grow(owner_.keys_, num_kv_heads_ * num_tiles_ * tile_floats());
    grow(owner_.key_parts_, num_kv_heads_ * num_parts_ * padded_keys_);
    if (has_segments()) grow(owner_.segment_parts_, num_kv_heads_ * num_rows_ * scoring_.num_segments);
    grow(owner_.worker_scratch_, owner_.pool_.num_workers() * worker_floats_);
    owner_.segment_runs_.clear();
    if (has_segments()) find_segment_runs();
  }

  void run() {
    for_each(num_kv_heads_ * num_tiles_,
             [&](std::int64_t task, std::int32_t worker) { load_tile(task / num_tiles_, task % num_tiles_, worker); });
    for_each(num_kv_heads_ * num_parts_,
             [&](std::int64_t task, std::int32_t worker) { weigh_part(task / num_parts_, task % num_parts_, worker); });
    if (!scoring_.key_scores.empty()) add_key_scores();
    if (has_segments()) add_segment_scores();
  }

 private:
  [[nodiscard]] bool has_segments() const noexcept { return !scoring_.segment_scores.empty(); }
  [[nodiscard]] std::int64_t tile_floats() const noexcept { return head_dim_ * kTileKeys; }
  [[nodiscard]] float* scratch(std::int32_t worker) const noexcept {
    return owner_.worker_scratch_.data() + worker * worker_floats_;
  }
  [[nodiscard]] float* tile_of(std::int64_t head, std::int64_t tile) const noexcept {
    return owner_.keys_.data() + (head * num_tiles_ + tile) * tile_floats();
  }
  [[nodiscard]] float* part_of(std::int64_t head, std::int64_t part) const noexcept {
    return owner_.key_parts_.data() + (head * num_parts_ + part) * padded_keys_;
  }
  [[nodiscard]] float* segments_of(std::int64_t head, std::int64_t row) const noexcept {
    return owner_.segment_parts_.data() + (head * num_rows_ + row) * scoring_.num_segments;
  }

  template <class Body>
  void for_each(std::int64_t num_tasks, const Body& body) const {
    if (num_rows_ * num_keys_ * scoring_.num_query_heads >= kParallelFromProducts) {
      owner_.pool_.parallel_for(num_tasks, body);
    } else {
      for (std::int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    }
  }

  void find_segment_runs() {
    const std::span<const std::int32_t> segments = scoring_.key_segments;
    for (std::int64_t begin = 0; begin < num_keys_;) {
      std::int64_t end = begin + 1;
      const std::int32_t segment = segments[static_cast<std::size_t>(begin)];
      while (end < num_keys_ && segments[static_cast<std::size_t>(end)] == segment) ++end;
      owner_.segment_runs_.push_back({begin, end, segment});
      begin = end;
    }
  }

  /// One tile of keys as fp32, transposed; what is beyond the last key is 0.
  void load_tile(std::int64_t head, std::int64_t tile, std::int32_t worker) const noexcept {
    float* const rows = scratch(worker);
    const HeadReader reader(
        {.view = scoring_.keys, .slots = scoring_.key_slots, .head_dim = scoring_.geometry.head_dim}, kernels_,
        rows + HeadReader::kMaxTokens * head_dim_);
    float* const target = tile_of(head, tile);
    const std::int64_t end = std::min((tile + 1) * kTileKeys, num_keys_);
    if (end % kTileKeys != 0) std::fill_n(target, tile_floats(), 0.0F);
    for (std::int64_t begin = tile * kTileKeys; begin < end; begin += HeadReader::kMaxTokens) {
      const std::int64_t count = std::min(HeadReader::kMaxTokens, end - begin);
      reader.read(Side::kKey, scoring_.layer, static_cast<std::int32_t>(head), begin, count, rows);
      std::array<const std::byte*, HeadReader::kMaxTokens> from;
      std::array<std::byte*, HeadReader::kMaxTokens> to;
      for (std::int64_t i = 0; i < count; ++i) {
        from[static_cast<std::size_t>(i)] = reinterpret_cast<const std::byte*>(rows + i * head_dim_);
        to[static_cast<std::size_t>(i)] = reinterpret_cast<std::byte*>(target + begin % kTileKeys + i);
      }
      transpose_rows(sizeof(float), from.data(), sizeof(float), to.data(), kTileKeys * std::int64_t{sizeof(float)},
                     static_cast<std::size_t>(count), head_dim_);
    }
  }

  /// Every num_parts_-th block of rows, so that parts are of about the same size although later rows see more keys.
  void weigh_part(std::int64_t head, std::int64_t part, std::int32_t worker) const noexcept {
    std::fill_n(part_of(head, part), padded_keys_, 0.0F);
    for (std::int64_t block = part; block < num_blocks_; block += num_parts_) {
      const std::int64_t begin = block * block_rows_;
      weigh_rows(head, begin, std::min(begin + block_rows_, num_rows_), part_of(head, part), scratch(worker));
    }
  }

  void weigh_rows(std::int64_t head, std::int64_t begin, std::int64_t end, float* part, float* memory) const noexcept {
    float* const queries = memory;
    float* const products = queries + query_floats_;
    float* const weights = products + product_floats_;
    load_queries(head, begin, end, queries);
    const std::int64_t last_row = scoring_.query_rows[static_cast<std::size_t>(end - 1)];
    for (std::int64_t tile = 0; tile * kTileKeys <= last_row; ++tile) {
      kernels_.scores.multiply({.queries = queries,
                                .keys = tile_of(head, tile),
                                .products = products + tile * kTileKeys,
                                .num_queries = (end - begin) * group_,
                                .head_dim = head_dim_,
                                .product_stride = padded_keys_});
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t num_seen = std::int64_t{scoring_.query_rows[static_cast<std::size_t>(row)]} + 1;
      const std::int64_t padded = divide_up(num_seen, kPaddedFloats) * kPaddedFloats;
      std::fill_n(weights, padded, 0.0F);
      for (std::int64_t q = 0; q < group_; ++q) {
        float* const values = products + ((row - begin) * group_ + q) * padded_keys_;
        std::fill(values + num_seen, values + padded, -std::numeric_limits<float>::infinity());
        const float sum = kernels_.scores.exponentiate(values, padded, kernels_.scores.maximum(values, padded));
        kernels_.scores.accumulate(values, 1 / sum, weights, padded);
      }
      std::fill(weights + num_seen, weights + padded, 0.0F);
      kernels_.scores.accumulate(weights, 1.0F, part, padded);
      if (has_segments()) sum_segments(head, row, num_seen, weights);
    }
  }

  /// Rows [begin, end) of one group of heads as fp32, times the scale and log2(e): weights are then powers of two.
  void load_queries(std::int64_t head, std::int64_t begin, std::int64_t end, float* queries) const noexcept {
    const MoveElements convert = kernels_.elements[kCached][index_of(scoring_.query_dtype)][index_of(DType::kFloat32)];
    const std::int64_t num_floats = group_ * head_dim_;
    const auto* const source = static_cast<const std::byte*>(scoring_.queries);
    for (std::int64_t row = begin; row < end; ++row) {
      float* const target = queries + (row - begin) * num_floats;
      const std::int64_t first = row * scoring_.query_stride + head * num_floats;
      convert(source + first * dtype_bytes(scoring_.query_dtype), reinterpret_cast<std::byte*>(target), num_floats);
      for (std::int64_t i = 0; i < num_floats; ++i) target[i] *= query_factor_;
    }
  }

  void sum_segments(std::int64_t head, std::int64_t row, std::int64_t num_seen, const float* weights) const noexcept {
    float* const sums = segments_of(head, row);
    std::fill_n(sums, scoring_.num_segments, 0.0F);
    for (const SegmentRun& run : owner_.segment_runs_) {
      if (run.begin >= num_seen) break;
      sums[run.segment] += kernels_.scores.sum(weights + run.begin, std::min(run.end, num_seen) - run.begin);
    }
  }

  void add_key_scores() const noexcept {
    const float share = 1.0F / static_cast<float>(scoring_.num_query_heads);
    for_each(num_tiles_, [&](std::int64_t tile, std::int32_t /*worker*/) {
      const std::int64_t begin = tile * kTileKeys;
      std::array<float, kTileKeys> sums{};
      for (std::int64_t part = 0; part < num_kv_heads_ * num_parts_; ++part) {
        kernels_.scores.accumulate(part_of(0, part) + begin, 1.0F, sums.data(), kTileKeys);
      }
      const std::int64_t end = std::min(begin + kTileKeys, num_keys_);
      for (std::int64_t key = begin; key < end; ++key) {
        scoring_.key_scores[static_cast<std::size_t>(key)] += share * sums[static_cast<std::size_t>(key - begin)];
      }
    });
  }

  void add_segment_scores() const noexcept {
    const float share = 1.0F / static_cast<float>(scoring_.num_query_heads);
    for_each(num_rows_, [&](std::int64_t row, std::int32_t /*worker*/) {
      float* const scores = scoring_.segment_scores.data() + row * scoring_.num_segments;
      for (std::int32_t segment = 0; segment < scoring_.num_segments; ++segment) {
        float sum = 0;
        for (std::int64_t head = 0; head < num_kv_heads_; ++head) sum += segments_of(head, row)[segment];
        scores[segment] += share * sum;
      }
    });
  }

  AttentionScores& owner_;
  const AttentionScoring& scoring_;
  const RowKernels& kernels_;
  const std::int64_t head_dim_;
  const std::int64_t num_kv_heads_;
  const std::int64_t group_;  // query heads of each KV head
  const std::int64_t num_rows_;
  const std::int64_t num_keys_;
  const std::int64_t num_tiles_;
  const std::int64_t padded_keys_;
  const std::int64_t block_rows_;
  const std::int64_t num_blocks_;
  const std::int64_t num_parts_;
  const std::int64_t query_floats_;
  const std::int64_t product_floats_;
  std::int64_t worker_floats_;
  float query_factor_;
};

void AttentionScores::add(const AttentionScoring& scoring) {
  Call call(*this, scoring);
  call.reserve();
  call.run();
}

}  // namespace cpu
}  // namespace v0
}  // namespace pikv
