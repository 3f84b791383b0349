// The part of OpenAI's chat completions interface that this server speaks, as text; knows nothing of HTTP or models.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/sampler.hpp"

namespace mini_engine::serve {

/// What a client is told went wrong.
class ApiError : public Error {
 public:
  /// param: the field at fault, as in "messages[2].role"; empty when it is none. code: for programs.
  ApiError(int http_status, std::string_view code, std::string param, const std::string& message)
      : Error(message), status(http_status), error_code(code), field(std::move(param)) {}
  int status;
  std::string error_code;
  std::string field;
};

struct ApiMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

struct ChatCompletionRequest {
  std::string model;
  std::vector<ApiMessage> messages;  ///< at least one
  std::optional<int> max_tokens;
  float temperature = 1.0F;
  float top_p = 1.0F;
  std::optional<std::uint64_t> seed;
  bool is_stream = false;
  bool stream_includes_usage = false;
  std::vector<std::string> stop;       ///< at most four, none empty
  std::vector<std::string> documents;  ///< this server's own field: texts that the first user message stands behind
};

/// Reads a request's body. A null field counts as absent. Fields whose effect this server does not have are refused
/// unless they hold the value that asks for nothing ("n": 1, "presence_penalty": 0); "user" and "metadata" have no
/// effect by definition. Throws ApiError of status 400 that names the field.
[[nodiscard]] ChatCompletionRequest parse_chat_completion(std::string_view body);

enum class FinishReason : std::uint8_t { kStop, kLength };

struct ApiUsage {
  int prompt_tokens = 0;
  int cached_tokens = 0;
  int completion_tokens = 0;
};

/// What all parts of one answer have in common.
struct AnswerHead {
  std::string id;
  std::string model;
  std::int64_t created = 0;  ///< seconds since 1970
};

/// Texts are UTF-8; ill-formed bytes come out as U+FFFD.
[[nodiscard]] std::string format_completion(const AnswerHead& head, std::string_view text, FinishReason reason,
                                            const ApiUsage& usage);
/// Server-sent events, each with its closing blank line: the assistant's role, a piece of text, the end, the usage.
[[nodiscard]] std::string format_stream_begin(const AnswerHead& head);
[[nodiscard]] std::string format_stream_text(const AnswerHead& head, std::string_view text);
[[nodiscard]] std::string format_stream_end(const AnswerHead& head, FinishReason reason);
[[nodiscard]] std::string format_stream_usage(const AnswerHead& head, const ApiUsage& usage);
[[nodiscard]] std::string format_stream_error(const ApiError& error);
inline constexpr std::string_view kStreamDone = "data: [DONE]\n\n";

[[nodiscard]] std::string format_error(const ApiError& error);
[[nodiscard]] std::string format_models(std::string_view model, std::int64_t created);

}  // namespace mini_engine::serve
