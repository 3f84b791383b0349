// Re-anchoring on the CPU against a plain copy of the same bytes.
//
// Every benchmark alternates, within one iteration, the copy and the re-anchoring of the same transfer, both on the
// same number of threads, and reports the best of each: other load on the machine then hits both alike. Bytes are those
// read plus those written. `of_copy` is re-anchoring's rate over the copy's, for a dtype pair that changes the size the
// copy moves as many bytes in all as the re-anchoring.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "pikv/backend.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int32_t kPageSize = 16;
constexpr std::int64_t kSideBytes = std::int64_t{256} << 20;  // of the larger side, beyond any last-level cache here
constexpr std::int32_t kRoundsPerIteration = 3;

enum class Pages { kInOrder, kShuffled };

struct Model {
  const char* name;
  pikv::KvGeometry geometry;
  double theta;
};

const Model kLlama8B{
    "llama-3.1-8b", {.num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128}, 500000.0};
const Model kSmolLm2{"smollm2-135m", {.num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .rotary_dim = 64}, 100000.0};

/// Source slab and target pages of one model, about kSideBytes each, all of it touched.
struct Workload {
  pikv::KvGeometry geometry;
  std::int64_t num_tokens;
  std::vector<std::int32_t> pages;
  pikv::Buffer source;
  pikv::Buffer target;
  pikv::RopeTable table;
  pikv::KvRun run;
  pikv::KvTransfer transfer;

