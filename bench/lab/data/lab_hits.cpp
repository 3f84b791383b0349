// lab_hits: how much of the passages in streams of requests caches find, without a model. JSON lines on standard
// output.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "lab/data/hit_rates.hpp"
#include "mini_engine/error.hpp"

namespace {

using lab::CacheKind;

struct Options {
  std::string ragpulse_folder;
  std::string mooncake_path;
  std::vector<std::string> case_paths;
  // All that RAGPulse's requests refer to is 820 thousand tokens; then 30, 10 and 3 % of that.
  std::vector<std::int64_t> capacities = {0, 820'000, 246'000, 82'000, 25'000};
  std::uint64_t seed = 1;
};

void print(const lab::PassageStream& stream, std::span<const CacheKind> kinds, std::span<const std::int64_t> capacities,
           std::uint64_t seed) {
  for (const std::int64_t capacity : capacities) {
    for (const CacheKind kind : kinds) {
      const lab::HitRates rates = lab::replay(stream, kind, capacity, seed);
      fmt::print("{}\n", nlohmann::ordered_json{{"kind", "hits"},
                                                {"trace", stream.name},
                                                {"cache", lab::cache_name(kind)},
                                                {"capacity_tokens", capacity},
                                                {"num_requests", stream.requests.size()},
                                                {"hit_rate", rates.hit_rate},
                                                {"tenths", rates.tenths}}
                             .dump());
    }
  }
}

void run(const Options& options) {
  if (options.ragpulse_folder.empty() && options.mooncake_path.empty() && options.case_paths.empty()) {
    throw mini_engine::Error("nothing to replay: give --ragpulse, --mooncake or --cases");
  }
  constexpr std::array kInfinite = {std::int64_t{0}};
  if (!options.ragpulse_folder.empty()) {
    print(lab::read_ragpulse(options.ragpulse_folder), lab::kCacheKinds, options.capacities, options.seed);
  }
  // The control: its ids stand for prefixes already, so the order of blocks is not ours to change.
  if (!options.mooncake_path.empty()) {
    constexpr std::array kKinds = {CacheKind::kChunk, CacheKind::kPrefixRetrieved};
    print(lab::read_mooncake(options.mooncake_path), kKinds, kInfinite, options.seed);
  }
  for (const std::string& path : options.case_paths) {
    print(lab::read_case_stream(path), lab::kCacheKinds, kInfinite, options.seed);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Replays streams of requests against a position-free cache and against caches of prefixes.");
  Options options;
  app.add_option("--ragpulse", options.ragpulse_folder, "Folder of 0_trace.jsonl and its five tables of lengths");
  app.add_option("--mooncake", options.mooncake_path, "conversation_trace.jsonl; gzip is fine");
  app.add_option("--cases", options.case_paths, "Files of lab_prepare, in their own order");
  app.add_option("--capacity", options.capacities, "Tokens that a cache holds; 0: no bound (RAGPulse only)")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  app.add_option("--seed", options.seed, "Of shuffled orders")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lab_hits: {}\n", error.what());
    return 1;
  }
  return 0;
}
