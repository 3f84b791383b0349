#include "mini_engine/serve/serve_command.hpp"

#include <pthread.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "mini_engine/error.hpp"
#include "mini_engine/serve/http_server.hpp"
#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/scheduler.hpp"
#include "mini_engine/tokenizer.hpp"

namespace mini_engine::serve {
namespace {

constexpr int kDefaultCacheTokens = 8192;  // about 1 GiB in bf16 for a model of 8 billion parameters
constexpr int kSpareHttpThreads = 8;       // for /health and /metrics while every place in queue and batch is taken

std::string model_id_of(const ServeSettings& settings) {
  if (!settings.model_id.empty()) return settings.model_id;
  if (settings.model.path.empty()) return settings.model.random_weights;
  const auto path = std::filesystem::absolute(settings.model.path).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

int num_pages_of(const ServeSettings& settings) {
  if (settings.num_pages > 0) return settings.num_pages;
  return (kDefaultCacheTokens + settings.page_size - 1) / settings.page_size;
}

// SIGINT and SIGTERM, held back from every thread that starts while it lives, for one that waits for them.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    if (pthread_sigmask(SIG_BLOCK, &signals_, &before_) != 0) throw Error("cannot block signals");
  }
  ~StopSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  void wait() const {
    int signal = 0;
    (void)sigwait(&signals_, &signal);
  }
  /// False when none came in time.
  [[nodiscard]] bool wait_for_ms(long milliseconds) const {
    const timespec timeout{.tv_sec = milliseconds / 1000, .tv_nsec = milliseconds % 1000 * 1000000};
    return sigtimedwait(&signals_, nullptr, &timeout) > 0;
  }

 private:
  sigset_t signals_{};
  sigset_t before_{};
};

// Lets running requests finish, until the grace is over or another signal comes.
void stop_gracefully(Scheduler& scheduler, const StopSignals& signals, std::chrono::seconds grace) {
  std::atomic<bool> has_stopped{false};
  std::thread waiter([&] {
    scheduler.stop(grace);
    has_stopped = true;
  });
  while (!has_stopped) {
    if (signals.wait_for_ms(50)) scheduler.stop(std::chrono::milliseconds(0));
  }
  waiter.join();
}

}  // namespace

void declare_serve(CLI::App& command, ServeSettings& settings) {
  const auto positive = CLI::Range(1, 1 << 30);
  declare_model(command, settings.model);
  declare_reuse(command, settings.reuse);
  command.add_option("--model-id", settings.model_id, "what requests call it; the file's name when absent");
  command.add_option("--host", settings.host, "address to listen on")->capture_default_str();
  command.add_option("--port", settings.port, "0 takes a free one")->check(CLI::Range(0, 65535))->capture_default_str();
  command.add_option("--pages", settings.num_pages, "of the KV cache; 0 makes room for 8192 tokens")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command.add_option("--page-size", settings.page_size, "tokens of a page")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--max-queue", settings.max_queued, "requests that may wait for pages")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--max-running", settings.max_running, "requests computed together")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--prefill-rows", settings.prefill_rows, "prompt tokens computed in one step at most")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--default-max-tokens", settings.default_max_tokens, "of requests that do not say")
      ->check(positive)
      ->capture_default_str();
  command.add_option("--max-body-kib", settings.max_body_kib, "larger requests are refused")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--grace", settings.grace_seconds, "seconds that running requests have when a signal comes")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
}

void serve(const ServeSettings& settings) {
  const StopSignals signals;
  const ChosenModel chosen = load_model(settings.model);
  const Tokenizer& tokenizer = *chosen.tokenizer;
  if (tokenizer.data().chat_template == ChatTemplate::kNone) {
    throw Error(tokenizer.data().source + ": no chat template that this engine knows");
  }
  PagedCache cache = chosen.engine->make_cache(num_pages_of(settings), settings.page_size);
  ServeMetrics metrics;
  ReuseSetup reuse(settings.reuse, *chosen.engine,
                   settings.reuse.reuse == "none" ? std::array<std::byte, 32>{} : chosen.fingerprint(),
                   settings.page_size, metrics);
  Scheduler scheduler(chosen.engine->model(), cache, reuse.placer(), metrics,
                      {.max_queued = settings.max_queued,
                       .batch = {.max_running = settings.max_running, .prefill_rows_per_step = settings.prefill_rows}});
  HttpServer server(scheduler, tokenizer, metrics,
                    {.host = settings.host,
                     .port = settings.port,
                     .model_id = model_id_of(settings),
                     .max_body_bytes = static_cast<std::size_t>(settings.max_body_kib) << 10,
                     .default_max_tokens = settings.default_max_tokens,
                     .num_threads = settings.max_queued + settings.max_running + kSpareHttpThreads});
  std::fprintf(stderr, "mini_engine: serving '%s' on http://%s:%d\n", model_id_of(settings).c_str(),
               settings.host.c_str(), server.port());
  signals.wait();
  std::fprintf(stderr, "mini_engine: stopping; a second signal ends running requests\n");
  stop_gracefully(scheduler, signals, std::chrono::seconds(settings.grace_seconds));
  server.stop();
}

}  // namespace mini_engine::serve
