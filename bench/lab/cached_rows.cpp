#include "lab/cached_rows.hpp"

#include <string>

#include "lab/memory_copies.hpp"
#include "mini_engine/error.hpp"

namespace lab {
namespace {

using mini_engine::PagedCache;
using mini_engine::Sequence;
using mini_engine::Slot;

// `part_offset`: elements from a page's keys to the part wanted.
std::vector<float> read_part(const Sequence& sequence, int layer, std::span<const std::int32_t> rows,
                             std::int64_t part_offset) {
  const PagedCache& cache = sequence.cache();
  const ElementKind kind{cache.memory(), cache.precision()};
  const PagedCache::Strides& strides = cache.strides();
  const std::int64_t num_layers = static_cast<std::int64_t>(cache.size_bytes()) / kind.size_bytes() / strides.layer;
  if (layer < 0 || layer >= num_layers) {
    throw mini_engine::Error("reading a cache of " + std::to_string(num_layers) + " layers: there is no layer " +
                             std::to_string(layer));
  }
  for (const std::int32_t row : rows) {
    if (row >= 0 && row < sequence.size()) continue;
    throw mini_engine::Error("reading a sequence of " + std::to_string(sequence.size()) + " rows: there is no row " +
                             std::to_string(row));
  }

  std::vector<float> elements(rows.size() * static_cast<std::size_t>(strides.token));
  const auto slot_of = [&](std::size_t i) { return sequence.slots()[static_cast<std::size_t>(rows[i])]; };
  for (std::size_t begin = 0; begin < rows.size();) {
    const Slot slot = slot_of(begin);
    std::size_t end = begin + 1;
    while (end < rows.size() && slot_of(end) == slot_of(end - 1) + 1 && slot_of(end) % cache.page_size() != 0) ++end;
    const std::int64_t first = layer * strides.layer + slot / cache.page_size() * strides.page +
                               slot % cache.page_size() * strides.token + part_offset;
    read_elements(kind, cache.data() + first * kind.size_bytes(),
                  static_cast<std::int64_t>(end - begin) * strides.token,
                  elements.data() + static_cast<std::int64_t>(begin) * strides.token);
    begin = end;
  }
  return elements;
}

}  // namespace

std::vector<float> read_keys(const Sequence& sequence, int layer, std::span<const std::int32_t> rows) {
  return read_part(sequence, layer, rows, 0);
}

std::vector<float> read_values(const Sequence& sequence, int layer, std::span<const std::int32_t> rows) {
  return read_part(sequence, layer, rows, sequence.cache().strides().value_offset);
}

}  // namespace lab
