// The relative Euclidean error of a run of numbers.
#pragma once

#include <cmath>

namespace lab {

/// |other - exact| / |exact| of all pairs added; 0 when the exact ones are all 0.
class RelativeError {
 public:
  void add(float exact, float other) {
    const double difference = double{other} - exact;
    error_ += difference * difference;
    exact_ += double{exact} * exact;
  }
  [[nodiscard]] double value() const { return exact_ > 0 ? std::sqrt(error_ / exact_) : 0.0; }

 private:
  double error_ = 0, exact_ = 0;
};

}  // namespace lab
