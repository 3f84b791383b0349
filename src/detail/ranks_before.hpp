// The order that every selection by score follows, as selection.hpp lays it down.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace pikv::detail {

/// A total order of rows: best first, of equals the lower row.
class RanksBefore {
 public:
  explicit RanksBefore(std::span<const float> scores) noexcept : scores_(scores.data()) {}
  bool operator()(std::int32_t a, std::int32_t b) const noexcept {
    const float x = scores_[a];
    const float y = scores_[b];
    if (x > y) return true;
    if (x < y) return false;
    if (std::isnan(x) != std::isnan(y)) return std::isnan(y);
    return a < b;
  }

 private:
  const float* scores_;
};

}  // namespace pikv::detail
