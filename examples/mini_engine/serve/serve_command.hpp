// `mini_engine serve`: a model behind HTTP until a signal ends it.
#pragma once

#include <string>

#include "mini_engine/engine/model_choice.hpp"
#include "mini_engine/serve/reuse_settings.hpp"

namespace CLI {
class App;
}

namespace mini_engine::serve {

struct ServeSettings {
  ModelChoice model;
  ReuseSettings reuse;
  std::string model_id;  ///< empty: the name of the file or folder
  std::string host = "127.0.0.1";
  int port = 8080;
  int num_pages = 0;  ///< 0: room for 8192 tokens
  int page_size = 16;
  int max_queued = 64;
  int max_running = 16;
  int prefill_rows = 256;
  int default_max_tokens = 512;
  int max_body_kib = 8192;
  int grace_seconds = 30;
};

/// Adds the subcommand's options to `command`. The settings must outlive its parsing.
void declare_serve(CLI::App& command, ServeSettings& settings);

/// Serves until SIGINT or SIGTERM; a second one ends running requests at once. Says on standard error where it listens.
/// Must be called before the process has other threads, since it blocks these signals for all. Throws Error when the
/// model cannot be read or the address not bound.
void serve(const ServeSettings& settings);

}  // namespace mini_engine::serve
