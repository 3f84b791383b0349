// Orders of passages that differ.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "rag_demo/shuffle.hpp"

namespace lab {

/// The same indices in another order, drawn with `random`; in the same where there is only one.
[[nodiscard]] inline std::vector<std::size_t> another_order(const std::vector<std::size_t>& order,
                                                            std::mt19937_64& random) {
  std::vector<std::size_t> other = order;
  do {
    rag_demo::shuffle(other, random);
  } while (other == order && order.size() > 1);
  return other;
}

}  // namespace lab
