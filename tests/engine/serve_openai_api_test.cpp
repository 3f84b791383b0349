#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mini_engine/serve/openai_api.hpp"

namespace {

using namespace mini_engine::serve;
using nlohmann::json;

json minimal() { return {{"model", "m"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}}; }

ApiError error_of(const std::string& body) {
  try {
    (void)parse_chat_completion(body);
  } catch (const ApiError& error) {
    return error;
  }
  FAIL("accepted: " << body);
  return ApiError(0, "", "", "");
}

TEST_CASE("a minimal request has OpenAI's defaults") {
  const ChatCompletionRequest request = parse_chat_completion(minimal().dump());
  CHECK(request.model == "m");
  REQUIRE(request.messages.size() == 1);
  CHECK(request.messages[0].role == "user");
  CHECK(request.messages[0].content == "hi");
  CHECK_FALSE(request.max_tokens.has_value());
  CHECK(request.temperature == 1.0F);
  CHECK(request.top_p == 1.0F);
  CHECK_FALSE(request.seed.has_value());
  CHECK_FALSE(request.is_stream);
  CHECK(request.stop.empty());
  CHECK(request.documents.empty());
}

TEST_CASE("every field is read, null counts as absent, and neutral values pass") {
  json body = minimal();
  body["messages"].push_back({{"role", "assistant"}, {"content", ""}});
  body["messages"].push_back(
      {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "a"}}, {{"type", "text"}, {"text", "b"}}}}});
  body.update({{"max_tokens", 7},
               {"max_completion_tokens", 7},
               {"temperature", 0},
               {"top_p", 0.5},
               {"seed", -1},
               {"stream", true},
               {"stop", {"x", "yz"}},
               {"documents", {"one", "two"}},
               {"n", 1},
               {"presence_penalty", 0.0},
               {"user", "u"},
               {"logprobs", nullptr},
               {"tools", json::array()},
               {"response_format", {{"type", "text"}}}});
  body["stream_options"] = {{"include_usage", true}};
  body["functions"] = nullptr;
  const ChatCompletionRequest request = parse_chat_completion(body.dump());
  REQUIRE(request.messages.size() == 3);
  CHECK(request.messages[2].content == "ab");
  CHECK(request.max_tokens == 7);
  CHECK(request.temperature == 0.0F);
  CHECK(request.top_p == 0.5F);
  CHECK(request.seed == ~std::uint64_t{0});
  CHECK(request.is_stream);
  CHECK(request.stream_includes_usage);
  CHECK(request.stop == std::vector<std::string>{"x", "yz"});
  CHECK(request.documents == std::vector<std::string>{"one", "two"});

  body["stop"] = "only";
  CHECK(parse_chat_completion(body.dump()).stop == std::vector<std::string>{"only"});
}

