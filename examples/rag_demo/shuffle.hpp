// Orders from a seed, the same with every standard library.
#pragma once

#include <cstddef>
#include <random>
#include <utility>
#include <vector>

namespace rag_demo {

/// Fisher-Yates on the generator's raw output.
inline void shuffle(std::vector<std::size_t>& values, std::mt19937_64& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random() % i]);
}

}  // namespace rag_demo
