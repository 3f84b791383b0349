#include "attention.hpp"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cache_rows.hpp"
#include "ops.hpp"
#include "simd/kernels.hpp"

namespace mini_engine {
namespace {

// As for matrix products: up to here reading K and V dominates.
constexpr std::int64_t kMostFewRows = 8;
// Keys whose scores one task of a few rows computes: K and V of a chunk stay in the second-level cache.
constexpr std::int32_t kChunkKeys = 256;
// Stacked rows of one sgemm, and the scores it may produce: a block's scores should not leave the second-level cache.
constexpr std::int64_t kMostStackedRows = 192;
constexpr std::int64_t kMostScores = 256 * 1024;
constexpr std::int64_t kLeastStackedRows = 16;
constexpr std::int32_t kGatherRows = 128;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

}  // namespace

struct Attention::Call {
  const Sequence& sequence;
  int layer;
  const AttentionMask& mask;
  InputRows queries;
  OutputRows out;

  [[nodiscard]] std::int64_t num_rows() const { return static_cast<std::int64_t>(mask.rows().size()); }
  [[nodiscard]] std::int32_t row(std::int64_t index) const { return mask.rows()[static_cast<std::size_t>(index)]; }
};

Attention::Attention(const ModelConfig& config, ThreadPool& pool)
    : num_kv_heads_(config.num_kv_heads),
      group_(config.num_heads / config.num_kv_heads),
      head_dim_(config.head_dim),
      factor_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)))),
      pool_(pool),
      scratch_(static_cast<std::size_t>(pool.num_threads())) {}

void Attention::operator()(const Sequence& sequence, int layer, const AttentionMask& mask, InputRows queries,
                           OutputRows out) {
  const Call call{sequence, layer, mask, queries, out};
  if (call.num_rows() == 0) return;
  if (call.num_rows() <= kMostFewRows) {
    few_rows(call);
  } else {
    many_rows(call);
  }
}

// Many rows.

void Attention::many_rows(const Call& call) {
  const std::int64_t num_rows = call.num_rows();
  const std::int32_t end = call.row(num_rows - 1) + 1;
  gather(call, call.mask.first_key(0, num_rows), end);

  // Blocks are smaller when there are few rows, so that every thread has some.
  const std::int64_t fair = num_rows * num_kv_heads_ * group_ / (4 * pool_.num_threads());
  const std::int64_t most = std::min(kMostStackedRows, kMostScores / end);
  const std::int64_t stacked = std::max(kLeastStackedRows, std::min(fair, most));
  const std::int64_t block = std::max<std::int64_t>(1, stacked / group_);
  const std::int64_t num_blocks = (num_rows + block - 1) / block;
  // The last rows have the most keys; they go first.
  pool_.run(static_cast<int>(num_blocks * num_kv_heads_), [&](int task, int thread) {
    const std::int64_t first = (num_blocks - 1 - task / num_kv_heads_) * block;
    attend_block(call, task % num_kv_heads_, first, std::min(num_rows, first + block), thread);
  });
}

// K and V of sequence rows [begin, end) into contiguous fp32, head by head.
void Attention::gather(const Call& call, std::int32_t begin, std::int32_t end) {
  gathered_begin_ = begin;
  num_gathered_ = end - begin;
  keys_.grow(num_kv_heads_ * num_gathered_ * head_dim_);
  values_.grow(num_kv_heads_ * num_gathered_ * head_dim_);
  PagedCache& cache = call.sequence.cache();
  const auto copy = [&](auto rows, auto&& copy_row) {
    const auto num_tasks = static_cast<int>((num_gathered_ + kGatherRows - 1) / kGatherRows);
    pool_.run(num_tasks, [&](int task, int) {
      const std::int64_t last = std::min<std::int64_t>(num_gathered_, (task + 1) * kGatherRows);
      for (std::int64_t i = task * kGatherRows; i < last; ++i) {
        const Slot slot = call.sequence.slots()[static_cast<std::size_t>(begin + i)];
        for (int head = 0; head < num_kv_heads_; ++head) {
          const std::int64_t to = (head * num_gathered_ + i) * head_dim_;
          copy_row(rows.key(slot, head), keys_.data() + to);
          copy_row(rows.value(slot, head), values_.data() + to);
        }
      }
    });
  };
  if (cache.precision() == Precision::kFloat32) {
    copy(CacheRows<const float>(cache, call.layer), [&](const float* from, float* to) {
      std::memcpy(to, from, static_cast<std::size_t>(head_dim_) * sizeof(float));
    });
  } else {
    copy(CacheRows<const BFloat16>(cache, call.layer),
         [&](const BFloat16* from, float* to) { simd::kernels().expand_bf16(from, to, head_dim_); });
  }
}

