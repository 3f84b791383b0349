// Typed access to the members of a JSON document, with the path of each in every complaint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json_document.hpp"

namespace mini_engine {

/// A value inside a document and the way to it. The document must outlive it.
class JsonField {
 public:
  /// The root of the document; throws Error when that is no object.
  explicit JsonField(const JsonDocument& document);
  /// The root whatever it is.
  [[nodiscard]] static JsonField root_of(const JsonDocument& document) { return {document, document.root(), ""}; }

  /// The named member; throws Error when this is no object or has no such member. Null counts as absent, as it does to
  /// the libraries that write these files.
  [[nodiscard]] JsonField operator[](std::string_view name) const;
  [[nodiscard]] std::optional<JsonField> find(std::string_view name) const;
  /// The elements of an array; throws Error for anything else.
  [[nodiscard]] std::vector<JsonField> elements() const;

  [[nodiscard]] const std::string& string() const;
  [[nodiscard]] bool boolean() const;
  /// A whole number in [0, limit).
  [[nodiscard]] std::uint32_t index_below(std::size_t limit) const;
  /// The named member, which must be a boolean, or `fallback` where it is absent.
  [[nodiscard]] bool boolean(std::string_view name, bool fallback) const;

  /// The bare value, for walks over very many members; throws Error when it is of another type.
  [[nodiscard]] const nlohmann::json& object() const;
  [[nodiscard]] const nlohmann::json& array() const;
  [[nodiscard]] bool is_string() const { return value_->is_string(); }
  [[nodiscard]] bool is_array() const { return value_->is_array(); }

  /// Throws Error about this field, or about what lies at `below` inside it ("[3]", ".name").
  [[noreturn]] void fail(std::string_view what) const { fail("", what); }
  [[noreturn]] void fail(std::string_view below, std::string_view what) const;

 private:
  JsonField(const JsonDocument& document, const nlohmann::json& value, std::string path)
      : document_(&document), value_(&value), path_(std::move(path)) {}

  const JsonDocument* document_;
  const nlohmann::json* value_;
  std::string path_;  // as in "model.merges[3]"; empty at the root
};

}  // namespace mini_engine
