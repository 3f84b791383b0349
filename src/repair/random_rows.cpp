#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "repair/policies.hpp"
#include "repair/policy.hpp"
#include "repair/row_choice.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// SplitMix64: the standard library's engines are fixed too, its distributions are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

}  // namespace

Result<std::unique_ptr<RepairPolicy>> make_random_rows_repair(const RandomRowsOptions& options) {
  PIKV_TRY(detail::check_fraction("random", "fraction", options.fraction));
  std::string name = "random:" + detail::spec_text(options.fraction);
  if (options.seed != RandomRowsOptions().seed) name += ",seed=" + std::to_string(options.seed);
  return detail::make_policy({.name = name, .knows_rows_ahead = true, .begin = [options](const RepairRequest& request) {
                                std::vector<std::int32_t> rows = detail::approximate_rows(request.plan);
                                const std::size_t num_kept = detail::rows_of_fraction(options.fraction, rows.size());
                                Random random(options.seed);
                                for (std::size_t i = 0; i < num_kept; ++i) {
                                  // The remainder favours low rows by less than 2^-32.
                                  std::swap(rows[i], rows[i + random.next() % (rows.size() - i)]);
                                }
                                rows.resize(num_kept);
                                std::sort(rows.begin(), rows.end());
                                return detail::one_pass_run(std::move(rows));
                              }});
}

}  // namespace v0

namespace detail {

PolicyResult random_rows_from(PolicySpec& spec) {
  RandomRowsOptions options;
  PIKV_TRY(spec.value("fraction", options.fraction));
  PIKV_TRY(spec.option("seed", options.seed));
  PIKV_TRY(spec.finish());
  return make_random_rows_repair(options);
}

}  // namespace detail
}  // namespace pikv
