// A bounded cursor over the bytes of a GGUF file. Whatever would leave the file is an Error that says which field was
// being read and where.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace mini_engine {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place, as the little-endian format it is");

class GgufReader {
 public:
  /// Both outlive the reader; `file` is the name used in messages.
  GgufReader(std::span<const std::byte> bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - position_; }

  /// The next `count_bytes` bytes. Throws Error when fewer remain.
  std::span<const std::byte> read_bytes(std::uint64_t count_bytes, std::string_view field);

  template <class T>
  T read(std::string_view field) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, read_bytes(sizeof(T), field).data(), sizeof(T));
    return value;
  }

  /// A 64-bit length and that many characters, which stay in the file. Throws Error beyond `max_bytes`.
  std::string_view read_string(std::uint64_t max_bytes, std::string_view field);

  /// A 64-bit count of things that take at least `min_bytes` each. Throws Error when the rest of the file cannot hold
  /// them, so that whatever is allocated for them is bounded by the file.
  std::uint64_t read_count(std::uint64_t min_bytes, std::string_view field);

  [[noreturn]] void fail(std::string_view field, std::uint64_t offset, std::string_view what) const;

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::uint64_t position_ = 0;
};

}  // namespace mini_engine
