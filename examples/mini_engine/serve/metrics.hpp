// Numbers that a running server shows, in Prometheus' text format (version 0.0.4).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/serve/request.hpp"

namespace mini_engine::serve {

/// Only ever grows. Thread-safe.
class Counter {
 public:
  void add(std::uint64_t count = 1) { value_.fetch_add(count, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// A level that goes up and down. Thread-safe.
class Gauge {
 public:
  void set(std::int64_t value) { value_.store(value, std::memory_order_relaxed); }
  [[nodiscard]] std::int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

/// How often values fell under each of a few bounds. Thread-safe.
class Histogram {
 public:
  /// bounds: inclusive upper bounds, strictly ascending and finite; throws Error otherwise.
  explicit Histogram(std::vector<double> bounds);
  void observe(double value);
  /// Appends the metric's lines under this name, header included.
  void append_to(std::string& page, std::string_view name, std::string_view help) const;

 private:
  std::vector<double> bounds_;
  mutable std::mutex mutex_;
  std::vector<std::uint64_t> counts_;  // [bounds + 1], not cumulative; guarded by mutex_
  double sum_ = 0.0;                   // guarded by mutex_
};

/// "# HELP" and "# TYPE" of a metric. help: one line.
void append_header(std::string& page, std::string_view name, std::string_view type, std::string_view help);
/// One sample. labels: as between the braces, or empty.
void append_sample(std::string& page, std::string_view name, std::string_view labels, std::string_view value);

/// All numbers of one server. Every member is thread-safe.
struct ServeMetrics {
  std::array<Counter, kNumEndReasons> ended;        ///< accepted requests, by EndReason
  std::array<Counter, kNumRefusalReasons> refused;  ///< by Refusal::Reason
  Counter prompt_tokens, cached_tokens, generated_tokens;
  /// Of prompts that were placed from a store: tokens by what is known of their K and V, and what was moved for them.
  Counter exact_tokens, approximate_tokens, repaired_tokens, moved_bytes;
  Counter encoded_document_tokens;  ///< of documents that the store lacked
  Gauge queued, running, free_pages;
  Histogram first_token_seconds{{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0}};
  Histogram inter_token_seconds{{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5}};

  [[nodiscard]] std::string to_prometheus() const;
};

}  // namespace mini_engine::serve
