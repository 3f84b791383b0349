#include "lab/kv_errors.hpp"

#include <algorithm>
#include <cmath>

namespace lab {

KvErrors::KvErrors(const pikv::KvGeometry& geometry)
    : geometry_(geometry),
      keys_(static_cast<std::size_t>(geometry.num_layers * geometry.num_kv_heads)),
      values_(keys_.size()) {}

void KvErrors::add(const KvRows& exact, const KvRows& decoded) {
  std::size_t i = 0;
  for (std::int32_t layer = 0; layer < geometry_.num_layers; ++layer) {
    for (std::vector<RelativeError>* const part : {&keys_, &values_}) {
      for (std::int64_t token = 0; token < exact.num_tokens; ++token) {
        for (std::int32_t head = 0; head < geometry_.num_kv_heads; ++head) {
          RelativeError& error = (*part)[static_cast<std::size_t>(layer * geometry_.num_kv_heads + head)];
          for (std::int32_t d = 0; d < geometry_.head_dim; ++d, ++i) {
            error.add(exact.elements[i], decoded.elements[i]);
          }
        }
      }
    }
  }
}

std::vector<double> KvErrors::relative(const std::vector<RelativeError>& errors) {
  std::vector<double> result;
  result.reserve(errors.size());
  for (const RelativeError& error : errors) result.push_back(error.value());
  return result;
}

double key_channel_unevenness(const pikv::KvGeometry& geometry, const KvRows& rows) {
  const std::int64_t row = std::int64_t{geometry.num_kv_heads} * geometry.head_dim;
  std::vector<float> largest(static_cast<std::size_t>(row));
  double sum = 0;
  for (std::int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    std::fill(largest.begin(), largest.end(), 0.0F);
    const float* const keys = rows.elements.data() + std::int64_t{layer} * 2 * rows.num_tokens * row;
    for (std::int64_t i = 0; i < rows.num_tokens * row; ++i) {
      float& channel = largest[static_cast<std::size_t>(i % row)];
      channel = std::max(channel, std::fabs(keys[i]));
    }
    for (auto head = largest.begin(); head != largest.end(); head += geometry.head_dim) {
      std::sort(head, head + geometry.head_dim);
      sum += static_cast<double>(head[geometry.head_dim - 1]) / static_cast<double>(head[geometry.head_dim / 2]);
    }
  }
  return sum / (geometry.num_layers * geometry.num_kv_heads);
}

}  // namespace lab
