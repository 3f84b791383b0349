// Scores of rows on the CPU, and the correction of their drift, against a plain copy of the bytes that they read or
// move.
//
// Every iteration alternates the copy, on one thread, and the scoring, and the best of each counts: other load on the
// machine then hits both alike. `of_copy` is the time of the copy over that of the scoring. Attention computes much
// more than it reads; what it computes is in `GFLOP/s`, two for each product of an element of a query and one of a key
// that the query attends.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "drift_rows.hpp"
#include "pikv/drift.hpp"
#include "pikv/row_scores.hpp"

namespace {

using Clock = std::chrono::steady_clock;

// SmolLM2-135M's shapes; one layer, which is what one call scores.
constexpr pikv::KvGeometry kGeometry{
    .num_layers = 1, .num_kv_heads = 3, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kFloat32};
constexpr std::int32_t kNumQueryHeads = 9;
constexpr std::int32_t kPageSize = 16;
const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

pikv::KvGeometry stored_as(pikv::DType dtype) {
  pikv::KvGeometry geometry = kGeometry;
  geometry.dtype = dtype;
  return geometry;
}

/// A prompt in a cache of shuffled pages. Finite normal numbers in every format, none of them alike in fp32.
struct Workload {
  pikv::KvGeometry geometry;
  std::int32_t num_rows;
  std::vector<std::int32_t> pages;
  std::vector<std::byte> keys;
  std::vector<std::byte> values;
  std::vector<std::byte> copy;
  pikv::KvView writable;
  pikv::ConstKvView view;