  Workload(const Model& model, pikv::DType from, pikv::DType to, Pages order)
      : geometry(model.geometry),
        num_tokens(tokens_for(model.geometry, from, to)),
        pages(make_pages(num_tokens / kPageSize, order)),
        source(allocate(num_tokens * geometry.elements_per_token() * pikv::dtype_bytes(from))),
        target(allocate(num_tokens * geometry.elements_per_token() * pikv::dtype_bytes(to))),
        table(pikv::RopeTable::build(pikv::RopeConfig(model.theta, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                                     geometry.rotary_dim, static_cast<std::int32_t>(num_tokens))
                  .value()) {
    // Finite values in every format, no subnormal ones.
    std::memset(source.data(), 0x3C, source.size_bytes());
    std::memset(target.data(), 0, target.size_bytes());

    geometry.dtype = from;
    run.source.layout = pikv::slab_layout(geometry, num_tokens);
    run.source.k_base = source.data();
    run.source.v_base = source.data() + pikv::slab_value_offset(geometry, num_tokens) * pikv::dtype_bytes(from);
    run.source.num_slots = num_tokens;
    run.source_slots = pikv::SlotMap::consecutive(0, num_tokens);
    run.target_slots = pikv::SlotMap::page_table(pages.data(), kPageSize, 0, num_tokens);

    geometry.dtype = to;
    transfer.geometry = geometry;
    transfer.runs = {&run, 1};
    transfer.target.layout = pikv::fused_nhd_pages(geometry, kPageSize, num_tokens / kPageSize);
    transfer.target.k_base = target.data();
    transfer.target.v_base =
        target.data() + kPageSize * geometry.num_kv_heads * geometry.head_dim * pikv::dtype_bytes(to);
    transfer.target.num_slots = num_tokens;
    transfer.rope = table.view();
    transfer.layer_end = geometry.num_layers;
  }
  Workload(const Workload&) = delete;
  Workload& operator=(const Workload&) = delete;

  [[nodiscard]] std::int64_t num_bytes() const {
    return static_cast<std::int64_t>(source.size_bytes() + target.size_bytes());
  }

 private:
  static std::int64_t tokens_for(const pikv::KvGeometry& geometry, pikv::DType from, pikv::DType to) {
    const std::int64_t token_bytes =
        geometry.elements_per_token() * std::max(pikv::dtype_bytes(from), pikv::dtype_bytes(to));
    return kSideBytes / token_bytes / kPageSize * kPageSize;
  }

  static std::vector<std::int32_t> make_pages(std::int64_t num_pages, Pages order) {
    std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
    std::iota(pages.begin(), pages.end(), 0);
    if (order == Pages::kShuffled) std::shuffle(pages.begin(), pages.end(), std::mt19937(7));
    return pages;
  }

  static pikv::Buffer allocate(std::int64_t size_bytes) {
    return pikv::Buffer::allocate(static_cast<std::size_t>(size_bytes), pikv::host_memory_resource(),
                                  pikv::StreamRef::legacy_default())
        .value();
  }
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// memcpy of half of `num_bytes` on `num_threads` threads, which take pieces as they get to them, as the backend's do:
/// a fixed share each would make the copy wait for whichever thread other load on the machine slows down. The pieces
/// are long enough for memcpy to bypass the cache.
double time_copy(Workload& load, std::int64_t num_bytes, std::int32_t num_threads) {
  constexpr std::int64_t kPieceBytes = std::int64_t{32} << 20;
  // Where the two sides differ in size, the copy stays within the smaller and starts over.
  const auto span = static_cast<std::int64_t>(std::min(load.source.size_bytes(), load.target.size_bytes()));
  const std::int64_t pieces_in_span = span / kPieceBytes;
  const std::int64_t num_pieces = num_bytes / 2 / kPieceBytes;
  std::atomic<std::int64_t> next_piece{0};
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  for (std::int32_t thread = 0; thread < num_threads; ++thread) {
    threads.emplace_back([&] {
      for (std::int64_t piece = next_piece++; piece < num_pieces; piece = next_piece++) {
        const std::int64_t begin = piece % pieces_in_span * kPieceBytes;
        std::memcpy(load.target.data() + begin, load.source.data() + begin, kPieceBytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double copied_share = static_cast<double>(2 * num_pieces * kPieceBytes) / static_cast<double>(num_bytes);
  return seconds_since(start) / copied_share;  // whole pieces only: scaled to the bytes asked for
}

void bench_reanchor(benchmark::State& state, const Model& model, pikv::DType from, pikv::DType to, Pages order) {
  const auto num_threads = static_cast<std::int32_t>(std::max(1U, std::thread::hardware_concurrency()));
  const std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend({.num_threads = num_threads});
  Workload load(model, from, to, order);
  double best_copy = 1e9;
  double best_reanchor = 1e9;
  for (auto _ : state) {
    double reanchor_seconds = 1e9;
    for (std::int32_t round = 0; round < kRoundsPerIteration; ++round) {
      best_copy = std::min(best_copy, time_copy(load, load.num_bytes(), num_threads));
      const Clock::time_point start = Clock::now();
      const pikv::Status status = backend->reanchor_async(load.transfer, pikv::StreamRef::legacy_default());
      reanchor_seconds = std::min(reanchor_seconds, seconds_since(start));
      if (!status.ok()) return state.SkipWithError(status.to_string().c_str());
    }
    best_reanchor = std::min(best_reanchor, reanchor_seconds);
    state.SetIterationTime(reanchor_seconds);
  }
  const auto num_bytes = static_cast<double>(load.num_bytes());
  state.counters["threads"] = num_threads;
  state.counters["MiB"] = num_bytes / (1 << 20);
  state.counters["copy_GB/s"] = num_bytes / best_copy * 1e-9;
  state.counters["reanchor_GB/s"] = num_bytes / best_reanchor * 1e-9;
  state.counters["of_copy"] = best_copy / best_reanchor;
}

void register_all() {
  using pikv::DType;
  const std::pair<DType, DType> dtypes[] = {{DType::kBFloat16, DType::kBFloat16},
                                            {DType::kFloat32, DType::kFloat32},
                                            {DType::kFloat16, DType::kBFloat16},
                                            {DType::kFloat32, DType::kBFloat16}};
  for (const Model* model : {&kLlama8B, &kSmolLm2}) {
    for (const auto& [from, to] : dtypes) {
      for (const Pages order : {Pages::kInOrder, Pages::kShuffled}) {
        const std::string name = std::string("reanchor/") + model->name + "/" + pikv::dtype_name(from) + "-" +
                                 pikv::dtype_name(to) + (order == Pages::kInOrder ? "/in_order" : "/shuffled");
        benchmark::RegisterBenchmark(name.c_str(),
                                     [model, from = from, to = to, order](benchmark::State& state) {
                                       bench_reanchor(state, *model, from, to, order);
                                     })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(4);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
