#include "lab/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <vector>

#include "mini_engine/error.hpp"

namespace lab {
namespace {

double sum(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }
double mean(std::span<const double> values) { return sum(values) / static_cast<double>(values.size()); }

/// Of the mean; not a number for one value.
double standard_error(std::span<const double> values) {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double center = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - center) * (value - center);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1) / n);
}

struct Estimate {
  double mean, standard_error;
};
Estimate estimate(std::span<const double> values) { return {mean(values), standard_error(values)}; }
/// "mean ± standard error", without the latter where it is unknown. `sign`: "+" for differences, else "".
std::string in_nats(const Estimate& kl, const char* sign) {
  const std::string text = fmt::format(fmt::runtime(fmt::format("{{:{}.2e}}", sign)), kl.mean);
  return std::isnan(kl.standard_error) ? text : fmt::format("{} ± {:.1e}", text, kl.standard_error);
}
std::string in_percent(const Estimate& change) {
  const std::string text = fmt::format("{:+.3f}", change.mean);
  return std::isnan(change.standard_error) ? text + " %" : fmt::format("{} ± {:.3f} %", text, change.standard_error);
}

/// Entry by entry, times `factor`.
std::vector<double> differences(std::span<const double> values, std::span<const double> from, double factor = 1) {
  std::vector<double> result;
  for (std::size_t i = 0; i < values.size(); ++i) result.push_back((values[i] - from[i]) * factor);
  return result;
}

/// How many entries of `after` are above their partner in `before`.
std::size_t num_above(std::span<const double> after, std::span<const double> before) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < after.size(); ++i) count += after[i] > before[i] ? 1 : 0;
  return count;
}

double perplexity(const TextReport& text, const TextArm& arm) {
  return std::exp(sum(arm.nll) / static_cast<double>(text.num_scored()));
}

/// Change of perplexity in percent to first order: of the mean negative log-likelihood, over windows.
Estimate percent_above(const TextReport& text, const TextArm& arm, const TextArm& from) {
  return estimate(differences(arm.nll, from.nll, 100 / static_cast<double>(text.window_tokens - 1)));
}

/// The same but for keys, which are encoded before RoPE.
template <class T>
const T& counterpart(const std::vector<T>& arms, const Arm& after) {
  Arm before = after;
  before.frame = KeyFrame::kBeforeRope;
  return *std::find_if(arms.begin(), arms.end(), [&](const T& other) { return other.arm == before; });
}

std::string reuse_table(const ReuseReport& reuse) {
  const double reference_bytes = reuse.arms[kReferenceArm].bytes_per_token;
  std::string out =
      "| format | keys encoded | bytes per token | KL(bf16 \\|\\| format), nats | same first token | error of keys | "
      "error of values |\n| --- | --- | --- | --- | --- | --- | --- |\n";
  for (const ReuseArm& arm : reuse.arms) {
    if (arm.arm.values != Values::kInFormat) continue;
    const std::string shown = arm.arm == kArms[kReferenceArm] ? "0 (reference)" : in_nats(estimate(arm.kl), "");
    out += fmt::format("| {} | {} RoPE | {:.0f} ({:.3f}) | {} | {:.1f} % | {:.2e} | {:.2e} |\n", format_name(arm.arm),
                       frame_name(arm.arm.frame), arm.bytes_per_token, arm.bytes_per_token / reference_bytes, shown,
                       100 * mean(arm.top1), mean(arm.key_errors), mean(arm.value_errors));
  }
  return out;
}

std::string text_table(const TextReport& text) {
  const TextArm& reference = text.arms[kReferenceArm];
  std::string out = "| format | keys encoded | perplexity | against bf16 |\n| --- | --- | --- | --- |\n";
  for (const TextArm& arm : text.arms) {
    if (arm.arm.values != Values::kInFormat) continue;
    const double value = perplexity(text, arm);
    const std::string shown = arm.arm == reference.arm
                                  ? "(reference)"
                                  : fmt::format("{:+.5f} ({})", value - perplexity(text, reference),
                                                in_percent(percent_above(text, arm, reference)));
    out +=
        fmt::format("| {} | {} RoPE | {:.5f} | {} |\n", format_name(arm.arm), frame_name(arm.arm.frame), value, shown);
  }
  return out;
}

