// What a prompt's question attends to, added up over the layers of a pass where the cache lies and brought to the host
// once the pass is through. Part of the bridge.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/probe_memory.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// One pass's measurement. All arguments must outlive it.
class QuestionAttention {
 public:
  /// question: rows of the prompt that the pass computes to its end, the last of them the prompt's last. num_rows: of
  /// the prompt.
  QuestionAttention(const pikv::RepairAttention& what, std::span<const std::int32_t> question, std::int64_t num_rows,
                    pikv::RowScorer& scorer, const ProbeMemory& memory, pikv::StreamRef stream);

  [[nodiscard]] bool measures(int layer) const { return layer >= what_.first_layer && layer < what_.end_layer; }
  /// Queues a layer's share. scoring: of that layer, without queries and scores. queries: of the pass at that layer.
  void add(pikv::AttentionScoring scoring, const TurnedQueries& queries);
  /// As RepairRun::on_attention() takes it. Waits for the stream.
  [[nodiscard]] std::vector<float> mean() const;

 private:
  pikv::RepairAttention what_;
  std::vector<std::int32_t> question_;
  std::size_t num_rows_;
  pikv::RowScorer& scorer_;
  const ProbeMemory& memory_;
  pikv::StreamRef stream_;
  pikv::Buffer question_rows_;
  pikv::Buffer sums_;  // [rows of the prompt] from the question; behind them the same from its last row
};

}  // namespace mini_engine
