#include "mini_engine/serve/http_server.hpp"

#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <exception>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/serve/chat_prompt.hpp"
#include "mini_engine/serve/chat_reply.hpp"
#include "mini_engine/serve/openai_api.hpp"

namespace mini_engine::serve {
namespace {

constexpr const char* kJson = "application/json";
constexpr const char* kChatPath = "/v1/chat/completions";
// How often a stream without news looks whether its client is still there.
constexpr std::chrono::milliseconds kClientCheckInterval{100};
// A body that is too large is read on for a while, so that its sender gets to read why it is refused.
constexpr std::size_t kMaxDiscardedBodies = 4;

void answer_error(httplib::Response& response, const ApiError& error) {
  response.status = error.status;
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  response.set_content(format_error(error), kJson);
}

ApiError to_api_error(const Refusal& refusal) {
  switch (refusal.reason) {
    case Refusal::Reason::kInvalid:
      return {400, "invalid_value", "", refusal.message};
    case Refusal::Reason::kTooLong:
      return {400, "context_length_exceeded", "messages", refusal.message};
    case Refusal::Reason::kQueueFull:
      return {429, "queue_full", "", refusal.message};
    case Refusal::Reason::kStopping:
      break;
  }
  return {503, "shutting_down", "", refusal.message};
}

/// What went wrong with an accepted request; nothing when it has its answer.
std::optional<ApiError> error_of(const Outcome& outcome) {
  switch (outcome.reason) {
    case EndReason::kFailed:
      return ApiError(500, "engine_error", "", outcome.message);
    case EndReason::kShutdown:
      return ApiError(503, "shutting_down", "", "the server shut down before the answer was complete");
    case EndReason::kCancelled:
      return ApiError(500, "cancelled", "", "the request was cancelled");
    case EndReason::kEndOfText:
    case EndReason::kTokenLimit:
    case EndReason::kContextLimit:
    case EndReason::kStopped:
      break;
  }
  return std::nullopt;
}

FinishReason finish_reason_of(const Outcome& outcome) {
  return outcome.reason == EndReason::kTokenLimit || outcome.reason == EndReason::kContextLimit ? FinishReason::kLength
                                                                                                : FinishReason::kStop;
}

ApiUsage usage_of(const Outcome& outcome) {
  return {.prompt_tokens = outcome.num_prompt_tokens,
          .cached_tokens = outcome.num_cached_tokens,
          .completion_tokens = outcome.num_generated_tokens};
}

bool is_json(const httplib::Request& request) {
  std::string type = request.get_header_value("Content-Type");
  type = type.substr(0, type.find(';'));
  type.erase(std::remove(type.begin(), type.end(), ' '), type.end());
  std::transform(type.begin(), type.end(), type.begin(), [](char c) { return 'A' <= c && c <= 'Z' ? c + 32 : c; });
  return type == kJson;
}

std::string read_body(const httplib::ContentReader& reader, const httplib::Response& response, std::size_t max_bytes) {
  std::string body;
  std::size_t num_bytes = 0;
  const bool is_whole = reader([&](const char* data, std::size_t count) {
    num_bytes += count;
    if (num_bytes <= max_bytes) body.append(data, count);
    return num_bytes <= max_bytes * kMaxDiscardedBodies;
  });
  // A length given beforehand that is too large is the library's to refuse: it skips the body and sets the status.
  if (num_bytes > max_bytes || (!is_whole && response.status == 413)) {
    throw ApiError(413, "body_too_large", "", "body: more than " + std::to_string(max_bytes) + " bytes");
  }
  if (!is_whole) throw ApiError(400, "incomplete_body", "", "body: could not be read to its end");
  return body;
}

// Sends an answer event by event. Called for the next part until it returns false or says that it is done.
class ChatStream {
 public:
  ChatStream(std::shared_ptr<ChatReply> reply, AnswerHead head, bool includes_usage)
      : reply_(std::move(reply)), head_(std::move(head)), includes_usage_(includes_usage) {}

