// Tensors as a container lists them: by name, with a shape of any rank and their bytes in a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model_file.hpp"

namespace mini_engine {

struct StoredTensor {
  std::string name;
  Encoding encoding = Encoding::kF32;
  std::vector<std::int64_t> shape;   ///< outermost axis first; all positive, or empty for a scalar
  std::span<const std::byte> bytes;  ///< exactly what shape and encoding call for
  std::string file;                  ///< for messages
  std::uint64_t offset = 0;          ///< of the bytes in that file
};

/// The tensor as a matrix; a vector is one row. Throws Error unless it has exactly that shape, where leading and, for
/// a vector, missing axes of length one do not count.
[[nodiscard]] TensorView view_as(const StoredTensor& tensor, std::int64_t rows, std::int64_t columns);

/// Tensors by name. Immutable.
class TensorTable {
 public:
  /// Throws Error when two tensors share a name, in one file or in two.
  explicit TensorTable(std::vector<StoredTensor> tensors);

  /// Null when there is none.
  [[nodiscard]] const StoredTensor* find(std::string_view name) const;
  /// All of them, ordered by name.
  [[nodiscard]] const std::map<std::string, StoredTensor, std::less<>>& by_name() const { return by_name_; }

 private:
  std::map<std::string, StoredTensor, std::less<>> by_name_;
};

}  // namespace mini_engine
