#include "mini_engine/serve/metrics.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine::serve {
namespace {

// The shortest digits that read back as the same number, whatever the locale.
std::string text_of(double value) {
  std::array<char, 32> digits{};
  const std::to_chars_result end = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), end.ptr};
}

void append_single(std::string& page, std::string_view name, std::string_view type, std::string_view help,
                   const std::string& value) {
  append_header(page, name, type, help);
  append_sample(page, name, "", value);
}

}  // namespace

void append_header(std::string& page, std::string_view name, std::string_view type, std::string_view help) {
  page.append("# HELP ").append(name).append(" ").append(help).append("\n# TYPE ").append(name).append(" ");
  page.append(type).append("\n");
}

void append_sample(std::string& page, std::string_view name, std::string_view labels, std::string_view value) {
  page.append(name);
  if (!labels.empty()) page.append("{").append(labels).append("}");
  page.append(" ").append(value).append("\n");
}

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {
  for (std::size_t i = 0; i < bounds_.size(); ++i) {
    if (!std::isfinite(bounds_[i]) || (i > 0 && bounds_[i] <= bounds_[i - 1])) {
      throw Error("histogram: bound " + std::to_string(i) + " is not finite or not above the one before it");
    }
  }
}

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  const std::lock_guard lock(mutex_);
  ++counts_[static_cast<std::size_t>(bucket)];
  sum_ += value;
}

void Histogram::append_to(std::string& page, std::string_view name, std::string_view help) const {
  std::vector<std::uint64_t> counts;
  double sum = 0.0;
  {
    const std::lock_guard lock(mutex_);
    counts = counts_;
    sum = sum_;
  }
  append_header(page, name, "histogram", help);
  const std::string bucket_name = std::string(name) + "_bucket";
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    const std::string bound = i < bounds_.size() ? text_of(bounds_[i]) : "+Inf";
    append_sample(page, bucket_name, "le=\"" + bound + "\"", std::to_string(total));
  }
  append_sample(page, std::string(name) + "_sum", "", text_of(sum));
  append_sample(page, std::string(name) + "_count", "", std::to_string(total));
}

std::string ServeMetrics::to_prometheus() const {
  std::string page;
  constexpr std::string_view kEnded = "mini_engine_requests_total";
  append_header(page, kEnded, "counter", "Accepted requests that have ended, by outcome.");
  for (int i = 0; i < kNumEndReasons; ++i) {
    const std::string label = "outcome=\"" + std::string(name_of(static_cast<EndReason>(i))) + "\"";
    append_sample(page, kEnded, label, std::to_string(ended[static_cast<std::size_t>(i)].value()));
  }
  constexpr std::string_view kRefused = "mini_engine_requests_refused_total";
  append_header(page, kRefused, "counter", "Requests that were not accepted, by reason.");
  for (int i = 0; i < kNumRefusalReasons; ++i) {
    const std::string label = "reason=\"" + std::string(name_of(static_cast<Refusal::Reason>(i))) + "\"";
    append_sample(page, kRefused, label, std::to_string(refused[static_cast<std::size_t>(i)].value()));
  }
  append_single(page, "mini_engine_queued_requests", "gauge", "Accepted requests that wait for pages.",
                std::to_string(queued.value()));
  append_single(page, "mini_engine_running_requests", "gauge", "Requests in the batch.",
                std::to_string(running.value()));
  append_single(page, "mini_engine_free_pages", "gauge", "Pages of the KV cache that no request holds.",
                std::to_string(free_pages.value()));
  append_single(page, "mini_engine_prompt_tokens_total", "counter", "Prompt tokens of admitted requests.",
                std::to_string(prompt_tokens.value()));
  append_single(page, "mini_engine_cached_tokens_total", "counter", "Prompt tokens that needed no computation.",
                std::to_string(cached_tokens.value()));
  append_header(page, "mini_engine_placed_tokens_total", "counter",
                "Prompt tokens placed from the store, by what is known of their K and V.");
  append_sample(page, "mini_engine_placed_tokens_total", "kind=\"exact\"", std::to_string(exact_tokens.value()));
  append_sample(page, "mini_engine_placed_tokens_total", "kind=\"approximate\"",
                std::to_string(approximate_tokens.value()));
  append_sample(page, "mini_engine_placed_tokens_total", "kind=\"repaired\"",
                std::to_string(repaired_tokens.value()));
  append_single(page, "mini_engine_moved_bytes_total", "counter", "K and V moved out of the store into pages.",
                std::to_string(moved_bytes.value()));
  append_single(page, "mini_engine_encoded_document_tokens_total", "counter",
                "Tokens of documents that were encoded because the store lacked them.",
                std::to_string(encoded_document_tokens.value()));
  append_single(page, "mini_engine_generated_tokens_total", "counter", "Tokens generated.",
                std::to_string(generated_tokens.value()));
  first_token_seconds.append_to(page, "mini_engine_time_to_first_token_seconds",
                                "From acceptance of a request to its first token.");
  inter_token_seconds.append_to(page, "mini_engine_inter_token_seconds", "Between consecutive tokens of one request.");
  return page;
}

}  // namespace mini_engine::serve
