// Scores of rows on a GPU, and the correction of their drift, against a device copy of the bytes that they read at
// least once, or move.
//
// Llama 3.1 8B's shapes: one layer of 8 KV heads of 128 in bf16, 32 query heads, shuffled pages of 16 tokens. `us` is
// the median on the device. `of_copy` is the time of the copy over that of the scoring; a copy of n bytes reads n and
// writes n, so it is given half as many as the scoring reads. What attention computes is in `TFLOP/s`, two for each
// product of an element of a query and one of a key that the query attends, counted once although scores take several
// passes.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "drift_rows.hpp"
#include "gpu.hpp"
#include "harness.hpp"
#include "pikv/drift.hpp"
#include "pikv/row_scores.hpp"

namespace {

using pikv_bench::check;
using pikv_bench::DeviceArray;
using pikv_bench::median;

constexpr pikv::KvGeometry kGeometry{
    .num_layers = 1, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};
constexpr std::int32_t kNumQueryHeads = 32;
constexpr std::int32_t kPageSize = 16;
constexpr std::int32_t kSegments = 20;

/// An array of the host's numbers.
template <class T>
class Uploaded {
 public:
  explicit Uploaded(const std::vector<T>& values) : size_(values.size()), memory_(values.size() * sizeof(T)) {
    check(cudaMemcpy(memory_.data(), values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  [[nodiscard]] std::span<T> span() const { return {reinterpret_cast<T*>(memory_.data()), size_}; }

 private:
  std::size_t size_;
  DeviceArray memory_;
};

std::vector<std::int32_t> shuffled_pages(std::int32_t num_rows) {
  std::vector<std::int32_t> pages;
  for (std::int32_t page = 0; page < num_rows / kPageSize; ++page) pages.push_back(page);
  std::mt19937 random(7);
  std::shuffle(pages.begin(), pages.end(), random);
  return pages;
}

/// A prompt's K and V. Requires: num_rows is a multiple of kPageSize.
struct Cache {
  std::int32_t num_rows;
  std::size_t side_bytes;
  DeviceArray memory;
  Uploaded<std::int32_t> pages;

  explicit Cache(std::int32_t rows)
      : num_rows(rows),
        side_bytes(static_cast<std::size_t>(kGeometry.bytes_per_token() / 2 * rows)),
        memory(2 * side_bytes),
        pages(shuffled_pages(rows)) {}
  [[nodiscard]] pikv::ConstKvView view() const { return pikv::as_const(writable()); }
  [[nodiscard]] pikv::KvView writable() const {
    return {.layout = pikv::nhd_pages(kGeometry, kPageSize, num_rows / kPageSize),
            .k_base = memory.data(),
            .v_base = memory.data() + side_bytes,
            .num_slots = num_rows,
            .space = pikv::MemorySpace::kDevice};
  }
  [[nodiscard]] pikv::SlotMap slots() const {
    return pikv::SlotMap::page_table(pages.span().data(), kPageSize, 0, num_rows);
  }
};

/// watch: older than whatever scores, whose workspace goes back to its stream.
template <class Score>
void alternate(benchmark::State& state, pikv_bench::Stopwatch& watch, std::size_t num_bytes, double num_products,
               const Score& score) {
  const DeviceArray from(num_bytes / 2);
  const DeviceArray to(num_bytes / 2);
  const pikv::StreamRef stream = pikv::cuda_stream(watch.stream());
  check(score(stream), "the first call, which takes workspace");
  std::vector<double> copies;
  std::vector<double> scores;
  for (auto _ : state) {
    copies.push_back(watch.device_seconds([&] {
      check(cudaMemcpyAsync(to.data(), from.data(), num_bytes / 2, cudaMemcpyDeviceToDevice, watch.stream()),
            "cudaMemcpyAsync");
    }));
    scores.push_back(watch.device_seconds([&] { check(score(stream), "score"); }));
    state.SetIterationTime(scores.back());
  }
  state.counters["us"] = median(scores) * 1e6;
  state.counters["of_copy"] = median(copies) / median(scores);
  state.counters["GB/s"] = static_cast<double>(num_bytes) / median(scores) * 1e-9;
  if (num_products > 0) state.counters["TFLOP/s"] = 2 * num_products / median(scores) * 1e-12;
}

struct Wanted {
  const char* name;
  bool keys;
  bool segments;
};

void attention(benchmark::State& state, pikv::Backend& backend, std::int32_t num_rows, std::int32_t num_queries,
               const Wanted& wanted) {
  pikv_bench::Stopwatch watch;
  const Cache cache(num_rows);
  constexpr std::int64_t kRowElements = std::int64_t{kNumQueryHeads} * kGeometry.head_dim;
  const DeviceArray queries(static_cast<std::size_t>(num_queries * kRowElements * 2));
  std::vector<std::int32_t> rows;
  double num_pairs = 0;
  for (std::int32_t i = 0; i < num_queries; ++i) {
    rows.push_back(num_rows - num_queries + i);
    num_pairs += rows.back() + 1;
  }
  std::vector<std::int32_t> segments;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    segments.push_back(static_cast<std::int32_t>(row * kSegments / num_rows));
  }
  const Uploaded<std::int32_t> query_rows(rows);
  const Uploaded<std::int32_t> key_segments(segments);
  const Uploaded<float> key_scores(std::vector<float>(static_cast<std::size_t>(num_rows)));
  const Uploaded<float> segment_scores(std::vector<float>(static_cast<std::size_t>(num_queries * kSegments)));
  const auto scorer = pikv::make_cuda_row_scorer({.memory = &backend.memory_resource()}).value();
  const pikv::AttentionScoring scoring{.geometry = kGeometry,
                                       .num_query_heads = kNumQueryHeads,
                                       .keys = cache.view(),
                                       .key_slots = cache.slots(),
                                       .queries = queries.data(),
                                       .query_dtype = pikv::DType::kBFloat16,
                                       .query_stride = kRowElements,
                                       .query_rows = query_rows.span(),
                                       .key_scores = wanted.keys ? key_scores.span() : std::span<float>(),
                                       .key_segments = key_segments.span(),
                                       .num_segments = kSegments,
                                       .segment_scores = wanted.segments ? segment_scores.span() : std::span<float>()};
  alternate(state, watch, cache.side_bytes + queries.size_bytes(), num_pairs * static_cast<double>(kRowElements),
            [&](pikv::StreamRef stream) { return scorer->add_attention_async(scoring, stream); });
}

pikv::RopeTable table_of(pikv::Backend& backend, std::int32_t num_rows) {
  const pikv::RopeConfig config(5e5, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(config, kGeometry.rotary_dim, num_rows).value();
  return pikv::copy_table(table, backend, backend.memory_resource()).value();
}

void deviation(benchmark::State& state, pikv::Backend& backend, std::int32_t num_rows) {
  pikv_bench::Stopwatch watch;
  const Cache cache(num_rows);
  const Cache fresh(num_rows);
  const pikv::RopeTable table = table_of(backend, num_rows);
  const Uploaded<float> scores(std::vector<float>(static_cast<std::size_t>(num_rows)));
  const auto scorer = pikv::make_cuda_row_scorer({.memory = &backend.memory_resource()}).value();
  const pikv::DeviationScoring scoring{.geometry = kGeometry,
                                       .fresh = fresh.view(),
                                       .fresh_slots = fresh.slots(),
                                       .cached = cache.view(),
                                       .cached_slots = cache.slots(),
                                       .rope = table.view(),
                                       .key_weight = 1,
                                       .value_weight = 1,
                                       .scores = scores.span()};
  alternate(state, watch, 4 * cache.side_bytes, 0,
            [&](pikv::StreamRef stream) { return scorer->add_deviation_async(scoring, stream); });
}

/// Targets are read and written, as a copy does.
void drift(benchmark::State& state, pikv::Backend& backend, std::int32_t num_rows) {
  pikv_bench::Stopwatch watch;
  const Cache cache(num_rows);
  const Cache fresh(num_rows);
  const pikv::RopeTable table = table_of(backend, num_rows);
  const pikv_bench::DriftRows rows(num_rows);
  const Uploaded<std::int32_t> sample_rows(rows.samples);
  const Uploaded<std::int32_t> target_rows(rows.targets);
  const Uploaded<float> weights(std::vector<float>(rows.num_weights(), 1e-5F));
  const auto corrector = pikv::make_cuda_drift_corrector({.memory = &backend.memory_resource()}).value();
  const pikv::DriftCorrection correction{
      .geometry = kGeometry,
      .fresh = fresh.view(),
      .fresh_slots = pikv::SlotMap::consecutive(0, static_cast<std::int64_t>(rows.samples.size())),
      .cached = cache.writable(),
      .row_slots = cache.slots(),
      .sample_rows = sample_rows.span(),
      .target_rows = target_rows.span(),
      .weights = weights.span(),
      .rope = table.view()};
  alternate(state, watch, 2 * rows.targets.size() * static_cast<std::size_t>(kGeometry.bytes_per_token()), 0,
            [&](pikv::StreamRef stream) { return corrector->correct_async(correction, stream); });
}

/// Once a request.
void drift_weights(benchmark::State& state, pikv::Backend& backend, std::int32_t num_rows) {
  pikv_bench::Stopwatch watch;
  const Cache cache(num_rows);
  const pikv::RopeTable table = table_of(backend, num_rows);
  const pikv_bench::DriftRows rows(num_rows);
  const Uploaded<std::int32_t> sample_rows(rows.samples);
  const Uploaded<std::int32_t> target_rows(rows.targets);
  const Uploaded<std::int32_t> sample_chunks(rows.sample_chunks);
  const Uploaded<std::int32_t> target_chunks(rows.target_chunks);
  const Uploaded<float> weights(std::vector<float>(rows.num_weights()));
  const auto corrector = pikv::make_cuda_drift_corrector({.memory = &backend.memory_resource()}).value();
  const pikv::DriftWeighing weighing{.geometry = kGeometry,
                                     .cached = cache.view(),
                                     .row_slots = cache.slots(),
                                     .sample_rows = sample_rows.span(),
                                     .target_rows = target_rows.span(),
                                     .sample_chunks = sample_chunks.span(),
                                     .target_chunks = target_chunks.span(),
                                     .rope = table.view(),
                                     .weights = weights.span()};
  alternate(state, watch, 2 * cache.side_bytes, 0,
            [&](pikv::StreamRef stream) { return corrector->weigh_async(weighing, stream); });
}

template <class Run>
void add(const std::string& name, const Run& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

void register_all(pikv::Backend& backend) {
  constexpr Wanted kWanted[] = {{"keys", true, false}, {"segments", false, true}, {"both", true, true}};
  for (const std::int32_t num_rows : {4'096, 16'384}) {
    for (const std::int32_t num_queries : {16, 44, 128}) {
      for (const Wanted& wanted : kWanted) {
        add("attention/" + std::to_string(num_rows) + "/queries:" + std::to_string(num_queries) + "/" + wanted.name,
            [=, &backend](benchmark::State& state) { attention(state, backend, num_rows, num_queries, wanted); });
      }
    }
    add("deviation/" + std::to_string(num_rows),
        [=, &backend](benchmark::State& state) { deviation(state, backend, num_rows); });
    add("drift/" + std::to_string(num_rows),
        [=, &backend](benchmark::State& state) { drift(state, backend, num_rows); });
    add("drift_weights/" + std::to_string(num_rows),
        [=, &backend](benchmark::State& state) { drift_weights(state, backend, num_rows); });
  }
  add("attention/8192/queries:8192/segments", [&backend](benchmark::State& state) {
    attention(state, backend, 8'192, 8'192, {"segments", false, true});
  });
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_backend_benchmarks(argc, argv, register_all); }
