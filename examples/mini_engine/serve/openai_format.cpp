#include <nlohmann/json.hpp>

#include "mini_engine/serve/openai_api.hpp"

namespace mini_engine::serve {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

const char* name_of(FinishReason reason) { return reason == FinishReason::kStop ? "stop" : "length"; }

Json head_json(const AnswerHead& head, const char* object) {
  return {{"id", head.id}, {"object", object}, {"created", head.created}, {"model", head.model}};
}

Json usage_json(const ApiUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

Json chunk(const AnswerHead& head, Json delta, Json finish_reason) {
  Json json = head_json(head, "chat.completion.chunk");
  json["choices"] =
      Json::array({{{"index", 0}, {"delta", std::move(delta)}, {"finish_reason", std::move(finish_reason)}}});
  return json;
}

Json error_json(const ApiError& error) {
  const Json param = error.field.empty() ? Json(nullptr) : Json(error.field);
  return {{"error",
           {{"message", error.what()},
            {"type", error.status < 500 ? "invalid_request_error" : "server_error"},
            {"param", param},
            {"code", error.error_code}}}};
}

}  // namespace

std::string format_completion(const AnswerHead& head, std::string_view text, FinishReason reason,
                              const ApiUsage& usage) {
  Json json = head_json(head, "chat.completion");
  const Json message = {{"role", "assistant"}, {"content", text}};
  json["choices"] = Json::array({{{"index", 0}, {"message", message}, {"finish_reason", name_of(reason)}}});
  json["usage"] = usage_json(usage);
  return dump(json);
}

std::string format_stream_begin(const AnswerHead& head) {
  return event(chunk(head, {{"role", "assistant"}, {"content", ""}}, nullptr));
}

std::string format_stream_text(const AnswerHead& head, std::string_view text) {
  return event(chunk(head, {{"content", text}}, nullptr));
}

std::string format_stream_end(const AnswerHead& head, FinishReason reason) {
  return event(chunk(head, Json::object(), name_of(reason)));
}

std::string format_stream_usage(const AnswerHead& head, const ApiUsage& usage) {
  Json json = head_json(head, "chat.completion.chunk");
  json["choices"] = Json::array();
  json["usage"] = usage_json(usage);
  return event(json);
}

std::string format_stream_error(const ApiError& error) { return event(error_json(error)); }

std::string format_error(const ApiError& error) { return dump(error_json(error)); }

std::string format_models(std::string_view model, std::int64_t created) {
  const Json entry = {{"id", model}, {"object", "model"}, {"created", created}, {"owned_by", "mini_engine"}};
  return dump({{"object", "list"}, {"data", Json::array({entry})}});
}

}  // namespace mini_engine::serve
