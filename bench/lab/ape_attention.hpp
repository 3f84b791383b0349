// Adaptive Parallel Encoding (arXiv 2502.05431): the baseline that computes nothing of a context anew. Contexts
// were encoded in parallel behind one prefix and all stand at the positions right behind it; what follows them comes
// behind the longest one, and attends them with a temperature and a weight of their own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lab/query_capture.hpp"
#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/thread_pool.hpp"

namespace lab {

struct ApeOptions {
  double temperature = 0.9;  ///< T: scores of contexts are divided by it
  double scale = 0.9;        ///< s
};

/// Which rows of a sequence are what: the prefix, the contexts one after the other, and behind them what attends.
struct ApeRows {
  std::int32_t prefix = 0;               ///< number of rows
  std::vector<std::int32_t> contexts{};  ///< number of rows of each

  [[nodiscard]] std::int32_t first_question_row() const;
  /// How many positions the question stands before its rows.
  [[nodiscard]] std::int32_t question_shift() const;
};

/// Attention of passes over the prefix or over rows behind the contexts, decoded ones too. Keys of a context must lie
/// in the sequence's rows as turned to positions prefix, prefix + 1, ..., in the pages that a chunk anchored at
/// `prefix` leaves; those of all other rows as any pass leaves them.
///
/// With lse the logarithm of the summed exponentials of a part's scores, the outputs of the contexts (scores
/// q k / (sqrt(D) T)) and of all else (q k / sqrt(D)) are joined with weights softmax([s T lse_contexts, lse_else]).
/// The model turns a question's queries and keys to positions equal to their rows; between question rows that keeps
/// distances, and towards prefix and contexts the queries are turned back.
class ApeAttention final : public mini_engine::PassObserver {
 public:
  /// All must outlive the observer; the sequence may grow. Throws mini_engine::Error when T or s is not positive, or a
  /// number of rows is negative.
  ApeAttention(const mini_engine::Model& model, const mini_engine::Sequence& sequence, ApeRows rows,
               const ApeOptions& options, mini_engine::ThreadPool& pool);

  /// Throws mini_engine::Error for rows of contexts.
  [[nodiscard]] bool attend(int layer, const mini_engine::TurnedQueries& queries, void* out) override;

 private:
  struct Call;

  [[nodiscard]] std::vector<float> turned_back(const QueryRows& queries) const;
  void attend_head(const Call& call, int head);

  const mini_engine::Model& model_;
  const mini_engine::Sequence& sequence_;
  ApeRows rows_;
  ApeOptions options_;
  mini_engine::ThreadPool& pool_;
};

}  // namespace lab
