#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {

Result<std::unique_ptr<RepairPolicy>> make_first_rows_repair(const FirstRowsOptions& options) {
  PIKV_TRY(detail::check_at_least("first", "rows", options.num_rows, 1));
  PIKV_TRY(detail::check_at_least("first", "skip", options.skip, 0));
  std::string name = "first:" + std::to_string(options.num_rows);
  if (options.skip != FirstRowsOptions().skip) name += ",skip=" + std::to_string(options.skip);
  return detail::make_policy({.name = name, .knows_rows_ahead = true, .begin = [options](const RepairRequest& request) {
                                std::vector<std::int32_t> rows;
                                std::int32_t num_skipped = 0;
                                for (const detail::ApproximatePiece& piece : detail::approximate_pieces(request.plan)) {
                                  if (!piece.lacks_context() || num_skipped++ < options.skip) continue;
                                  for (const std::int32_t row : piece.rows) {
                                    if (piece.chunk_token(row) < options.num_rows) rows.push_back(row);
                                  }
                                }
                                return detail::one_pass_run(std::move(rows));
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult first_rows_from(PolicySpec& spec) {
  FirstRowsOptions options;
  PIKV_TRY(spec.value("rows", options.num_rows));
  PIKV_TRY(spec.option("skip", options.skip));
  PIKV_TRY(spec.finish());
  return make_first_rows_repair(options);
}

}  // namespace detail
}  // namespace pikv
