// JSON text with the byte offset of every member, so that a complaint about a value can say where it stands.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace mini_engine {

/// Walks over text and shows a JSON parser's caller how far the parser has read.
class TrackedPosition {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackedPosition() = default;
  /// `reached` is set to the last place stepped to; it outlives the iterator.
  TrackedPosition(const char* at, const char** reached) : at_(at), reached_(reached) {}

  reference operator*() const { return *at_; }
  TrackedPosition& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  TrackedPosition operator++(int) {
    const TrackedPosition before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedPosition& other) const { return at_ == other.at_; }
  bool operator!=(const TrackedPosition& other) const { return at_ != other.at_; }

 private:
  const char* at_ = nullptr;
  const char** reached_ = nullptr;
};

/// A parsed JSON file. Immutable.
class JsonDocument {
 public:
  /// Throws Error with file and offset for malformed JSON, duplicate keys and nesting deeper than 64.
  JsonDocument(std::string_view text, std::string source);

  [[nodiscard]] const nlohmann::json& root() const { return root_; }
  [[nodiscard]] const std::string& source() const { return source_; }
  /// Where the member of that path ends its name; 0 when there is none. Members inside arrays count by the last one.
  [[nodiscard]] std::uint64_t offset_of(std::initializer_list<std::string_view> path) const;

 private:
  static constexpr std::uint32_t kNoObject = 0xFFFFFFFF;
  struct Member {
    std::uint64_t offset = 0;
    std::uint32_t object = kNoObject;  ///< the object that is, or lies in, the value
  };

  nlohmann::json root_;
  std::string source_;
  std::map<std::pair<std::uint32_t, std::string>, Member> members_;  ///< by number of the object and name
};

}  // namespace mini_engine
