// How alike two passes over one prompt look at it: the attention of the same rows over the same keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lab/query_capture.hpp"
#include "mini_engine/config.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/thread_pool.hpp"

namespace lab {

/// Rows [begin, end) of a sequence.
struct RowRange {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

/// A prompt once computed: the sequence that holds its keys, and the queries of its question.
struct AttentionSource {
  const mini_engine::Sequence* sequence = nullptr;
  const QueryCapture* queries = nullptr;
};

/// Means over the rows whose queries were captured.
struct AttentionSimilarity {
  std::vector<double> cosine;      ///< [L][Q] of the two distributions, seen as vectors
  std::vector<double> divergence;  ///< [L][Q] Jensen-Shannon, in nats: 0 for equal ones, ln 2 for disjoint ones
  std::vector<double> full_mass;   ///< [L][Q][passages] share of the attention that goes to a passage
  std::vector<double> arm_mass;    ///< [L][Q][passages]
};

/// Attention is plain and causal: of row r over all rows of its sequence up to r. passages: runs of rows of both.
/// Throws mini_engine::Error when a layer has no queries, or not of the same rows in both, and for passages that end
/// behind a sequence.
[[nodiscard]] AttentionSimilarity compare_attention(const mini_engine::ModelConfig& config, const AttentionSource& full,
                                                    const AttentionSource& arm, std::span<const RowRange> passages,
                                                    mini_engine::ThreadPool& pool);

}  // namespace lab
