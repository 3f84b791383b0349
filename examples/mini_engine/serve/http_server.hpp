// The scheduler over HTTP/1.1, as OpenAI's clients speak it.
//
//   POST /v1/chat/completions   GET /v1/models   GET /health   GET /metrics
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/scheduler.hpp"
#include "mini_engine/tokenizer.hpp"

namespace mini_engine::serve {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                                    ///< 0: any that is free
  std::string model_id;                               ///< the "model" that requests must name
  std::size_t max_body_bytes = std::size_t{8} << 20;  ///< also after decompression
  int default_max_tokens = 512;                       ///< of requests that do not say, where that many fit
  int num_threads = 96;                               ///< connections served at once; more wait unseen
  std::chrono::milliseconds write_timeout{5000};      ///< a client that takes nothing for so long is gone
};

/// Serves from construction on, on threads of its own. A request's client that disconnects while its answer is streamed
/// cancels it; of one that does not stream this shows only when the answer is written.
class HttpServer {
 public:
  /// Throws Error when the address cannot be bound. Scheduler, tokenizer and metrics must outlive it.
  HttpServer(Scheduler& scheduler, const Tokenizer& tokenizer, ServeMetrics& metrics, const HttpOptions& options);
  /// As stop().
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  [[nodiscard]] int port() const;
  /// Takes no more connections and returns when all answers are written: stop the scheduler first, else that takes as
  /// long as generation does. Not from several threads at once.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mini_engine::serve