// Rows [first, last) of the call, all query heads of one KV head.
void Attention::attend_block(const Call& call, int head, std::int64_t first, std::int64_t last, int thread) {
  const simd::Kernels& kernels = simd::kernels();
  const std::int32_t begin = call.mask.first_key(first, last);
  const int num_keys = call.row(last - 1) + 1 - begin;
  const auto num_stacked = static_cast<int>((last - first) * group_);
  const std::int64_t group_size = std::int64_t{group_} * head_dim_;

  float* stacked = scratch_[static_cast<std::size_t>(thread)].grow(std::int64_t{num_stacked} * (head_dim_ + num_keys));
  float* scores = stacked + std::int64_t{num_stacked} * head_dim_;
  for (std::int64_t r = first; r < last; ++r) {
    kernels.scale(call.queries.data + r * call.queries.stride + head * group_size, factor_,
                  stacked + (r - first) * group_size, group_size);
  }
  const std::int64_t from = (head * num_gathered_ + begin - gathered_begin_) * head_dim_;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, num_stacked, num_keys, head_dim_, 1.0F, stacked, head_dim_,
              keys_.data() + from, head_dim_, 0.0F, scores, num_keys);

  for (int s = 0; s < num_stacked; ++s) {
    const std::int64_t r = first + s / group_;
    const std::int64_t num_visible = call.row(r) + 1 - begin;
    float* row_scores = scores + std::int64_t{s} * num_keys;
    call.mask.hide(r, begin, {row_scores, static_cast<std::size_t>(num_visible)});
    const float sum = kernels.exp_and_sum(row_scores, kernels.largest(row_scores, num_visible), num_visible);
    kernels.scale(row_scores, 1.0F / sum, row_scores, num_visible);
    std::fill(row_scores + num_visible, row_scores + num_keys, 0.0F);
  }

  // The queries are no longer needed; their place takes the result.
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, num_stacked, head_dim_, num_keys, 1.0F, scores, num_keys,
              values_.data() + from, head_dim_, 0.0F, stacked, head_dim_);
  for (std::int64_t r = first; r < last; ++r) {
    std::memcpy(call.out.data + r * call.out.stride + head * group_size, stacked + (r - first) * group_size,
                static_cast<std::size_t>(group_size) * sizeof(float));
  }
}

// A few rows.

void Attention::few_rows(const Call& call) {
  const std::int64_t num_rows = call.num_rows();
  const std::int64_t num_stacked = num_rows * group_;
  const int num_chunks = call.row(num_rows - 1) / kChunkKeys + 1;
  const std::int64_t group_size = std::int64_t{group_} * head_dim_;

  queries_.grow(num_kv_heads_ * num_stacked * head_dim_);
  partial_sums_.grow(num_kv_heads_ * num_chunks * num_stacked * head_dim_);
  partials_.resize(static_cast<std::size_t>(num_kv_heads_ * num_chunks * num_stacked));
  for (int head = 0; head < num_kv_heads_; ++head) {
    for (std::int64_t r = 0; r < num_rows; ++r) {
      simd::kernels().scale(call.queries.data + r * call.queries.stride + head * group_size, factor_,
                            queries_.data() + (head * num_rows + r) * group_size, group_size);
    }
  }

  const bool is_float = call.sequence.cache().precision() == Precision::kFloat32;
  pool_.run(num_kv_heads_ * num_chunks, [&](int task, int thread) {
    if (is_float) {
      attend_chunk<const float>(call, task / num_chunks, task % num_chunks, thread);
    } else {
      attend_chunk<const BFloat16>(call, task / num_chunks, task % num_chunks, thread);
    }
  });
  for_ranges(pool_, num_kv_heads_, num_chunks * num_stacked * head_dim_, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) join_chunks(call, static_cast<int>(head), num_chunks);
  });
}

