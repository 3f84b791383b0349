#include "repair/policy_spec.hpp"

#include <array>
#include <charconv>
#include <cstddef>
#include <system_error>
#include <type_traits>

namespace pikv::detail {
namespace {

Status malformed(std::string_view field, std::string_view text, const char* wanted) {
  return invalid_argument(std::string(field) + ": '" + std::string(text) + "' is not " + wanted);
}

/// Plain digits, for real numbers with a point: no sign, no exponent, no names such as inf, no spaces.
template <class T>
bool parse_number(std::string_view text, T& out) {
  if (text.empty() || text.front() < '0' || text.front() > '9') return false;
  const char* const end = text.data() + text.size();
  std::from_chars_result result{};
  if constexpr (std::is_same_v<T, double>) {
    result = std::from_chars(text.data(), end, out, std::chars_format::fixed);
  } else {
    result = std::from_chars(text.data(), end, out);
  }
  return result.ec == std::errc() && result.ptr == end;
}

struct SignalName {
  DeviationOf signal;
  std::string_view name;
};
constexpr SignalName kSignalNames[] = {
    {DeviationOf::kValues, "v"}, {DeviationOf::kKeys, "k"}, {DeviationOf::kKeysAndValues, "kv"}};

/// The part of `text` up to `separator`, which is taken off with it; the last part leaves `more` false.
std::string_view take_part(std::string_view& text, char separator, bool& more) {
  const std::size_t end = text.find(separator);
  more = end != std::string_view::npos;
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(more ? end + 1 : text.size());
  return part;
}

}  // namespace

Result<PolicySpec> PolicySpec::split(std::string_view spec) {
  PolicySpec parts;
  bool more = false;
  parts.name_ = take_part(spec, ':', more);
  if (!more) return parts;
  bool first = true;
  while (more) {
    const std::string_view field = take_part(spec, ',', more);
    const std::size_t equals = field.find('=');
    if (field.empty()) return invalid_argument(first ? "nothing stands behind the colon" : "a comma without an option");
    if (equals == std::string_view::npos) {
      if (!first) return malformed(field, field, "an option with a value");
      parts.value_ = field;
    } else {
      const Option option{.field = field.substr(0, equals), .value = field.substr(equals + 1)};
      for (const Option& other : parts.options_) {
        if (other.field == option.field) return invalid_argument(std::string(option.field) + ": is given twice");
      }
      parts.options_.push_back(option);
    }
    first = false;
  }
  return parts;
}

Status PolicySpec::finish() const {
  if (!value_read_ && !value_.empty()) {
    return invalid_argument("'" + std::string(value_) + "': " + std::string(name_) + " takes no value");
  }
  for (const Option& option : options_) {
    if (!option.read) return invalid_argument(std::string(option.field) + ": there is no such option");
  }
  return {};
}

Status PolicySpec::parse(std::string_view field, std::string_view text, double& out) {
  return parse_number(text, out) ? Status() : malformed(field, text, "a decimal number");
}

Status PolicySpec::parse(std::string_view field, std::string_view text, std::int32_t& out) {
  return parse_number(text, out) ? Status() : malformed(field, text, "a whole number of 32 bits");
}

Status PolicySpec::parse(std::string_view field, std::string_view text, std::uint64_t& out) {
  return parse_number(text, out) ? Status() : malformed(field, text, "a whole number of 64 bits");
}

Status PolicySpec::parse(std::string_view field, std::string_view text, std::vector<std::int32_t>& out) {
  out.clear();
  std::string_view rest = text;
  bool more = true;
  while (more) {
    std::int32_t number = 0;
    if (!parse_number(take_part(rest, '+', more), number)) {
      return malformed(field, text, "whole numbers of 32 bits with a plus between them");
    }
    out.push_back(number);
  }
  return {};
}

Status PolicySpec::parse(std::string_view field, std::string_view text, DeviationOf& out) {
  for (const SignalName& known : kSignalNames) {
    if (known.name != text) continue;
    out = known.signal;
    return {};
  }
  return malformed(field, text, "v, k or kv");
}

Status PolicySpec::parse(std::string_view field, std::string_view text, ErrorBudgetOptions::Unit& out) {
  for (const auto unit : {ErrorBudgetOptions::Unit::kKl, ErrorBudgetOptions::Unit::kF1}) {
    if (spec_text(unit) != text) continue;
    out = unit;
    return {};
  }
  return malformed(field, text, "kl or f1");
}

std::string spec_text(double value) {
  std::array<char, 512> text{};  // a denormal needs some 340 without an exponent
  // The sum takes the sign off a zero.
  const std::to_chars_result end =
      std::to_chars(text.data(), text.data() + text.size(), value + 0.0, std::chars_format::fixed);
  return std::string(text.data(), end.ptr);
}

std::string spec_text(const std::vector<std::int32_t>& values) {
  std::string text;
  for (const std::int32_t value : values) text += (text.empty() ? "" : "+") + std::to_string(value);
  return text;
}

std::string spec_text(DeviationOf signal) {
  for (const SignalName& known : kSignalNames) {
    if (known.signal == signal) return std::string(known.name);
  }
  return {};
}

std::string spec_text(ErrorBudgetOptions::Unit unit) { return unit == ErrorBudgetOptions::Unit::kKl ? "kl" : "f1"; }

}  // namespace pikv::detail
