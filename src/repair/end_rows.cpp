#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_end_rows_repair(const EndRowsOptions& options) {
  PIKV_TRY(detail::check_at_least("ends", "rows", options.num_rows, 1));
  return detail::make_policy({.name = "ends:" + std::to_string(options.num_rows),
                              .knows_rows_ahead = true,
                              .begin = [options](const RepairRequest& request) {
                                std::vector<std::int32_t> rows;
                                for (const detail::ApproximatePiece& piece : detail::approximate_pieces(request.plan)) {
                                  if (!piece.lacks_context()) continue;
                                  for (const std::int32_t row : piece.rows) {
                                    const std::int64_t token = piece.chunk_token(row);
                                    const bool at_an_end = token < options.num_rows ||
                                                           piece.piece->chunk_num_tokens - token <= options.num_rows;
                                    if (at_an_end) rows.push_back(row);
                                  }
                                }
                                return detail::one_pass_run(std::move(rows));
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult end_rows_from(PolicySpec& spec) {
  EndRowsOptions options;
  PIKV_TRY(spec.value("rows", options.num_rows));
  PIKV_TRY(spec.finish());
  return make_end_rows_repair(options);
}

}  // namespace detail
}  // namespace pikv
