// Re-anchoring on the CPU against a plain copy of the same bytes.
//
// Every iteration alternates the copy and the re-anchoring of one transfer, both on the same number of threads, and the
// best of each counts: other load on the machine then hits both alike. The copy is the faster of memcpy and of stores
// that bypass the cache. Bytes are those read plus those written; where source and target differ in size, the copy
// moves as many in all. `of_copy` is the rate of re-anchoring over the rate of the copy; `of_copy_cpu` is the same by
// processor time, which on a machine busy with other work is the steadier figure.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/select_row_kernels.hpp"
#include "pikv/backend.hpp"
#include "support/layouts.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int32_t kPageSize = 16;
constexpr std::int64_t kSideBytes = std::int64_t{256} << 20;  // of the larger side, beyond any last-level cache here

enum class Pages { kInOrder, kShuffled };

struct Model {
  const char* name;
  pikv::KvGeometry geometry;
  double theta;
};

const Model kLlama8B{
    "llama-3.1-8b", {.num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128}, 500000.0};
const Model kSmolLm2{"smollm2-135m", {.num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .rotary_dim = 64}, 100000.0};

/// Source slab and target pages of one model, the larger about kSideBytes, all of it touched.
struct Workload {
  pikv::KvGeometry geometry;
  std::int64_t num_tokens;
  std::vector<std::int32_t> pages;
  std::mt19937 random{7};
  test_support::Placement source_placement;
  test_support::Placement target_placement;
  pikv::Buffer source;
  pikv::Buffer target;
  test_support::PlacedView source_view;
  test_support::PlacedView target_view;
  pikv::RopeTable table;
  pikv::KvRun run;
  pikv::KvTransfer transfer;

