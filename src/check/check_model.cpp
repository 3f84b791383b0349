#include "pikv/check_model.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "check/checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// The first of the checks makes what the others work with.
ModelCheck run_one(check::Checks& checks, const check::Checks::Entry& entry, bool can_run) {
  ModelCheck result{.name = entry.name,
                    .proves = entry.proves,
                    .measured = {},
                    .bound = 0,
                    .outcome = CheckOutcome::kNotChecked,
                    .detail = "the probe cannot be used",
                    .is_essential = entry.is_essential};
  if (!can_run) return result;
  result.detail.clear();
  const Status status = (checks.*entry.member)(result);
  if (status.ok()) return result;
  const bool cannot_run = status.code() == ErrorCode::kUnsupported;
  result.outcome = cannot_run ? CheckOutcome::kNotChecked : CheckOutcome::kFailed;
  result.detail = std::string(status.message());
  return result;
}

}  // namespace

const char* check_outcome_name(CheckOutcome outcome) noexcept {
  switch (outcome) {
    case CheckOutcome::kPassed:
      return "passed";
    case CheckOutcome::kFailed:
      return "failed";
    case CheckOutcome::kNotChecked:
      return "not checked";
  }
  return "unknown";
}

CheckReport check_model(ModelProbe& probe, const CheckOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  CheckReport report;
  check::Checks checks(probe, options);
  for (const check::Checks::Entry& entry : check::Checks::all()) {
    const bool can_run = report.checks.empty() || report.checks.front().outcome == CheckOutcome::kPassed;
    report.checks.push_back(run_one(checks, entry, can_run));
  }
  const auto missing = std::find_if(report.checks.begin(), report.checks.end(), [](const ModelCheck& check) {
    return check.is_essential && check.outcome != CheckOutcome::kPassed;
  });
  report.vouched = missing == report.checks.end();
  if (!report.vouched) {
    report.reason = missing->name + " " + check_outcome_name(missing->outcome) +
                    (missing->detail.empty() ? "" : ": " + missing->detail);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

std::string to_text(const CheckReport& report) {
  std::string text;
  for (const ModelCheck& check : report.checks) {
    char line[160];
    char measured[16] = "";
    char bound[16] = "";
    if (check.measured) {
      std::snprintf(measured, sizeof measured, "%.2e", *check.measured);
      std::snprintf(bound, sizeof bound, "%.2e", check.bound);
    }
    std::snprintf(line, sizeof line, "%-15s %-11s %9s %9s  %s\n", check.name.c_str(), check_outcome_name(check.outcome),
                  measured, bound, check.proves.c_str());
    text += line;
    if (!check.detail.empty()) text += "                " + check.detail + "\n";
  }
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, " (%.1f s)", report.seconds);
  if (!report.vouched) return text + "NOT vouched for: " + report.reason + seconds;
  text += "vouched for";
  for (const ModelCheck& check : report.checks) {
    if (check.outcome != CheckOutcome::kPassed) text += ", except for " + check.name;
  }
  return text + seconds;
}

}  // namespace v0
}  // namespace pikv
