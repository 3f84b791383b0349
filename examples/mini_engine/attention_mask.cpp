#include "attention_mask.hpp"

#include <algorithm>
#include <limits>
#include <unordered_map>

#include "model.hpp"

namespace mini_engine {

AttentionMask::AttentionMask(std::span<const std::int32_t> rows, std::span<const std::int32_t> documents)
    : rows_(rows), documents_(documents) {
  if (documents.empty()) return;
  std::unordered_map<std::int32_t, std::int32_t> first_rows;
  for (std::size_t row = 0; row < documents.size(); ++row) {
    first_rows.emplace(documents[row], static_cast<std::int32_t>(row));
  }
  first_rows[Pass::kSeesAll] = 0;
  first_keys_.reserve(rows.size());
  for (const std::int32_t row : rows) first_keys_.push_back(first_rows.at(documents[static_cast<std::size_t>(row)]));
}

std::int32_t AttentionMask::first_key(std::int64_t first, std::int64_t last) const {
  if (first_keys_.empty() || first == last) return 0;
  return *std::min_element(first_keys_.begin() + first, first_keys_.begin() + last);
}

void AttentionMask::hide(std::int64_t index, std::int32_t begin, std::span<float> scores) const {
  if (documents_.empty()) return;
  const std::int32_t own = documents_[static_cast<std::size_t>(rows_[static_cast<std::size_t>(index)])];
  if (own == Pass::kSeesAll) return;
  const std::int32_t* documents = documents_.data() + begin;
  for (std::size_t j = 0; j < scores.size(); ++j) {
    scores[j] = documents[j] == own ? scores[j] : -std::numeric_limits<float>::infinity();
  }
}

}  // namespace mini_engine