/// What moving the encoder behind RoPE does to answers and text.
std::string order_table(const ReuseReport& reuse, const TextReport& text) {
  std::string out =
      "| format | of | KL before | KL after | after - before | worse after | perplexity, after - before | worse after "
      "|\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (std::size_t i = 0; i < kArms.size(); ++i) {
    if (kArms[i].frame == KeyFrame::kBeforeRope || kArms[i].format == pikv::SlabFormat::kPlain) continue;
    const std::vector<double>& after = reuse.arms[i].kl;
    const std::vector<double>& before = counterpart(reuse.arms, kArms[i]).kl;
    const TextArm& text_before = counterpart(text.arms, kArms[i]);
    out += fmt::format("| {} | {} | {:.2e} | {:.2e} | {} | {} of {} questions | {} | {} of {} windows |\n",
                       format_name(kArms[i]), parts_name(kArms[i].values), mean(before), mean(after),
                       in_nats(estimate(differences(after, before)), "+"), num_above(after, before), after.size(),
                       in_percent(percent_above(text, text.arms[i], text_before)),
                       num_above(text.arms[i].nll, text_before.nll), text_before.nll.size());
  }
  return out;
}

/// And what it does to keys.
std::string key_table(const ReuseReport& reuse) {
  std::string out =
      "| format | error before | error after | after / before, lowest and highest head | worse after |\n"
      "| --- | --- | --- | --- | --- |\n";
  for (std::size_t i = 0; i < kArms.size(); ++i) {
    if (kArms[i].frame == KeyFrame::kBeforeRope || kArms[i].values != Values::kInFormat) continue;
    const std::vector<double>& after = reuse.arms[i].key_errors;
    const std::vector<double>& before = counterpart(reuse.arms, kArms[i]).key_errors;
    std::vector<double> ratios;
    for (std::size_t head = 0; head < after.size(); ++head) ratios.push_back(after[head] / before[head]);
    const auto [lowest, highest] = std::ranges::minmax_element(ratios);
    out += fmt::format("| {} | {:.3e} | {:.3e} | {:.2f}, {:.2f} | {} of {} heads |\n", format_name(kArms[i]),
                       mean(before), mean(after), *lowest, *highest, num_above(after, before), ratios.size());
  }
  return out;
}

nlohmann::ordered_json line(const char* experiment, const Arm& arm) {
  return {{"experiment", experiment},
          {"format", format_name(arm)},
          {"keys_encoded", frame_name(arm.frame)},
          {"encoded", parts_name(arm.values)}};
}

}  // namespace

std::string to_markdown(const ReuseReport& reuse, const TextReport& text) {
  std::string out = fmt::format(
      "Re-anchored prompts: {} questions, {} tokens in {} distinct passages, prompts of {} tokens on average.\n\n{}\n",
      reuse.questions.size(), reuse.num_passage_tokens, reuse.num_passages,
      reuse.num_prompt_tokens / reuse.questions.size(), reuse_table(reuse));
  out += fmt::format("Text: {} windows of {} tokens in blocks of {}; {} tokens predicted.\n\n{}\n", text.num_windows,
                     text.window_tokens, text.block_tokens, text.num_scored(), text_table(text));
  out += fmt::format("After RoPE against before:\n\n{}\nErrors of keys, layer by layer and head by head:\n\n{}\n",
                     order_table(reuse, text), key_table(reuse));
  out += fmt::format(
      "Largest channel of keys over the median channel, mean over layers, heads and passages: {:.2f} before RoPE, "
      "{:.2f} "
      "after.\n",
      reuse.unevenness_before, reuse.unevenness_after);
  return out;
}

void write_json_lines(const ReuseReport& reuse, const TextReport& text, const std::string& path) {
  std::ofstream out(path);
  for (const ReuseArm& arm : reuse.arms) {
    for (std::size_t i = 0; i < arm.kl.size(); ++i) {
      nlohmann::ordered_json question = line("reuse", arm.arm);
      question["question"] = reuse.questions[i];
      question["kl"] = arm.kl[i];
      question["top1"] = arm.top1[i];
      out << question << '\n';
    }
    nlohmann::ordered_json summary = line("reuse", arm.arm);
    summary["summary"] = true;
    summary["num_questions"] = arm.kl.size();
    summary["kl"] = mean(arm.kl);
    summary["kl_standard_error"] = standard_error(arm.kl);
    summary["top1"] = mean(arm.top1);
    summary["bytes_per_token"] = arm.bytes_per_token;
    summary["key_error"] = mean(arm.key_errors);
    summary["value_error"] = mean(arm.value_errors);
    summary["key_error_by_layer_and_head"] = arm.key_errors;
    out << summary << '\n';
  }
  for (const TextArm& arm : text.arms) {
    for (std::size_t i = 0; i < arm.nll.size(); ++i) {
      nlohmann::ordered_json window = line("text", arm.arm);
      window["window"] = i;
      window["nll"] = arm.nll[i];
      out << window << '\n';
    }
    nlohmann::ordered_json summary = line("text", arm.arm);
    summary["summary"] = true;
    summary["num_tokens"] = text.num_scored();
    summary["perplexity"] = perplexity(text, arm);
    out << summary << '\n';
  }
  out.close();
  if (!out) throw mini_engine::Error(path + ": cannot be written");
}

}  // namespace lab