  Workload(pikv::DType dtype, std::int32_t rows) : geometry(stored_as(dtype)), num_rows(rows) {
    const std::int32_t num_pages = (rows + kPageSize - 1) / kPageSize;
    for (std::int32_t page = 0; page < num_pages; ++page) pages.push_back(page);
    std::mt19937 random(7);
    std::shuffle(pages.begin(), pages.end(), random);
    const std::int64_t side_bytes = geometry.bytes_per_token() / 2 * num_pages * kPageSize;
    keys.resize(static_cast<std::size_t>(side_bytes));
    for (std::byte& byte : keys) byte = static_cast<std::byte>(0x30U + random() % 16);
    values = keys;
    copy = keys;
    writable = {.layout = pikv::nhd_pages(geometry, kPageSize, num_pages),
                .k_base = keys.data(),
                .v_base = values.data(),
                .num_slots = std::int64_t{num_pages} * kPageSize};
    view = pikv::as_const(writable);
  }
  [[nodiscard]] pikv::SlotMap slots() const { return pikv::SlotMap::page_table(pages.data(), kPageSize, 0, num_rows); }
};

template <class Work>
double seconds_of(const Work& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Alternates `score` and a copy of the keys `num_copies` times.
template <class Score>
void alternate(benchmark::State& state, Workload& load, int num_copies, double num_products, const Score& score) {
  double best_copy = 1e9;
  double best_score = 1e9;
  for (auto _ : state) {
    best_copy = std::min(best_copy, seconds_of([&] {
                           for (int i = 0; i < num_copies; ++i) {
                             std::memcpy(load.copy.data(), load.keys.data(), load.keys.size());
                             benchmark::ClobberMemory();
                           }
                         }));
    pikv::Status status;
    const double seconds = seconds_of([&] { status = score(); });
    if (!status.ok()) return state.SkipWithError(status.to_string().c_str());
    best_score = std::min(best_score, seconds);
    state.SetIterationTime(seconds);
  }
  state.counters["us"] = best_score * 1e6;
  state.counters["of_copy"] = best_copy / best_score;
  if (num_products > 0) state.counters["GFLOP/s"] = 2 * num_products / best_score * 1e-9;
}

void attention(benchmark::State& state, pikv::DType dtype, std::int32_t num_rows, std::int32_t num_queries,
               std::int32_t num_threads) {
  Workload load(dtype, num_rows);
  constexpr std::int32_t kSegments = 12;
  const std::int64_t row_elements = std::int64_t{kNumQueryHeads} * kGeometry.head_dim;
  std::vector<float> queries(static_cast<std::size_t>(num_queries * row_elements));
  std::mt19937 random(3);
  for (float& query : queries) query = std::normal_distribution<float>()(random);
  std::vector<std::int32_t> query_rows;
  double num_pairs = 0;
  for (std::int32_t i = 0; i < num_queries; ++i) {
    query_rows.push_back(num_rows - num_queries + i);
    num_pairs += query_rows.back() + 1;
  }
  std::vector<std::int32_t> segments;
  for (std::int32_t row = 0; row < num_rows; ++row) segments.push_back(row * kSegments / num_rows);
  std::vector<float> key_scores(static_cast<std::size_t>(num_rows));
  std::vector<float> segment_scores(static_cast<std::size_t>(num_queries * kSegments));
  const auto scorer = pikv::make_cpu_row_scorer(num_threads);
  alternate(state, load, 1, num_pairs * static_cast<double>(row_elements), [&] {
    return scorer->add_attention_async({.geometry = load.geometry,
                                        .num_query_heads = kNumQueryHeads,
                                        .keys = load.view,
                                        .key_slots = load.slots(),
                                        .queries = queries.data(),
                                        .query_stride = row_elements,
                                        .query_rows = query_rows,
                                        .key_scores = key_scores,
                                        .key_segments = segments,
                                        .num_segments = kSegments,
                                        .segment_scores = segment_scores},
                                       kStream);
  });
}

void deviation(benchmark::State& state, pikv::DType dtype, std::int32_t num_rows, std::int32_t num_threads) {
  Workload load(dtype, num_rows);
  Workload fresh(dtype, num_rows);
  const pikv::RopeTable table =
      pikv::RopeTable::build(pikv::RopeConfig(1e5, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                             kGeometry.rotary_dim, num_rows)
          .value();
  std::vector<float> scores(static_cast<std::size_t>(num_rows));
  const auto scorer = pikv::make_cpu_row_scorer(num_threads);
  alternate(state, load, 4, 0, [&] {
    return scorer->add_deviation_async({.geometry = load.geometry,
                                        .fresh = fresh.view,
                                        .fresh_slots = fresh.slots(),
                                        .cached = load.view,
                                        .cached_slots = load.slots(),
                                        .rope = table.view(),
                                        .key_weight = 1,
                                        .value_weight = 1,
                                        .scores = scores},
                                       kStream);
  });
}

pikv::RopeTable drift_table(std::int32_t num_rows) {
  return pikv::RopeTable::build(pikv::RopeConfig(1e5, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                                kGeometry.rotary_dim, num_rows)
      .value();
}

/// Targets are read and written.
void drift(benchmark::State& state, pikv::DType dtype, std::int32_t num_rows, std::int32_t num_threads) {
  Workload load(dtype, num_rows);
  const Workload fresh(dtype, num_rows);
  const pikv::RopeTable table = drift_table(num_rows);
  const pikv_bench::DriftRows rows(num_rows);
  // So small that thousands of calls stay within the range of every format.
  const std::vector<float> weights(rows.num_weights(), 1e-5F);
  const auto corrector = pikv::make_cpu_drift_corrector(num_threads);
  alternate(state, load, 4, 0, [&] {
    return corrector->correct_async(
        {.geometry = load.geometry,
         .fresh = fresh.view,
         .fresh_slots = pikv::SlotMap::consecutive(0, static_cast<std::int64_t>(rows.samples.size())),
         .cached = load.writable,
         .row_slots = load.slots(),
         .sample_rows = rows.samples,
         .target_rows = rows.targets,
         .weights = weights,
         .rope = table.view()},
        kStream);
  });
}

void drift_weights(benchmark::State& state, pikv::DType dtype, std::int32_t num_rows, std::int32_t num_threads) {
  Workload load(dtype, num_rows);
  const pikv::RopeTable table = drift_table(num_rows);
  const pikv_bench::DriftRows rows(num_rows);
  std::vector<float> weights(rows.num_weights());
  const auto corrector = pikv::make_cpu_drift_corrector(num_threads);
  alternate(state, load, 2, 0, [&] {
    return corrector->weigh_async({.geometry = load.geometry,
                                   .cached = load.view,
                                   .row_slots = load.slots(),
                                   .sample_rows = rows.samples,
                                   .target_rows = rows.targets,
                                   .sample_chunks = rows.sample_chunks,
                                   .target_chunks = rows.target_chunks,
                                   .rope = table.view(),
                                   .weights = weights},
                                  kStream);
  });
}

template <class Run>
void add(const std::string& name, const Run& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  using pikv::DType;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const std::int32_t num_threads : {1, 2}) {
      const std::string tail = std::string("/") + dtype_name(dtype) + "/threads:" + std::to_string(num_threads);
      for (const std::int32_t num_queries : {44, 1400}) {
        add("attention/1400/queries:" + std::to_string(num_queries) + tail,
            [=](benchmark::State& state) { attention(state, dtype, 1400, num_queries, num_threads); });
      }
      add("deviation/1400" + tail, [=](benchmark::State& state) { deviation(state, dtype, 1400, num_threads); });
      add("drift/1400" + tail, [=](benchmark::State& state) { drift(state, dtype, 1400, num_threads); });
      add("drift_weights/1400" + tail,
          [=](benchmark::State& state) { drift_weights(state, dtype, 1400, num_threads); });
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
