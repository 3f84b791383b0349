#include <cmath>
#include <cstring>
#include <limits>

#include "mini_engine/error.hpp"
#include "mini_engine/gguf_model.hpp"

namespace mini_engine {
namespace {

template <class T>
T load(const GgufValue& value) {
  T loaded;
  std::memcpy(&loaded, value.bytes.data(), sizeof(T));
  return loaded;
}

/// Nothing when the value is no integer, or negative.
std::optional<std::uint64_t> as_unsigned(const GgufValue& value) {
  const auto unless_negative = [](std::int64_t number) -> std::optional<std::uint64_t> {
    if (number < 0) return std::nullopt;
    return static_cast<std::uint64_t>(number);
  };
  switch (value.type) {
    case GgufType::kUint8:
      return load<std::uint8_t>(value);
    case GgufType::kUint16:
      return load<std::uint16_t>(value);
    case GgufType::kUint32:
      return load<std::uint32_t>(value);
    case GgufType::kUint64:
      return load<std::uint64_t>(value);
    case GgufType::kInt8:
      return unless_negative(load<std::int8_t>(value));
    case GgufType::kInt16:
      return unless_negative(load<std::int16_t>(value));
    case GgufType::kInt32:
      return unless_negative(load<std::int32_t>(value));
    case GgufType::kInt64:
      return unless_negative(load<std::int64_t>(value));
    default:
      return std::nullopt;
  }
}

}  // namespace

const GgufValue* GgufFields::find(std::string_view key) const {
  const auto found = contents_.values.find(key);
  return found == contents_.values.end() ? nullptr : &found->second;
}

const GgufValue& GgufFields::require(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) fail(key, contents_.values_end, "is missing from the metadata that end here");
  return *value;
}

std::uint64_t GgufFields::unsigned_integer(std::string_view key) const {
  const auto number = as_unsigned(require(key));
  if (!number) fail(key, "is not a whole number from 0 on");
  return *number;
}

int GgufFields::positive_int(std::string_view key) const {
  const std::uint64_t number = unsigned_integer(key);
  if (number == 0 || number > std::numeric_limits<int>::max()) fail(key, "is not within 1 and 2147483647");
  return static_cast<int>(number);
}

double GgufFields::positive_number(std::string_view key) const {
  const GgufValue& value = require(key);
  double number = 0;
  if (value.type == GgufType::kFloat32) {
    number = double{load<float>(value)};
  } else if (value.type == GgufType::kFloat64) {
    number = load<double>(value);
  } else {
    fail(key, "is not a floating-point number");
  }
  if (!std::isfinite(number) || number <= 0) fail(key, "is not a positive finite number");
  return number;
}

bool GgufFields::boolean(std::string_view key, bool fallback) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return fallback;
  if (value->type != GgufType::kBool) fail(key, "is not a boolean");
  return load<std::uint8_t>(*value) != 0;
}

std::string_view GgufFields::string(std::string_view key) const {
  const GgufValue& value = require(key);
  if (value.type != GgufType::kString) fail(key, "is not a string");
  return value.strings.front();
}

const std::vector<std::string_view>& GgufFields::strings(std::string_view key) const {
  const GgufValue& value = require(key);
  if (value.type != GgufType::kArray || value.element_type != GgufType::kString)
    fail(key, "is not an array of strings");
  return value.strings;
}

std::optional<TokenId> GgufFields::token_id(std::string_view key, std::size_t vocab_size) const {
  if (find(key) == nullptr) return std::nullopt;
  const std::uint64_t id = unsigned_integer(key);
  if (id >= vocab_size) {
    fail(key, "id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocab_size) + " tokens");
  }
  return static_cast<TokenId>(id);
}

std::uint64_t GgufFields::offset_of(std::string_view text) const {
  return static_cast<std::uint64_t>(text.data() - reinterpret_cast<const char*>(contents_.bytes.data()));
}

void GgufFields::fail(std::string_view key, std::string_view what) const {
  const GgufValue* value = find(key);
  fail(key, value == nullptr ? contents_.values_end : value->offset, what);
}

void GgufFields::fail(std::string_view field, std::uint64_t offset, std::string_view what) const {
  throw file_error(contents_.file, field, offset, what);
}

}  // namespace mini_engine