  Workload(const Model& model, pikv::DType from, pikv::DType to, test_support::LayoutKind layout, Pages order)
      : geometry(model.geometry),
        num_tokens(tokens_for(model.geometry, from, to)),
        pages(make_pages(num_tokens / kPageSize, order)),
        source_placement(place(test_support::LayoutKind::kSlab, stored_as(geometry, from), 1, num_tokens, random)),
        target_placement(place(layout, stored_as(geometry, to), kPageSize, num_tokens, random)),
        source(allocate(source_placement.num_elements * pikv::dtype_bytes(from))),
        target(allocate(target_placement.num_elements * pikv::dtype_bytes(to))),
        source_view(source_placement, geometry.num_layers, source.data()),
        target_view(target_placement, geometry.num_layers, target.data()),
        table(pikv::RopeTable::build(pikv::RopeConfig(model.theta, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                                     geometry.rotary_dim, static_cast<std::int32_t>(num_tokens))
                  .value()) {
    // Finite normal numbers in every format.
    std::memset(source.data(), 0x3C, source.size_bytes());
    std::memset(target.data(), 0, target.size_bytes());
    run.source = pikv::as_const(source_view.view());
    run.source_slots = pikv::SlotMap::consecutive(0, num_tokens);
    run.target_slots = pikv::SlotMap::page_table(pages.data(), kPageSize, 0, num_tokens);
    transfer.geometry = stored_as(geometry, to);
    transfer.runs = {&run, 1};
    transfer.target = target_view.view();
    transfer.rope = table.view();
    transfer.layer_end = geometry.num_layers;
  }
  Workload(const Workload&) = delete;
  Workload& operator=(const Workload&) = delete;

  [[nodiscard]] std::int64_t num_bytes() const {
    return num_tokens * geometry.elements_per_token() *
           (pikv::dtype_bytes(source_placement.layout.dtype) + pikv::dtype_bytes(target_placement.layout.dtype));
  }

 private:
  static pikv::KvGeometry stored_as(pikv::KvGeometry geometry, pikv::DType dtype) {
    geometry.dtype = dtype;
    return geometry;
  }

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

/// Elapsed and processor time of this process.
struct Timing {
  double wall = 1e9;
  double cpu = 1e9;

  [[nodiscard]] Timing best(const Timing& other) const {
    return {std::min(wall, other.wall), std::min(cpu, other.cpu)};
  }
};

class Stopwatch {
 public:
  [[nodiscard]] Timing read() const {
    return {std::chrono::duration<double>(Clock::now() - wall_).count(), cpu_seconds() - cpu_};
  }

 private:
  static double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
  }

  Clock::time_point wall_ = Clock::now();
  double cpu_ = cpu_seconds();
};

enum class Copy { kMemcpy, kStreamed };

void copy_piece(Copy how, std::byte* target, const std::byte* source, std::int64_t size_bytes) {
  if (how == Copy::kMemcpy) {
    std::memcpy(target, source, static_cast<std::size_t>(size_bytes));
    return;
  }
  const pikv::cpu::RowKernels& kernels = *pikv::cpu::supported_row_kernels().back();
  kernels.elements[pikv::cpu::kStream][0][0](source, target, size_bytes / 4);  // as fp32
  kernels.finish_streaming();
}

/// Copies half of `num_bytes` on `num_threads` threads, which take pieces as they get to them, as the backend's do:
/// with a fixed share each, the copy would wait for whichever thread other load on the machine slows down.
Timing time_copy(Workload& load, Copy how, std::int32_t num_threads) {
  constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;
  // Where the two sides differ in size, the copy stays within the smaller and starts over.
  const auto span = static_cast<std::int64_t>(std::min(load.source.size_bytes(), load.target.size_bytes()));
  const std::int64_t pieces_in_span = span / kPieceBytes;
  const std::int64_t num_pieces = load.num_bytes() / 2 / kPieceBytes;
  std::atomic<std::int64_t> next_piece{0};
  const Stopwatch stopwatch;
  std::vector<std::thread> threads;
  for (std::int32_t thread = 0; thread < num_threads; ++thread) {
    threads.emplace_back([&] {
      for (std::int64_t piece = next_piece++; piece < num_pieces; piece = next_piece++) {
        const std::int64_t begin = piece % pieces_in_span * kPieceBytes;
        copy_piece(how, load.target.data() + begin, load.source.data() + begin, kPieceBytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Timing timing = stopwatch.read();
  // Only whole pieces were copied; scaled to the bytes asked for.
  const double scale = static_cast<double>(load.num_bytes()) / static_cast<double>(2 * num_pieces * kPieceBytes);
  return {timing.wall * scale, timing.cpu * scale};
}

struct Setting {
  const Model* model;
  pikv::DType from;
  pikv::DType to;
  test_support::LayoutKind layout;
  Pages order;
};

void bench_reanchor(benchmark::State& state, const Setting& setting) {
  const auto num_threads = static_cast<std::int32_t>(std::max(1U, std::thread::hardware_concurrency()));
  const std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend({.num_threads = num_threads});
  Workload load(*setting.model, setting.from, setting.to, setting.layout, setting.order);
  Timing memcpy_time;
  Timing streamed_time;
  Timing reanchor_time;
  for (auto _ : state) {
    memcpy_time = memcpy_time.best(time_copy(load, Copy::kMemcpy, num_threads));
    streamed_time = streamed_time.best(time_copy(load, Copy::kStreamed, num_threads));
    const Stopwatch stopwatch;
    const pikv::Status status = backend->reanchor_async(load.transfer, pikv::StreamRef::legacy_default());
    const Timing timing = stopwatch.read();
    if (!status.ok()) return state.SkipWithError(status.to_string().c_str());
    reanchor_time = reanchor_time.best(timing);
    state.SetIterationTime(timing.wall);
  }
  const Timing copy_time = memcpy_time.best(streamed_time);
  const auto num_bytes = static_cast<double>(load.num_bytes());
  state.counters["threads"] = num_threads;
  state.counters["MiB"] = num_bytes / (1 << 20);
  state.counters["memcpy_GB/s"] = num_bytes / memcpy_time.wall * 1e-9;
  state.counters["streamed_GB/s"] = num_bytes / streamed_time.wall * 1e-9;
  state.counters["reanchor_GB/s"] = num_bytes / reanchor_time.wall * 1e-9;
  state.counters["of_memcpy"] = memcpy_time.wall / reanchor_time.wall;
  state.counters["of_copy"] = copy_time.wall / reanchor_time.wall;
  state.counters["of_memcpy_cpu"] = memcpy_time.cpu / reanchor_time.cpu;
  state.counters["of_copy_cpu"] = copy_time.cpu / reanchor_time.cpu;
}

void register_one(const Setting& setting) {
  const std::string name = std::string("reanchor/") + setting.model->name + "/" + pikv::dtype_name(setting.from) + "-" +
                           pikv::dtype_name(setting.to) + "/" + test_support::layout_name(setting.layout) +
                           (setting.order == Pages::kInOrder ? "/in_order" : "/shuffled");
  benchmark::RegisterBenchmark(name.c_str(), [setting](benchmark::State& state) { bench_reanchor(state, setting); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

void register_all() {
  using pikv::DType;
  using test_support::LayoutKind;
  const std::pair<DType, DType> dtypes[] = {{DType::kBFloat16, DType::kBFloat16},
                                            {DType::kFloat32, DType::kFloat32},
                                            {DType::kFloat16, DType::kBFloat16},
                                            {DType::kFloat32, DType::kBFloat16}};
  for (const Model* model : {&kLlama8B, &kSmolLm2}) {
    for (const auto& [from, to] : dtypes) {
      for (const Pages order : {Pages::kInOrder, Pages::kShuffled}) {
        register_one({model, from, to, LayoutKind::kFusedNhd, order});
      }
    }
    for (const LayoutKind layout : {LayoutKind::kHnd, LayoutKind::kPackedNhd, LayoutKind::kTransposedValues}) {
      register_one({model, DType::kBFloat16, DType::kBFloat16, layout, Pages::kShuffled});
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
