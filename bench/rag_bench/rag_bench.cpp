// Streams of RAG requests against the mini engine's scheduler, in the same process and without HTTP: full
// recomputation, exact prefix caching, and chunks re-anchored from device or host memory, on the same requests. Random
// weights; what is measured is time, not answers.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mini_engine/engine/engine.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/named_config.hpp"
#include "mini_engine/serve/chunk_placer.hpp"
#include "mini_engine/serve/scheduler.hpp"
#include "rag_bench/load.hpp"
#include "rag_bench/mode.hpp"
#include "rag_bench/report.hpp"
#include "rag_bench/trace_workload.hpp"
#include "rag_bench/zipf_workload.hpp"

namespace {

using rag_bench::Mode;

constexpr int kPageSize = 16;
constexpr int kPrefixBlockTokens = 256;

struct Settings {
  std::string shapes = "llama3.1-8b";
  std::string device = "gpu";
  int num_threads = 0;
  std::vector<std::string> modes = {"full", "prefix", "device"};
  rag_bench::ZipfOptions zipf;
  rag_bench::TraceOptions trace;
  rag_bench::LoadOptions load;
  int num_warm_up = 64;
  int prefill_rows = 4096;
  double store_gib = 0;
  bool is_cold = false;
  std::string json_path;
};

void declare(CLI::App& app, Settings& s) {
  const auto positive = CLI::Range(1, 1 << 30);
  app.add_option("--shapes", s.shapes, "llama3.1-8b, smollm2-135m or tiny")->capture_default_str();
  app.add_option("--device", s.device, "cpu or gpu")->check(CLI::IsMember({"cpu", "gpu"}))->capture_default_str();
  app.add_option("--threads", s.num_threads, "of the CPU engine; 0 takes all cores")->capture_default_str();
  app.add_option("--modes", s.modes,
                 "full, prefix, device, pinned-bf16, pinned-fp8; +SPEC repairs chunks, +N is short for +first:N")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--documents", s.zipf.num_documents)->check(positive)->capture_default_str();
  app.add_option("--document-tokens", s.zipf.document_tokens)->check(positive)->capture_default_str();
  app.add_option("--per-request", s.zipf.documents_per_request)->check(positive)->capture_default_str();
  app.add_option("--zipf", s.zipf.zipf)->check(CLI::Range(0.0, 10.0))->capture_default_str();
  app.add_option("--question-tokens", s.zipf.question_tokens)->check(positive)->capture_default_str();
  app.add_option("--new-tokens", s.zipf.new_tokens)->check(positive)->capture_default_str();
  app.add_option("--seed", s.zipf.seed)->capture_default_str();
  app.add_option("--trace", s.trace.folder, "folder in RAGPulse's format: requests of that instead; needs --store-gib")
      ->check(CLI::ExistingDirectory);
  app.add_flag("--as-served", s.trace.as_served, "all of the trace's system prompt before the passages");
  app.add_option("--max-new-tokens", s.trace.max_new_tokens, "of the trace's answers")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--requests", s.load.num_requests, "that are measured")->check(positive)->capture_default_str();
  app.add_option("--warm-up", s.num_warm_up, "requests before them")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--concurrency", s.load.concurrency, "requests under way at any time; also the largest batch")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--rate", s.load.requests_per_second, "open loop: arrivals per second; 0: closed loop")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--trace-speed", s.load.trace_speed, "open loop: the trace's arrivals, so many times as fast")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--prefill-rows", s.prefill_rows, "prompt tokens computed in one step at most")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--store-gib", s.store_gib, "room for chunks; 0 takes what all documents need, and a tenth more")
      ->capture_default_str();
  app.add_flag("--cold", s.is_cold, "documents are encoded when they are first met, not ahead");
  app.add_option("--json", s.json_path, "file for the numbers");
}

std::int64_t store_bytes(const Settings& s, const rag_bench::WorkloadSize& size, const mini_engine::ModelConfig& config,
                         pikv::DType dtype) {
  if (s.store_gib > 0) return static_cast<std::int64_t>(s.store_gib * 1024 * 1024 * 1024);
  const std::int64_t token_bytes =
      std::int64_t{2} * config.num_layers * config.num_kv_heads * config.head_dim * pikv::dtype_bytes(dtype);
  return (size.document_tokens * token_bytes + size.num_documents * 4096) * 11 / 10;
}

int pages_for(int num_tokens) { return (num_tokens + kPageSize - 1) / kPageSize; }

