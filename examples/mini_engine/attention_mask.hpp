// Which rows of a sequence a row may attend: those not after it, and with documents only those of its own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace mini_engine {

/// Borrows its arguments. Immutable; every const member may be called from several threads.
class AttentionMask {
 public:
  /// `rows`: [R] sequence rows that attend, ascending. `documents`: [N] or empty, as Pass says.
  AttentionMask(std::span<const std::int32_t> rows, std::span<const std::int32_t> documents);

  [[nodiscard]] std::span<const std::int32_t> rows() const { return rows_; }
  /// No row of [first, last) of the R rows attends a sequence row before this one.
  [[nodiscard]] std::int32_t first_key(std::int64_t first, std::int64_t last) const;
  /// Sets to minus infinity the scores that row `index` of the R rows must not use; scores[j] belongs to sequence row
  /// begin + j, none of which comes after the row itself.
  void hide(std::int64_t index, std::int32_t begin, std::span<float> scores) const;

 private:
  std::span<const std::int32_t> rows_;
  std::span<const std::int32_t> documents_;
  std::vector<std::int32_t> first_keys_;  // [R], empty without documents
};

}  // namespace mini_engine
