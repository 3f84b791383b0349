#include "mini_engine/json_fields.hpp"

#include "mini_engine/error.hpp"

namespace mini_engine {

JsonField::JsonField(const JsonDocument& document) : document_(&document), value_(&document.root()) { (void)object(); }

std::optional<JsonField> JsonField::find(std::string_view name) const {
  const auto found = object().find(std::string(name));
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return JsonField(*document_, *found, path_.empty() ? std::string(name) : path_ + "." + std::string(name));
}

JsonField JsonField::operator[](std::string_view name) const {
  std::optional<JsonField> member = find(name);
  if (!member) fail((path_.empty() ? "" : ".") + std::string(name), "is missing");
  return *std::move(member);
}

std::vector<JsonField> JsonField::elements() const {
  std::vector<JsonField> fields;
  for (const nlohmann::json& element : array()) {
    fields.push_back(JsonField(*document_, element, path_ + "[" + std::to_string(fields.size()) + "]"));
  }
  return fields;
}

const std::string& JsonField::string() const {
  if (!value_->is_string()) fail("is not a string");
  return value_->get_ref<const std::string&>();
}

bool JsonField::boolean() const {
  if (!value_->is_boolean()) fail("is neither true nor false");
  return value_->get<bool>();
}

bool JsonField::boolean(std::string_view name, bool fallback) const {
  const std::optional<JsonField> member = find(name);
  return member ? member->boolean() : fallback;
}

std::uint32_t JsonField::index_below(std::size_t limit) const {
  if (!value_->is_number_unsigned()) fail("is not a whole number from 0 up");
  const auto number = value_->get<std::uint64_t>();
  if (number >= limit) fail(std::to_string(number) + " is not below " + std::to_string(limit));
  return static_cast<std::uint32_t>(number);
}

const nlohmann::json& JsonField::object() const {
  if (!value_->is_object()) fail("is not an object");
  return *value_;
}

const nlohmann::json& JsonField::array() const {
  if (!value_->is_array()) fail("is not an array");
  return *value_;
}

void JsonField::fail(std::string_view below, std::string_view what) const {
  const std::string path = path_ + std::string(below);
  throw file_error(document_->source(), path.empty() ? "JSON" : path, what);
}

}  // namespace mini_engine
