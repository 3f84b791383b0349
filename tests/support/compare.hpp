// Collects the comparison of many elements into one verdict that says where the worst one is.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

namespace test_support {

class Comparison {
 public:
  /// `case_name` reproduces the case; it heads every message.
  explicit Comparison(std::string case_name) : case_name_(std::move(case_name)) {}

  /// Numbers may differ by `tolerance`; a NaN or infinity must meet the same.
  template <class Place>
  void expect_near(double got, double expected, double tolerance, const Place& place) {
    ++num_compared_;
    if (std::isnan(expected) ? std::isnan(got) : got == expected) return;
    const double error = std::abs(got - expected);
    const double excess = std::isfinite(error) ? error / tolerance : std::numeric_limits<double>::infinity();
    if (excess <= 1) return;
    ++num_wrong_;
    if (excess <= worst_excess_) return;
    worst_excess_ = excess;
    worst_ = place() + ": got " + std::to_string(got) + ", expected " + std::to_string(expected) + " within " +
             std::to_string(tolerance);
  }

  template <class Place>
  void expect_same_bits(std::uint64_t got, std::uint64_t expected, const Place& place) {
    ++num_compared_;
    if (got == expected) return;
    if (num_wrong_++ != 0) return;
    worst_ = place() + ": got bits " + std::to_string(got) + ", expected " + std::to_string(expected);
  }

  [[nodiscard]] bool ok() const { return num_wrong_ == 0; }
  [[nodiscard]] std::int64_t num_compared() const { return num_compared_; }
  [[nodiscard]] std::string report() const {
    return case_name_ + ": " + std::to_string(num_wrong_) + " of " + std::to_string(num_compared_) + " wrong; " +
           worst_;
  }

 private:
  std::string case_name_;
  std::string worst_;
  double worst_excess_ = 0;
  std::int64_t num_compared_ = 0;
  std::int64_t num_wrong_ = 0;
};

}  // namespace test_support
