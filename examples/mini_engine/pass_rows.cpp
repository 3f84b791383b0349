#include "pass_rows.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "error.hpp"
#include "pass_checks.hpp"

namespace mini_engine {

std::optional<std::vector<std::int32_t>> PassRows::ask_which_go_on(int layer) const {
  if (pass_.observer == nullptr) return std::nullopt;
  std::optional<std::vector<std::int32_t>> chosen = pass_.observer->rows_that_go_on(layer);
  if (!chosen) return std::nullopt;
  const std::string field = "rows_that_go_on(" + std::to_string(layer) + ")";
  check_ascending(field, *chosen, size());
  for (const std::int32_t index : pass_.logit_rows) {
    if (std::binary_search(chosen->begin(), chosen->end(), index)) continue;
    throw Error("pass: " + field + " leaves out " + std::to_string(index) + ", row " +
                std::to_string(pass_.rows[static_cast<std::size_t>(index)]) +
                " of the sequence, whose logits are wanted");
  }
  if (chosen->size() == pass_.rows.size()) return std::nullopt;
  return chosen;
}

void PassRows::keep(std::span<const std::int32_t> chosen) {
  std::vector<TokenId> tokens;
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> logit_rows;
  auto wanted = pass_.logit_rows.begin();
  for (const std::int32_t index : chosen) {
    if (wanted != pass_.logit_rows.end() && *wanted == index) {
      logit_rows.push_back(static_cast<std::int32_t>(rows.size()));
      ++wanted;
    }
    tokens.push_back(pass_.tokens[static_cast<std::size_t>(index)]);
    rows.push_back(pass_.rows[static_cast<std::size_t>(index)]);
  }
  pass_.tokens = tokens_ = std::move(tokens);
  pass_.rows = rows_ = std::move(rows);
  pass_.logit_rows = logit_rows_ = std::move(logit_rows);
}

}  // namespace mini_engine
