// mini_engine: answers a prompt with a llama-architecture model, on the CPU or a GPU, serves one over HTTP, or checks
// that reuse holds on it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "engine/check_command.hpp"
#include "engine/model_choice.hpp"
#include "error.hpp"
#include "generate.hpp"
#include "sampler.hpp"
#include "text_stream.hpp"
#include "tokenizer.hpp"
#if MINI_ENGINE_HAS_SERVE
#include "serve/serve_command.hpp"
#endif

namespace {

using mini_engine::TokenId;

constexpr int kPageSize = 16;

enum ExitCode { kSuccess = 0, kFailure = 1 };  // CLI11 has its own codes, from 100 on, for a wrong command line

struct Settings {
  mini_engine::ModelChoice model;
  std::string prompt;
  bool has_prompt = false;
  std::string system;
  int max_tokens = 256;
  mini_engine::SamplerOptions sampling;
  bool is_raw = false;
};

void declare(CLI::App& app, Settings& settings) {
  declare_model(app, settings.model);
  app.add_option("--prompt", settings.prompt, "what to answer; read from standard input when absent");
  app.add_option("--system", settings.system, "system message of the chat template");
  app.add_option("--max-tokens", settings.max_tokens, "tokens to generate at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--temperature", settings.sampling.temperature, "0 takes the most likely token")
      ->capture_default_str();
  app.add_option("--top-p", settings.sampling.top_p, "sample from the likeliest tokens of this total probability")
      ->capture_default_str();
  app.add_option("--seed", settings.sampling.seed, "of the sampler")->capture_default_str();
  app.add_flag("--raw", settings.is_raw, "continue the prompt itself, without a chat template");
}

std::vector<TokenId> prompt_tokens(const Settings& settings, const mini_engine::Tokenizer& tokenizer) {
  if (settings.is_raw) {
    std::vector<TokenId> tokens = tokenizer.encode(settings.prompt);
    if (tokenizer.data().adds_bos) tokens.insert(tokens.begin(), tokenizer.data().bos_id);
    return tokens;
  }
  if (tokenizer.data().chat_template == mini_engine::ChatTemplate::kNone) {
    throw mini_engine::Error(tokenizer.data().source + ": no chat template that this engine knows; use --raw");
  }
  std::vector<mini_engine::ChatMessage> messages;
  if (!settings.system.empty()) messages.push_back({"system", settings.system});
  messages.push_back({"user", settings.prompt});
  return mini_engine::apply_chat_template(tokenizer, messages, true);
}

void print_speed(const char* what, int count, double seconds) {
  std::fprintf(stderr, "%s: %d tokens in %.3f s, %.1f tokens/s\n", what, count, seconds,
               seconds > 0.0 ? count / seconds : 0.0);
}

void run(Settings& settings) {
  if (!settings.has_prompt) {
    settings.prompt.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
  }
  mini_engine::Sampler sampler(settings.sampling);
  const mini_engine::ChosenModel chosen = load_model(settings.model);
  const mini_engine::Tokenizer& tokenizer = *chosen.tokenizer;
  const std::vector<TokenId> prompt = prompt_tokens(settings, tokenizer);
  mini_engine::Model& model = chosen.engine->model();

  const std::size_t num_rows = std::min(prompt.size() + static_cast<std::size_t>(settings.max_tokens),
                                        static_cast<std::size_t>(model.config().max_positions));
  mini_engine::PagedCache cache = chosen.engine->make_cache(static_cast<int>(num_rows / kPageSize + 1), kPageSize);
  mini_engine::Sequence sequence(cache);
  mini_engine::TextStream text(tokenizer);
  const mini_engine::Generation generation =
      mini_engine::generate(model, sequence, prompt, sampler, settings.max_tokens, [&](TokenId token) {
        std::cout << text.push(token) << std::flush;
        return std::cout.good();
      });
  std::cout << text.finish() << '\n' << std::flush;
  print_speed("prefill", static_cast<int>(prompt.size()), generation.prefill_seconds);
  print_speed("decode", generation.num_decode_passes, generation.decode_seconds);
  if (generation.stop_reason == mini_engine::StopReason::kContextLimit) {
    std::fprintf(stderr, "stopped: the model has no further positions\n");
  }
  if (!std::cout) throw mini_engine::Error("cannot write to standard output");
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Answers a prompt with a llama-architecture model.", "mini_engine");
  declare(app, settings);
  mini_engine::CheckSettings check_settings;
  CLI::App check_app("Checks what pikv promises on a model: exit status 0 when all of it holds, 1 when it does not.",
                     "mini_engine check");
  declare_check(check_app, check_settings);
  // Programs of their own rather than CLI11's subcommands: those would ask for the options of all.
  const bool is_check = argc > 1 && std::string_view(argv[1]) == "check";
  std::string footer = "mini_engine check --help: whether reuse holds on a model";
#if MINI_ENGINE_HAS_SERVE
  mini_engine::serve::ServeSettings serve_settings;
  CLI::App serve_app("Serves a model over HTTP, as OpenAI's clients speak it, until a signal ends it.",
                     "mini_engine serve");
  mini_engine::serve::declare_serve(serve_app, serve_settings);
  const bool is_serve = argc > 1 && std::string_view(argv[1]) == "serve";
  footer += "\nmini_engine serve --help: a server instead";
#endif
  app.footer(footer);
  try {
#if MINI_ENGINE_HAS_SERVE
    if (is_serve) {
      CLI11_PARSE(serve_app, argc - 1, argv + 1);
      mini_engine::serve::serve(serve_settings);
      return kSuccess;
    }
#endif
    if (is_check) {
      CLI11_PARSE(check_app, argc - 1, argv + 1);
      return check_chosen_model(check_settings) ? kSuccess : kFailure;
    }
    CLI11_PARSE(app, argc, argv);
    settings.has_prompt = app.count("--prompt") > 0;
    run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mini_engine: %s\n", error.what());
    return kFailure;
  }
  return kSuccess;
}