  bool send_next(httplib::DataSink& sink) {
    if (!std::exchange(has_begun_, true)) return send(sink, format_stream_begin(head_));
    const std::optional<ChatReply::News> news = reply_->wait_for(kClientCheckInterval);
    if (!news) return sink.is_writable();
    std::string events;
    if (!news->text.empty()) events += format_stream_text(head_, news->text);
    if (news->end) {
      if (const std::optional<ApiError> error = error_of(*news->end)) {
        events += format_stream_error(*error);
      } else {
        events += format_stream_end(head_, finish_reason_of(*news->end));
        if (includes_usage_) events += format_stream_usage(head_, usage_of(*news->end));
      }
      events += kStreamDone;
    }
    if (!send(sink, events)) return false;
    if (news->end) sink.done();
    return true;
  }

 private:
  static bool send(httplib::DataSink& sink, const std::string& events) {
    return sink.write(events.data(), events.size());
  }

  std::shared_ptr<ChatReply> reply_;
  AnswerHead head_;
  bool includes_usage_;
  bool has_begun_ = false;
};

}  // namespace

struct HttpServer::Impl {
  Scheduler& scheduler;
  const Tokenizer& tokenizer;
  ServeMetrics& metrics;
  HttpOptions options;
  std::int64_t started_at = std::time(nullptr);
  std::string id_prefix;
  std::atomic<std::uint64_t> num_ids{0};
  httplib::Server server;
  int port = 0;
  std::atomic<bool> has_ended{false};
  std::thread listener;

  Impl(Scheduler& its_scheduler, const Tokenizer& its_tokenizer, ServeMetrics& its_metrics,
       const HttpOptions& its_options)
      : scheduler(its_scheduler), tokenizer(its_tokenizer), metrics(its_metrics), options(its_options) {
    std::random_device device;
    id_prefix = "chatcmpl-" + std::to_string(device()) + "-";
  }

  AnswerHead new_head() {
    return {.id = id_prefix + std::to_string(++num_ids), .model = options.model_id, .created = std::time(nullptr)};
  }

  [[nodiscard]] Request to_request(const ChatCompletionRequest& chat) const {
    if (chat.model != options.model_id) {
      throw ApiError(404, "model_not_found", "model",
                     "model: this server has " + in_quotes(options.model_id) + ", not " + in_quotes(chat.model));
    }
    Request request;
    request.segments = chat_segments(tokenizer, chat.messages, chat.documents);
    const std::int64_t num_left = scheduler.num_positions() - static_cast<std::int64_t>(num_prompt_tokens(request)) + 1;
    request.max_tokens =
        chat.max_tokens.value_or(static_cast<int>(std::clamp<std::int64_t>(num_left, 1, options.default_max_tokens)));
    const std::uint64_t seed = chat.seed ? *chat.seed : std::random_device()();
    request.sampling = {.temperature = chat.temperature, .top_p = chat.top_p, .seed = seed};
    return request;
  }

  void chat(const httplib::Request& http, httplib::Response& response, const httplib::ContentReader& reader) {
    ChatCompletionRequest chat;
    Request request;
    try {
      if (!is_json(http)) throw ApiError(400, "wrong_content_type", "", "Content-Type: must be application/json");
      chat = parse_chat_completion(read_body(reader, response, options.max_body_bytes));
      request = to_request(chat);
    } catch (const ApiError& error) {
      metrics.refused[static_cast<std::size_t>(Refusal::Reason::kInvalid)].add();
      return answer_error(response, error);
    }
    const auto reply = std::make_shared<ChatReply>(tokenizer, chat.stop);
    if (const std::optional<Refusal> refusal = scheduler.submit(std::move(request), reply)) {
      return answer_error(response, to_api_error(*refusal));
    }
    if (chat.is_stream) {
      const auto stream = std::make_shared<ChatStream>(reply, new_head(), chat.stream_includes_usage);
      response.set_header("Cache-Control", "no-cache");
      response.set_chunked_content_provider(
          "text/event-stream", [stream](std::size_t, httplib::DataSink& sink) { return stream->send_next(sink); },
          [reply](bool) { reply->abandon(); });
      return;
    }
    const ChatReply::News answer = reply->wait_for_end();
    if (const std::optional<ApiError> error = error_of(*answer.end)) return answer_error(response, *error);
    response.set_content(
        format_completion(new_head(), answer.text, finish_reason_of(*answer.end), usage_of(*answer.end)), kJson);
  }

