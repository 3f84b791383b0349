#include "lab/query_capture.hpp"

#include <algorithm>

#include "lab/memory_copies.hpp"

namespace lab {
namespace {

using mini_engine::CacheMemory;
using mini_engine::TurnedQueries;

void read_row(const TurnedQueries& queries, CacheMemory memory, std::size_t index, std::int64_t query_size, float* to) {
  const ElementKind kind{memory, queries.precision};
  const std::int64_t offset = static_cast<std::int64_t>(index) * queries.row_stride * kind.size_bytes();
  read_elements(kind, static_cast<const std::byte*>(queries.data) + offset, query_size, to);
}

}  // namespace

QueryRows read_queries(const TurnedQueries& queries, CacheMemory memory, std::int64_t query_size) {
  QueryRows result{.rows = {queries.rows.begin(), queries.rows.end()}, .elements = {}};
  result.elements.resize(result.rows.size() * static_cast<std::size_t>(query_size));
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    read_row(queries, memory, i, query_size, result.elements.data() + static_cast<std::int64_t>(i) * query_size);
  }
  return result;
}

QueryCapture::QueryCapture(const mini_engine::ModelConfig& config, CacheMemory memory,
                           std::span<const std::int32_t> rows)
    : query_size_(std::int64_t{config.num_heads} * config.head_dim),
      memory_(memory),
      rows_(rows.begin(), rows.end()),
      layers_(static_cast<std::size_t>(config.num_layers)) {
  std::sort(rows_.begin(), rows_.end());
}

void QueryCapture::on_queries(int layer, const TurnedQueries& queries) {
  QueryRows& kept = layers_[static_cast<std::size_t>(layer)];
  for (std::size_t i = 0; i < queries.rows.size(); ++i) {
    const std::int32_t row = queries.rows[i];
    if (!std::binary_search(rows_.begin(), rows_.end(), row)) continue;
    const auto place = std::lower_bound(kept.rows.begin(), kept.rows.end(), row);
    const std::int64_t first = (place - kept.rows.begin()) * query_size_;
    if (place == kept.rows.end() || *place != row) {
      kept.rows.insert(place, row);
      kept.elements.insert(kept.elements.begin() + first, static_cast<std::size_t>(query_size_), 0.0F);
    }
    read_row(queries, memory_, i, query_size_, kept.elements.data() + first);
  }
}

}  // namespace lab
