#include <algorithm>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "mini_engine/json_document.hpp"
#include "mini_engine/serve/openai_api.hpp"

namespace mini_engine::serve {
namespace {

using nlohmann::json;

[[noreturn]] void refuse(const std::string& field, const std::string& what, std::string_view code = "invalid_value") {
  throw ApiError(400, code, field, field + ": " + what);
}

std::string element(const std::string& field, std::size_t index) { return field + "[" + std::to_string(index) + "]"; }

const std::string& string_of(const json& value, const std::string& field) {
  if (!value.is_string()) refuse(field, std::string("must be a string, is of type ") + value.type_name());
  return value.get_ref<const std::string&>();
}

bool bool_of(const json& value, const std::string& field) {
  if (!value.is_boolean()) refuse(field, std::string("must be true or false, is of type ") + value.type_name());
  return value.get<bool>();
}

double number_of(const json& value, const std::string& field) {
  if (!value.is_number()) refuse(field, std::string("must be a number, is of type ") + value.type_name());
  return value.get<double>();
}

int count_of(const json& value, const std::string& field) {
  if (!value.is_number_integer()) refuse(field, "must be a whole number, is " + value.dump());
  const bool is_in_range = value.is_number_unsigned() && value.get<std::uint64_t>() >= 1 &&
                           value.get<std::uint64_t>() <= std::numeric_limits<int>::max();
  if (!is_in_range) refuse(field, "must be from 1 to 2147483647, is " + value.dump());
  return value.get<int>();
}

const json& array_of(const json& value, const std::string& field) {
  if (!value.is_array()) refuse(field, std::string("must be an array, is of type ") + value.type_name());
  return value;
}

void refuse_other_members(const json& object, const std::string& path, std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end() || value.is_null()) continue;
    refuse(path.empty() ? name : path + "." + name, "this server does not support the field", "unsupported_field");
  }
}

// A string, or an array of parts of type "text", which belong together without anything between them.
std::string content_of(const json& value, const std::string& field) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) {
    refuse(field, std::string("must be a string or an array of text parts, is of type ") + value.type_name());
  }
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string path = element(field, i);
    const json& part = value[i];
    if (!part.is_object()) refuse(path, std::string("must be an object, is of type ") + part.type_name());
    const std::string type = string_of(part.value("type", json()), path + ".type");
    if (type != "text") {
      refuse(path + ".type", "this server takes parts of type 'text' alone, not " + in_quotes(type),
             "unsupported_content");
    }
    refuse_other_members(part, path, {"type", "text"});
    text += string_of(part.value("text", json()), path + ".text");
  }
  return text;
}

std::vector<ApiMessage> messages_of(const json& value) {
  const std::string field = "messages";
  if (array_of(value, field).empty()) refuse(field, "must hold at least one message");
  std::vector<ApiMessage> messages;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string path = element(field, i);
    if (!value[i].is_object()) refuse(path, std::string("must be an object, is of type ") + value[i].type_name());
    const std::string role = string_of(value[i].value("role", json()), path + ".role");
    if (role != "system" && role != "user" && role != "assistant") {
      refuse(path + ".role", "must be system, user or assistant, is " + in_quotes(role));
    }
    refuse_other_members(value[i], path, {"role", "content"});
    messages.push_back({role, content_of(value[i].value("content", json()), path + ".content")});
  }
  return messages;
}

std::vector<std::string> stop_of(const json& value) {
  constexpr std::size_t kMaxStops = 4;
  const std::string field = "stop";
  std::vector<std::string> stops;
  if (value.is_string()) {
    stops.push_back(value.get<std::string>());
  } else if (value.is_array()) {
    for (std::size_t i = 0; i < value.size(); ++i) stops.push_back(string_of(value[i], element(field, i)));
  } else {
    refuse(field, std::string("must be a string or an array of strings, is of type ") + value.type_name());
  }
  if (stops.size() > kMaxStops) refuse(field, "at most four are allowed, there are " + std::to_string(stops.size()));
  for (const std::string& stop : stops) {
    if (stop.empty()) refuse(field, "must not be empty");
  }
  return stops;
}