TEST_CASE("whatever is wrong is named with its field") {
  struct Case {
    json patch;
    std::string field, message;
  };
  const json text_part = {{"type", "text"}, {"text", "a"}};
  const auto messages = [](json message) { return json{{"messages", json::array({std::move(message)})}}; };
  const std::vector<Case> cases = {
      {{{"model", nullptr}}, "model", "model: is missing"},
      {{{"model", 3}}, "model", "model: must be a string, is of type number"},
      {{{"messages", nullptr}}, "messages", "messages: is missing"},
      {{{"messages", json::array()}}, "messages", "messages: must hold at least one message"},
      {{{"messages", "hi"}}, "messages", "messages: must be an array, is of type string"},
      {messages("hi"), "messages[0]", "messages[0]: must be an object, is of type string"},
      {messages({{"content", "x"}}), "messages[0].role", "messages[0].role: must be a string, is of type null"},
      {messages({{"role", "tool"}, {"content", "x"}}), "messages[0].role",
       "messages[0].role: must be system, user or assistant, is 'tool'"},
      {messages({{"role", "user"}}), "messages[0].content",
       "messages[0].content: must be a string or an array of text parts, is of type null"},
      {messages({{"role", "user"}, {"content", "x"}, {"name", "n"}}), "messages[0].name",
       "messages[0].name: this server does not support the field"},
      {messages({{"role", "user"}, {"content", {text_part, {{"type", "image_url"}}}}}), "messages[0].content[1].type",
       "messages[0].content[1].type: this server takes parts of type 'text' alone, not 'image_url'"},
      {messages({{"role", "user"}, {"content", {{{"type", "text"}}}}}), "messages[0].content[0].text",
       "messages[0].content[0].text: must be a string, is of type null"},
      {{{"max_tokens", 0}}, "max_tokens", "max_tokens: must be from 1 to 2147483647, is 0"},
      {{{"max_tokens", -4}}, "max_tokens", "max_tokens: must be from 1 to 2147483647, is -4"},
      {{{"max_tokens", 1LL << 40}}, "max_tokens", "max_tokens: must be from 1 to 2147483647, is 1099511627776"},
      {{{"max_tokens", 1.5}}, "max_tokens", "max_tokens: must be a whole number, is 1.5"},
      {{{"max_tokens", 4}, {"max_completion_tokens", 5}},
       "max_completion_tokens",
       "max_completion_tokens: differs from max_tokens"},
      {{{"temperature", 2.5}}, "temperature", "temperature: must be from 0 to 2, is 2.5"},
      {{{"temperature", "1"}}, "temperature", "temperature: must be a number, is of type string"},
      {{{"top_p", 0}}, "top_p", "top_p: must be above 0 and at most 1, is 0"},
      {{{"top_p", 1e-60}}, "top_p", "top_p: must be above 0 and at most 1, is 1e-60"},
      {{{"seed", 0.5}}, "seed", "seed: must be a whole number of 64 bits, is 0.5"},
      {{{"stream", 1}}, "stream", "stream: must be true or false, is of type number"},
      {{{"stream_options", json::object()}}, "stream_options", "stream_options: is allowed only where stream is true"},
      {{{"stop", ""}}, "stop", "stop: must not be empty"},
      {{{"stop", {"a", 1}}}, "stop[1]", "stop[1]: must be a string, is of type number"},
      {{{"stop", {"a", "b", "c", "d", "e"}}}, "stop", "stop: at most four are allowed, there are 5"},
      {{{"n", 2}}, "n", "n: this server supports 1 alone"},
      {{{"frequency_penalty", 0.5}}, "frequency_penalty", "frequency_penalty: this server supports 0 alone"},
      {{{"documents", "d"}}, "documents", "documents: must be an array, is of type string"},
      {{{"documents", {"d", ""}}}, "documents[1]", "documents[1]: must not be empty"},
      {{{"documents", {"d"}}, {"messages", {{{"role", "system"}, {"content", "s"}}}}},
       "documents",
       "documents: there is no user message for the documents to stand before"},
      {{{"best_of", 3}}, "best_of", "best_of: this server does not support the field"},
  };
  for (const Case& one : cases) {
    json body = minimal();
    body.update(one.patch);
    CAPTURE(body.dump());
    const ApiError error = error_of(body.dump());
    CHECK(error.status == 400);
    CHECK(error.field == one.field);
    CHECK(std::string(error.what()) == one.message);
  }
}

TEST_CASE("bodies that are no JSON object, or ambiguous") {
  for (const char* body :
       {"", "{", "[1]", "3", "{\"model\":\"a\xFF\"}", "{\"a\":1,\"a\":2}", "{} {}", "{\"a\":\"\\ud800\"}"}) {
    CAPTURE(body);
    CHECK(error_of(body).error_code == "invalid_json");
  }
  CHECK(error_of(std::string(100000, '[')).error_code == "invalid_json");
}

TEST_CASE("answers, events and errors as clients read them") {
  const AnswerHead head{.id = "id-1", .model = "m", .created = 12};
  const ApiUsage usage{.prompt_tokens = 5, .cached_tokens = 2, .completion_tokens = 3};
  const json answer = json::parse(format_completion(head, "a\"b\xFF", FinishReason::kLength, usage));
  CHECK(answer.at("object") == "chat.completion");
  CHECK(answer.at("choices")[0].at("message") == json{{"role", "assistant"}, {"content", "a\"b\xEF\xBF\xBD"}});
  CHECK(answer.at("choices")[0].at("finish_reason") == "length");
  CHECK(answer.at("usage").at("total_tokens") == 8);
  CHECK(answer.at("usage").at("prompt_tokens_details").at("cached_tokens") == 2);

  const auto event = [](const std::string& text) {
    REQUIRE(text.starts_with("data: "));
    REQUIRE(text.ends_with("\n\n"));
    CHECK(text.find('\n') == text.size() - 2);
    return json::parse(text.substr(6));
  };
  CHECK(event(format_stream_begin(head)).at("choices")[0].at("delta").at("role") == "assistant");
  const json piece = event(format_stream_text(head, "x\ny"));
  CHECK(piece.at("object") == "chat.completion.chunk");
  CHECK(piece.at("choices")[0].at("delta") == json{{"content", "x\ny"}});
  CHECK(piece.at("choices")[0].at("finish_reason").is_null());
  CHECK(event(format_stream_end(head, FinishReason::kStop)).at("choices")[0].at("finish_reason") == "stop");
  const json with_usage = event(format_stream_usage(head, usage));
  CHECK(with_usage.at("choices").empty());
  CHECK(with_usage.at("usage").at("completion_tokens") == 3);

  const json error = json::parse(format_error({400, "code", "field", "what"}));
  const json expected = {{"message", "what"}, {"type", "invalid_request_error"}, {"param", "field"}, {"code", "code"}};
  CHECK(error.at("error") == expected);
  CHECK(event(format_stream_error({500, "c", "", "w"})).at("error").at("param").is_null());
  CHECK(json::parse(format_models("m", 12)).at("data")[0].at("id") == "m");
}

}  // namespace
