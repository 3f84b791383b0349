#include "mini_engine/gguf_reader.hpp"

#include <string>

#include "mini_engine/error.hpp"

namespace mini_engine {

std::span<const std::byte> GgufReader::read_bytes(std::uint64_t count_bytes, std::string_view field) {
  if (count_bytes > remaining()) {
    fail(field, position_,
         "needs " + std::to_string(count_bytes) + " bytes, but the file ends after " + std::to_string(remaining()));
  }
  const auto bytes = bytes_.subspan(position_, count_bytes);
  position_ += count_bytes;
  return bytes;
}

std::string_view GgufReader::read_string(std::uint64_t max_bytes, std::string_view field) {
  const std::uint64_t start = position_;
  const auto length_bytes = read<std::uint64_t>(field);
  if (length_bytes > max_bytes) {
    fail(field, start,
         "string of " + std::to_string(length_bytes) + " bytes, at most " + std::to_string(max_bytes) + " are allowed");
  }
  const auto bytes = read_bytes(length_bytes, field);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::uint64_t GgufReader::read_count(std::uint64_t min_bytes, std::string_view field) {
  const std::uint64_t start = position_;
  const auto count = read<std::uint64_t>(field);
  if (count > remaining() / min_bytes) {
    fail(field, start,
         "count of " + std::to_string(count) + " cannot fit the " + std::to_string(remaining()) + " bytes that follow");
  }
  return count;
}

void GgufReader::fail(std::string_view field, std::uint64_t offset, std::string_view what) const {
  throw file_error(file_, field, offset, what);
}

}  // namespace mini_engine
