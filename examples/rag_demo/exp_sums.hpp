// Sums of exponentials over a row of logits: what comparing distributions spends its time on. Several elements are
// computed at once, in double precision.
#pragma once

#include <span>

namespace rag_demo {

/// Of logits x, with e[i] = exp(x[i] - shift): relative error below 1e-15; 0 where x[i] - shift is below -708.
struct ExpSums {
  double sum = 0.0;       ///< of e[i]
  double weighted = 0.0;  ///< of e[i] * ((x[i] - shift) - (y[i] - y_shift)), terms with an e[i] of 0 left out
};

/// x: no element above shift, minus infinity allowed. y: empty (nothing is weighted), or as many elements; where one is
/// minus infinity, the weighted sum is infinite unless its e[i] is 0.
[[nodiscard]] ExpSums exp_sums(std::span<const float> x, double shift, std::span<const float> y = {},
                               double y_shift = 0.0);

}  // namespace rag_demo