template <typename T>
void Attention::attend_chunk(const Call& call, int head, int chunk, int thread) {
  const simd::Kernels& kernels = simd::kernels();
  const std::int64_t num_rows = call.num_rows();
  const auto num_stacked = static_cast<int>(num_rows * group_);
  const std::int32_t begin = chunk * kChunkKeys;
  const std::int32_t end = std::min(begin + kChunkKeys, call.row(num_rows - 1) + 1);
  const std::int64_t first_partial =
      (std::int64_t{head} * (call.row(num_rows - 1) / kChunkKeys + 1) + chunk) * num_stacked;
  Partial* partials = partials_.data() + first_partial;
  float* sums = partial_sums_.data() + first_partial * head_dim_;

  std::fill(sums, sums + std::int64_t{num_stacked} * head_dim_, 0.0F);
  if (call.mask.first_key(0, num_rows) >= end) {
    std::fill(partials, partials + num_stacked, Partial{kMinusInfinity, 0.0F});
    return;
  }

  float* scores = scratch_[static_cast<std::size_t>(thread)].grow(std::int64_t{num_stacked} * kChunkKeys);
  const CacheRows<T> rows(call.sequence.cache(), call.layer);
  const std::vector<Slot>& slots = call.sequence.slots();
  const auto dot = [&] {
    if constexpr (sizeof(T) == sizeof(float))
      return kernels.dot_f32;
    else
      return kernels.dot_bf16;
  }();
  rows.for_runs(slots, begin, end, [&](std::int32_t row, std::int32_t count) {
    dot({.w = rows.key(slots[static_cast<std::size_t>(row)], head),
         .w_stride = rows.token_stride(),
         .num_outputs = count,
         .size = head_dim_,
         .x = queries_.data() + std::int64_t{head} * num_stacked * head_dim_,
         .x_stride = head_dim_,
         .num_rows = num_stacked,
         .y = scores + (row - begin),
         .y_stride = kChunkKeys,
         .adds = false});
  });

  for (int s = 0; s < num_stacked; ++s) {
    float* row_scores = scores + std::int64_t{s} * kChunkKeys;
    const std::int32_t num_visible = std::clamp(call.row(s / group_) + 1 - begin, 0, end - begin);
    call.mask.hide(s / group_, begin, {row_scores, static_cast<std::size_t>(num_visible)});
    const float largest = kernels.largest(row_scores, num_visible);
    // A row that sees nothing of this chunk has no largest score to subtract.
    const bool sees_any = largest != kMinusInfinity;
    partials[s] = {largest, sees_any ? kernels.exp_and_sum(row_scores, largest, num_visible) : 0.0F};
    std::fill(row_scores + (sees_any ? num_visible : 0), row_scores + (end - begin), 0.0F);
  }

  const auto weighted_sum = [&] {
    if constexpr (sizeof(T) == sizeof(float))
      return kernels.weighted_sum_f32;
    else
      return kernels.weighted_sum_bf16;
  }();
  rows.for_runs(slots, begin, end, [&](std::int32_t row, std::int32_t count) {
    weighted_sum({.v = rows.value(slots[static_cast<std::size_t>(row)], head),
                  .v_stride = rows.token_stride(),
                  .num_terms = count,
                  .size = head_dim_,
                  .p = scores + (row - begin),
                  .p_stride = kChunkKeys,
                  .num_rows = num_stacked,
                  .y = sums,
                  .y_stride = head_dim_});
  });
}

void Attention::join_chunks(const Call& call, int head, int num_chunks) {
  const std::int64_t num_stacked = call.num_rows() * group_;
  for (std::int64_t s = 0; s < num_stacked; ++s) {
    const auto partial_at = [&](int chunk) { return (std::int64_t{head} * num_chunks + chunk) * num_stacked + s; };
    float largest = kMinusInfinity;
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      largest = std::max(largest, partials_[static_cast<std::size_t>(partial_at(chunk))].largest);
    }
    float* out = call.out.data + s / group_ * call.out.stride + (head * group_ + s % group_) * std::int64_t{head_dim_};
    std::fill(out, out + head_dim_, 0.0F);
    float sum = 0.0F;
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      const Partial& partial = partials_[static_cast<std::size_t>(partial_at(chunk))];
      const float weight = std::exp(partial.largest - largest);
      sum += weight * partial.sum;
      const float* from = partial_sums_.data() + partial_at(chunk) * head_dim_;
      for (int d = 0; d < head_dim_; ++d) out[d] += weight * from[d];
    }
    simd::kernels().scale(out, 1.0F / sum, out, head_dim_);
  }
}

}  // namespace mini_engine