std::vector<std::string> documents_of(const json& value, const std::vector<ApiMessage>& messages) {
  const std::string field = "documents";
  std::vector<std::string> documents;
  for (std::size_t i = 0; i < array_of(value, field).size(); ++i) {
    documents.push_back(string_of(value[i], element(field, i)));
    if (documents.back().empty()) refuse(element(field, i), "must not be empty");
  }
  const auto is_user = [](const ApiMessage& message) { return message.role == "user"; };
  if (!documents.empty() && std::none_of(messages.begin(), messages.end(), is_user)) {
    refuse(field, "there is no user message for the documents to stand before");
  }
  return documents;
}

bool includes_usage(const json& value, bool is_stream) {
  const std::string field = "stream_options";
  if (!value.is_object()) refuse(field, std::string("must be an object, is of type ") + value.type_name());
  if (!is_stream) refuse(field, "is allowed only where stream is true");
  refuse_other_members(value, field, {"include_usage"});
  const json include = value.value("include_usage", json());
  return !include.is_null() && bool_of(include, field + ".include_usage");
}

// Fields that are taken only where they ask for nothing.
void check_neutral(const json& body) {
  const std::pair<const char*, json> neutral[] = {{"n", 1},
                                                  {"presence_penalty", 0},
                                                  {"frequency_penalty", 0},
                                                  {"logprobs", false},
                                                  {"logit_bias", json::object()},
                                                  {"tools", json::array()},
                                                  {"tool_choice", "none"},
                                                  {"response_format", {{"type", "text"}}}};
  for (const auto& [name, wanted] : neutral) {
    const json value = body.value(name, json());
    if (!value.is_null() && value != wanted) {
      refuse(name, "this server supports " + wanted.dump() + " alone", "unsupported_value");
    }
  }
}

json parse_body(std::string_view body) {
  try {
    return JsonDocument(body, "body").root();
  } catch (const Error& error) {
    throw ApiError(400, "invalid_json", "", error.what());
  }
}

}  // namespace

ChatCompletionRequest parse_chat_completion(std::string_view body) {
  const json root = parse_body(body);
  if (!root.is_object()) throw ApiError(400, "invalid_json", "", "body: must be a JSON object");
  const auto find = [&root](const char* name) -> const json* {
    const auto at = root.find(name);
    return at == root.end() || at->is_null() ? nullptr : &*at;
  };
  const auto require = [&find](const char* name) -> const json& {
    const json* value = find(name);
    if (value == nullptr) refuse(name, "is missing", "missing_field");
    return *value;
  };

  ChatCompletionRequest request;
  request.model = string_of(require("model"), "model");
  request.messages = messages_of(require("messages"));
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    const json* value = find(name);
    if (value == nullptr) continue;
    const int count = count_of(*value, name);
    if (request.max_tokens && *request.max_tokens != count) refuse(name, "differs from max_tokens");
    request.max_tokens = count;
  }
  if (const json* value = find("temperature")) {
    const double temperature = number_of(*value, "temperature");
    if (!(temperature >= 0.0 && temperature <= 2.0)) refuse("temperature", "must be from 0 to 2, is " + value->dump());
    request.temperature = static_cast<float>(temperature);
  }
  if (const json* value = find("top_p")) {
    const auto top_p = static_cast<float>(number_of(*value, "top_p"));
    if (!(top_p > 0.0F && top_p <= 1.0F)) refuse("top_p", "must be above 0 and at most 1, is " + value->dump());
    request.top_p = top_p;
  }
  if (const json* value = find("seed")) {
    if (!value->is_number_integer()) refuse("seed", "must be a whole number of 64 bits, is " + value->dump());
    request.seed = value->get<std::uint64_t>();
  }
  if (const json* value = find("stream")) request.is_stream = bool_of(*value, "stream");
  if (const json* value = find("stream_options")) {
    request.stream_includes_usage = includes_usage(*value, request.is_stream);
  }
  if (const json* value = find("stop")) request.stop = stop_of(*value);
  if (const json* value = find("documents")) request.documents = documents_of(*value, request.messages);
  check_neutral(root);
  refuse_other_members(root, "",
                       {"model",
                        "messages",
                        "max_tokens",
                        "max_completion_tokens",
                        "temperature",
                        "top_p",
                        "seed",
                        "stream",
                        "stream_options",
                        "stop",
                        "documents",
                        "user",
                        "metadata",
                        "n",
                        "presence_penalty",
                        "frequency_penalty",
                        "logprobs",
                        "logit_bias",
                        "tools",
                        "tool_choice",
                        "response_format"});
  return request;
}

}  // namespace mini_engine::serve
