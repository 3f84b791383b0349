// Appends numbers and text to a byte vector as little-endian file formats want them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace test_support {

class ByteWriter {
 public:
  template <class T>
  requires std::is_arithmetic_v<T>
  void add(T value) { add_bytes(std::as_bytes(std::span(&value, 1))); }
  void add_bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void add_text(std::string_view text) { add_bytes(std::as_bytes(std::span(text))); }
  /// Adds zeros up to a multiple of `alignment`.
  void pad(std::size_t alignment) { bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment); }

  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace test_support