rag_bench::Summary run_mode(const Settings& s, const rag_bench::Workload& workload, const Mode& mode,
                            mini_engine::Engine& engine) {
  const rag_bench::WorkloadSize size = workload.size();
  mini_engine::PagedCache cache =
      engine.make_cache(s.load.concurrency * pages_for(size.max_prompt_tokens + size.max_new_tokens), kPageSize);
  mini_engine::serve::ServeMetrics metrics;

  std::optional<mini_engine::PagedCache> scratch;
  std::optional<mini_engine::ChunkServer> server;
  std::unique_ptr<mini_engine::serve::PromptPlacer> placer;
  if (mode.kind == Mode::Kind::kFull) {
    placer = std::make_unique<mini_engine::serve::ComputingPlacer>();
  } else {
    scratch.emplace(engine.make_cache(pages_for(size.max_document_tokens), kPageSize));
    server.emplace(engine.model(), *scratch, std::array<std::byte, 32>{},
                   mini_engine::ChunkServerOptions{
                       .capacity_bytes = store_bytes(s, size, engine.model().config(), engine.store_dtype()),
                       .store_dtype = engine.store_dtype(),
                       .encoding = {.format = mode.format},
                       .num_threads = s.num_threads,
                       .prefix_block_tokens = kPrefixBlockTokens,
                       .device = engine.reuse_device(mode.place)});
    const bool use_chunks = mode.kind == Mode::Kind::kChunks;
    for (std::int64_t i = 0; use_chunks && !s.is_cold && i < size.num_documents; ++i) {
      (void)server->encode_chunk(workload.document(i), {});
    }
    placer = std::make_unique<mini_engine::serve::ChunkPlacer>(
        *server, metrics, mini_engine::serve::ChunkPlacerOptions{.use_chunks = use_chunks, .repair = mode.repair});
  }
  mini_engine::serve::Scheduler scheduler(
      engine.model(), cache, *placer, metrics,
      {.max_queued = std::max(64, s.load.concurrency),
       .batch = {.max_running = s.load.concurrency, .prefill_rows_per_step = s.prefill_rows}});
  rag_bench::LoadOptions load = s.load;
  if (s.num_warm_up > 0) {
    load.num_requests = s.num_warm_up;
    (void)run_load(scheduler, workload, load);
  }
  const auto exact = metrics.exact_tokens.value();
  const auto approximate = metrics.approximate_tokens.value();
  const auto repaired = metrics.repaired_tokens.value();
  const auto moved = metrics.moved_bytes.value();
  load.num_requests = s.load.num_requests;
  load.first_request = static_cast<std::uint64_t>(s.num_warm_up);
  rag_bench::Summary summary = rag_bench::summarize(mode.name, run_load(scheduler, workload, load));
  summary.exact_tokens = static_cast<std::int64_t>(metrics.exact_tokens.value() - exact);
  summary.approximate_tokens = static_cast<std::int64_t>(metrics.approximate_tokens.value() - approximate);
  summary.repaired_tokens = static_cast<std::int64_t>(metrics.repaired_tokens.value() - repaired);
  summary.moved_bytes = static_cast<std::int64_t>(metrics.moved_bytes.value() - moved);
  summary.device_bytes_in_use = engine.device_bytes_in_use();
  scheduler.stop(std::chrono::seconds(0));
  if (server) summary.store_bytes = server->store().stats().used_bytes;
  return summary;
}

/// A trace has more documents than fit, which are encoded as they come.
std::unique_ptr<const rag_bench::Workload> make_workload(Settings& s, int vocab_size) {
  s.zipf.vocab_size = vocab_size;
  s.trace.vocab_size = vocab_size;
  s.trace.seed = s.zipf.seed;
  s.load.seed = s.zipf.seed;
  if (s.trace.folder.empty()) return std::make_unique<rag_bench::ZipfWorkload>(s.zipf);
  if (s.store_gib <= 0) throw mini_engine::Error("a trace needs to be told how large the store is (--store-gib)");
  s.is_cold = true;
  return std::make_unique<rag_bench::TraceWorkload>(s.trace);
}

void run(Settings& s) {
  const std::vector<Mode> modes = rag_bench::parse_modes(s.modes);
  const mini_engine::ModelConfig config = mini_engine::named_config(s.shapes);
  const std::unique_ptr<const rag_bench::Workload> workload = make_workload(s, config.vocab_size);
  const auto precision = s.device == "gpu" ? mini_engine::Precision::kBFloat16 : mini_engine::Precision::kFloat32;
  const std::unique_ptr<mini_engine::Engine> engine = mini_engine::make_engine(
      config, {.on_gpu = s.device == "gpu", .weights = precision, .cache = precision, .num_threads = s.num_threads});
  std::vector<rag_bench::Summary> summaries;
  for (const Mode& mode : modes) {
    summaries.push_back(run_mode(s, *workload, mode, *engine));
    std::fprintf(stderr, "%s: %.2f requests/s\n", mode.name.c_str(), summaries.back().requests_per_second);
  }
  std::fputs(rag_bench::to_table(summaries).c_str(), stdout);
  if (s.json_path.empty()) return;
  std::ofstream file(s.json_path);
  file << rag_bench::to_json(summaries, *workload) << std::flush;
  if (!file) throw mini_engine::Error("cannot write " + s.json_path);
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Streams of RAG requests, served in several ways.", "rag_bench");
  declare(app, settings);
  CLI11_PARSE(app, argc, argv);
  try {
    run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rag_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