  void health(httplib::Response& response) const {
    const bool is_stopping = scheduler.is_stopping();
    response.status = is_stopping ? 503 : 200;
    response.set_content(is_stopping ? R"({"status":"stopping"})" : R"({"status":"ok"})", kJson);
  }

  static void answer_unknown(const httplib::Request& request, httplib::Response& response) {
    const bool is_chat = request.path == kChatPath;
    if (is_chat || request.path == "/v1/models" || request.path == "/health" || request.path == "/metrics") {
      const char* allowed = is_chat ? "POST" : "GET";
      response.set_header("Allow", allowed);
      return answer_error(response, {405, "method_not_allowed", "", request.path + ": takes " + allowed + " alone"});
    }
    answer_error(response, {404, "not_found", "", "there is nothing at this path"});
  }

  void set_routes() {
    server.Post(kChatPath, [this](const httplib::Request& request, httplib::Response& response,
                                  const httplib::ContentReader& reader) { chat(request, response, reader); });
    server.Get("/v1/models", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(format_models(options.model_id, started_at), kJson);
    });
    server.Get("/health", [this](const httplib::Request&, httplib::Response& response) { health(response); });
    server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(metrics.to_prometheus(), "text/plain; version=0.0.4; charset=utf-8");
    });
    const auto leave_body = [](const httplib::Request& request, httplib::Response& response,
                               const httplib::ContentReader&) { answer_unknown(request, response); };
    server.Get(".*", answer_unknown).Options(".*", answer_unknown);
    server.Post(".*", leave_body).Put(".*", leave_body).Patch(".*", leave_body).Delete(".*", leave_body);
    // Whatever the library itself refuses: malformed requests, lengths beyond its limits.
    server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty()) {
        const std::string what = "HTTP status " + std::to_string(response.status) + " while reading the request";
        answer_error(response, {response.status, "http_error", "", what});
      }
    });
    server.set_exception_handler([](const httplib::Request&, httplib::Response& response, std::exception_ptr thrown) {
      try {
        std::rethrow_exception(std::move(thrown));
      } catch (const std::exception& error) {
        answer_error(response, {500, "internal_error", "", error.what()});
      } catch (...) {
        answer_error(response, {500, "internal_error", "", "an exception of unknown type"});
      }
    });
  }

  void start() {
    const auto num_threads = static_cast<std::size_t>(options.num_threads);
    server.new_task_queue = [num_threads] { return new httplib::ThreadPool(num_threads); };
    server.set_payload_max_length(options.max_body_bytes);
    server.set_write_timeout(options.write_timeout);
    server.set_tcp_nodelay(true);
    // One request a connection: what is left of a body that was not read can never pass for the next request.
    server.set_keep_alive_max_count(1);
    // The library's default lets a second server bind the same port and take half of the connections.
    server.set_socket_options([](socket_t socket) {
      const int yes = 1;
      (void)setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    port = options.port;
    if (port == 0) port = server.bind_to_any_port(options.host);
    if (port <= 0 || (options.port != 0 && !server.bind_to_port(options.host, port))) {
      throw Error("cannot listen on " + options.host + " port " + std::to_string(options.port));
    }
    listener = std::thread([this] {
      (void)server.listen_after_bind();
      has_ended = true;
    });
    // stop() has no effect before the server runs.
    while (!server.is_running() && !has_ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
};

HttpServer::HttpServer(Scheduler& scheduler, const Tokenizer& tokenizer, ServeMetrics& metrics,
                       const HttpOptions& options)
    : impl_(std::make_unique<Impl>(scheduler, tokenizer, metrics, options)) {
  if (options.num_threads < 1 || options.default_max_tokens < 1) {
    throw Error("http: num_threads is " + std::to_string(options.num_threads) + " and default_max_tokens is " +
                std::to_string(options.default_max_tokens) + "; both must be at least 1");
  }
  impl_->set_routes();
  impl_->start();
}

HttpServer::~HttpServer() { stop(); }

int HttpServer::port() const { return impl_->port; }

void HttpServer::stop() {
  impl_->server.stop();
  if (impl_->listener.joinable()) impl_->listener.join();
}

}  // namespace mini_engine::serve
