// A repair policy's spec, "name:value,option=value,...", taken apart field by field.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pikv/repair_policies.hpp"
#include "pikv/status.hpp"

namespace pikv::detail {

/// Errors of all members: kInvalidArgument naming the field. Views point into the spec.
class PolicySpec {
 public:
  [[nodiscard]] static Result<PolicySpec> split(std::string_view spec);

  [[nodiscard]] std::string_view name() const noexcept { return name_; }

  /// The value behind the name, which the spec must have. `field` is what messages call it.
  template <class T>
  [[nodiscard]] Status value(std::string_view field, T& out) {
    value_read_ = true;
    if (value_.empty()) return invalid_argument(std::string(field) + ": is missing");
    return parse(field, value_, out);
  }
  /// An option, which the spec may have; `out` stays as it is without.
  template <class T>
  [[nodiscard]] Status option(std::string_view field, T& out) {
    for (Option& option : options_) {
      if (option.field != field) continue;
      option.read = true;
      return parse(field, option.value, out);
    }
    return {};
  }
  /// Refuses whatever was not read.
  [[nodiscard]] Status finish() const;

 private:
  struct Option {
    std::string_view field;
    std::string_view value;
    bool read = false;
  };

  PolicySpec() = default;
  static Status parse(std::string_view field, std::string_view text, double& out);
  static Status parse(std::string_view field, std::string_view text, std::int32_t& out);
  static Status parse(std::string_view field, std::string_view text, std::uint64_t& out);
  static Status parse(std::string_view field, std::string_view text, std::vector<std::int32_t>& out);  ///< "1+2+4"
  static Status parse(std::string_view field, std::string_view text, DeviationOf& out);
  static Status parse(std::string_view field, std::string_view text, ErrorBudgetOptions::Unit& out);

  std::string_view name_;
  std::string_view value_;  // empty: the spec has none
  std::vector<Option> options_;
  bool value_read_ = false;
};

/// Text that parses to the same value; a number's shortest.
[[nodiscard]] std::string spec_text(double value);
[[nodiscard]] std::string spec_text(const std::vector<std::int32_t>& values);
[[nodiscard]] std::string spec_text(DeviationOf signal);
[[nodiscard]] std::string spec_text(ErrorBudgetOptions::Unit unit);

}  // namespace pikv::detail
