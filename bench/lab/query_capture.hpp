// Queries of chosen rows, kept on the host while passes run.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"

namespace lab {

/// Queries of some rows of one layer in fp32, turned to the rows' positions.
struct QueryRows {
  std::vector<std::int32_t> rows;  ///< [R] of the sequence, ascending
  std::vector<float> elements;     ///< [R][Q][D]
};

/// All queries of a call to an observer. memory: the one that the model computes in. query_size: Q * D.
[[nodiscard]] QueryRows read_queries(const mini_engine::TurnedQueries& queries, mini_engine::CacheMemory memory,
                                     std::int64_t query_size);

/// Keeps the queries of the chosen rows that any pass computes; the last pass that computes a row counts.
class QueryCapture final : public mini_engine::PassObserver {
 public:
  /// memory: the one that the model computes in. rows: of the sequence, in any order.
  QueryCapture(const mini_engine::ModelConfig& config, mini_engine::CacheMemory memory,
               std::span<const std::int32_t> rows);

  void on_queries(int layer, const mini_engine::TurnedQueries& queries) override;

  /// Of the chosen rows, those that were computed.
  [[nodiscard]] const QueryRows& layer(int layer) const { return layers_[static_cast<std::size_t>(layer)]; }

 private:
  std::int64_t query_size_;
  mini_engine::CacheMemory memory_;
  std::vector<std::int32_t> rows_;  // ascending
  std::vector<QueryRows> layers_;
};

}  // namespace lab
