#include "mini_engine/tensor_table.hpp"

#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

std::string describe(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t length : shape) text.append(text.size() > 1 ? ", " : "").append(std::to_string(length));
  return text + "]";
}

}  // namespace

TensorView view_as(const StoredTensor& tensor, std::int64_t rows, std::int64_t columns) {
  std::span<const std::int64_t> shape = tensor.shape;
  while (shape.size() > 1 && shape.front() == 1) shape = shape.subspan(1);
  const bool fits = shape.size() == 1 ? rows == 1 && shape[0] == columns
                                      : shape.size() == 2 && shape[0] == rows && shape[1] == columns;
  if (!fits) {
    const std::string wanted = rows == 1 ? describe({columns}) : describe({rows, columns});
    throw file_error(tensor.file, tensor.name, tensor.offset,
                     "shape " + describe(tensor.shape) + " where the configuration calls for " + wanted);
  }
  return {tensor.encoding, rows, columns, tensor.bytes};
}

TensorTable::TensorTable(std::vector<StoredTensor> tensors) {
  for (StoredTensor& tensor : tensors) {
    std::string name = tensor.name;
    const auto [place, is_new] = by_name_.try_emplace(std::move(name), std::move(tensor));
    if (!is_new) {
      // try_emplace leaves its argument alone when the key is there.
      throw file_error(
          tensor.file, tensor.name, tensor.offset,
          "duplicate tensor, also at byte " + std::to_string(place->second.offset) + " of " + place->second.file);
    }
  }
}

const StoredTensor* TensorTable::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &found->second;
}

}  // namespace mini_engine
