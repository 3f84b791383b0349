#include "lab/cached_rows.hpp"

#include <algorithm>
#include <string>

#include "lab/memory_copies.hpp"
#include "mini_engine/error.hpp"

namespace lab {
namespace {

using mini_engine::CacheMemory;
using mini_engine::PagedCache;
using mini_engine::Precision;
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
  if (rows.empty()) return elements;
  const auto slot_of = [&](std::int32_t row) { return sequence.slots()[static_cast<std::size_t>(row)]; };
  const std::byte* pages = cache.data() + layer * strides.layer * kind.size_bytes();
  std::vector<float> copied;
  std::int64_t first_page = 0;
  ElementKind read_as = kind;
  if (kind.memory == CacheMemory::kDevice) {
    // One copy of all pages from the first to the last one, instead of one a row.
    const auto [least, most] = std::minmax_element(
        rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) { return slot_of(a) < slot_of(b); });
    first_page = slot_of(*least) / cache.page_size();
    const std::int64_t num_pages = slot_of(*most) / cache.page_size() - first_page + 1;
    copied.resize(static_cast<std::size_t>(num_pages * strides.page));
    read_elements(kind, pages + first_page * strides.page * kind.size_bytes(), num_pages * strides.page, copied.data());
    pages = reinterpret_cast<const std::byte*>(copied.data());
    read_as = {.memory = CacheMemory::kHost, .precision = Precision::kFloat32};
  }
  float* out = elements.data();
  for (const std::int32_t row : rows) {
    const Slot slot = slot_of(row);
    const std::int64_t first =
        (slot / cache.page_size() - first_page) * strides.page + slot % cache.page_size() * strides.token + part_offset;
    read_elements(read_as, pages + first * read_as.size_bytes(), strides.token, out);
    out += strides.token;
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
