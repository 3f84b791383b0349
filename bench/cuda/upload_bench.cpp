// Chunks in page-locked host memory to an engine's pages, layer by layer, under an engine that computes: Llama 3.1 8B
// geometry, eight chunks of 512 tokens, in a shuffled order of pages.
//
// Counters, of medians over all iterations:
//   GB/s       bytes of the chunks over the time from start to the last layer in its pages
//   of_pcie    that rate over the rate of one large copy from the same memory, in this run
//   hidden     with a compute kernel of equal length a layer: the share of the upload's time that the engine did not
//   see
#include <array>
#include <numeric>
#include <random>
#include <string>

#include "gpu.hpp"
#include "pikv/pikv.hpp"

namespace {

using pikv_bench::check;
using pikv_bench::DeviceArray;
using pikv_bench::median;
using pikv_bench::Stopwatch;

constexpr std::int32_t kPageSize = 16;
constexpr std::int64_t kChunkTokens = 512;
constexpr std::int64_t kNumChunks = 8;
constexpr std::int64_t kQuestionTokens = 16;
constexpr std::int64_t kRows = kChunkTokens * kNumChunks + kQuestionTokens;
constexpr pikv::KvGeometry kGeometry{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};

std::vector<pikv::TokenId> made_up_tokens(std::int64_t first, std::int64_t count) {
  std::vector<pikv::TokenId> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), static_cast<pikv::TokenId>(first));
  return tokens;
}

/// A store in page-locked memory, a prompt of its chunks, and pages to put them in.
struct World {
  std::unique_ptr<pikv::MemoryResource> pinned;
  std::unique_ptr<pikv::Store> store;
  std::unique_ptr<pikv::ChunkKeyer> keyer;
  std::unique_ptr<pikv::Composer> composer;
  std::unique_ptr<pikv::Composition> composition;
  std::vector<pikv::ChunkHandle> chunks;
  DeviceArray cache;
  DeviceArray pages;
  pikv::KvView view;

  World(pikv::Backend& backend, pikv::SlabFormat format)
      : cache(static_cast<std::size_t>(num_slots() * kGeometry.bytes_per_token())),
        pages(static_cast<std::size_t>(num_slots() / kPageSize) * sizeof(std::int32_t)) {
    pinned = pikv::make_cuda_pinned_memory().value();
    pikv::StoreOptions options{.geometry = kGeometry, .capacity_bytes = std::int64_t{2} << 30};
    options.memory = pinned.get();
    options.encoding = {.format = format, .key_bias = nullptr};
    store = pikv::Store::create(std::move(options)).value();
    const pikv::RopeConfig rope(500000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
    const std::array<std::byte, 32> secret{};
    keyer = std::make_unique<pikv::ChunkKeyer>(
        pikv::ChunkKeyer::create({pikv::ModelFingerprint{}, kGeometry, rope, "private:bench", secret}).value());
    const pikv::RopeTable host = pikv::RopeTable::build(rope, kGeometry.rotary_dim, 8192).value();
    const pikv::RopeTable table = pikv::copy_table(host, backend, backend.memory_resource()).value();
    composer = std::make_unique<pikv::Composer>(pikv::Composer::create(*store, backend, *keyer, table).value());

    pikv::Prompt prompt;
    for (std::int64_t chunk = 0; chunk < kNumChunks; ++chunk) {
      const std::vector<pikv::TokenId> tokens = made_up_tokens(chunk * kChunkTokens, kChunkTokens);
      const pikv::ChunkRecipe recipe = pikv::ChunkRecipe::alone();
      pikv::ChunkWriter writer = store->begin_insert(keyer->key(recipe, tokens), recipe, tokens).value();
      const std::int64_t slab_bytes =
          pikv::slab_sections(kGeometry, format, kChunkTokens).slab_bytes(kGeometry.num_layers);
      std::fill_n(writer.slab().data, slab_bytes, std::byte{0x2C});
      chunks.push_back(writer.commit().value());
      prompt.add_chunk(tokens, recipe);
    }
    prompt.add_fresh(made_up_tokens(1 << 20, kQuestionTokens));
    composition = std::make_unique<pikv::Composition>(composer->compose(prompt).value());

    std::vector<std::int32_t> order(pages.size_bytes() / sizeof(std::int32_t));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    check(cudaMemcpy(pages.data(), order.data(), pages.size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    view.layout = pikv::nhd_pages(kGeometry, kPageSize, num_slots() / kPageSize);
    view.k_base = cache.data();
    view.v_base = cache.data() + cache.size_bytes() / 2;
    view.num_slots = num_slots();
    view.space = pikv::MemorySpace::kDevice;
  }

  [[nodiscard]] pikv::SlotMap rows() const {
    return pikv::SlotMap::page_table(reinterpret_cast<const std::int32_t*>(pages.data()), kPageSize, 0, kRows);
  }
  [[nodiscard]] std::int64_t chunk_bytes() const {
    std::int64_t bytes = 0;
    for (const pikv::ChunkHandle& chunk : chunks) bytes += static_cast<std::int64_t>(chunk->slab().size());
    return bytes;
  }

 private:
  static constexpr std::int64_t num_slots() { return (kRows + kPageSize - 1) / kPageSize * kPageSize; }
};

void bench(benchmark::State& state, pikv::Backend& backend, pikv::SlabFormat format) {
  const World world(backend, format);
  const std::int64_t slot_bytes = 4 * pikv::LayerPipeline::required_slot_bytes(*world.composition);
  pikv::LayerPipeline pipeline =
      pikv::LayerPipeline::create(backend, kGeometry, {.slot_bytes = slot_bytes, .num_slots = 3, .memory = nullptr})
          .value();
  DeviceArray landing(world.chunks[0]->slab().size());
  Stopwatch watch;
  const auto stream = pikv::cuda_stream(watch.stream());
  const auto place = [&](int compute_microseconds) {
    check(pipeline.start(*world.composition, world.view, world.rows(), stream), "start");
    for (std::int32_t layer = 0; layer < kGeometry.num_layers; ++layer) {
      check(pipeline.wait_layer(layer, stream), "wait_layer");
      if (compute_microseconds > 0) check(pikv_bench::spin(compute_microseconds, watch.stream()), "spin");
    }
  };
  const auto compute = [&](int microseconds) {
    for (std::int32_t layer = 0; layer < kGeometry.num_layers; ++layer) {
      check(pikv_bench::spin(microseconds, watch.stream()), "spin");
    }
  };
  const auto copy = [&] {  // the same bytes, in one copy a chunk
    for (const pikv::ChunkHandle& chunk : world.chunks) {
      check(cudaMemcpyAsync(landing.data(), chunk->slab().data(), chunk->slab().size(), cudaMemcpyHostToDevice,
                            watch.stream()),
            "cudaMemcpyAsync");
    }
  };
  (void)watch.eager_seconds([&] { place(0); });
  (void)watch.eager_seconds(copy);
  const auto layer_microseconds = static_cast<int>(watch.eager_seconds([&] { place(0); }) * 1e6 / kGeometry.num_layers);
  std::vector<double> copies;
  std::vector<double> uploads;
  std::vector<double> computes;
  std::vector<double> totals;
  for (auto _ : state) {
    copies.push_back(watch.eager_seconds(copy));
    uploads.push_back(watch.eager_seconds([&] { place(0); }));
    computes.push_back(watch.eager_seconds([&] { compute(layer_microseconds); }));
    totals.push_back(watch.eager_seconds([&] { place(layer_microseconds); }));
    state.SetIterationTime(uploads.back());
  }
  const auto num_bytes = static_cast<double>(world.chunk_bytes());
  state.counters["MB"] = num_bytes * 1e-6;
  state.counters["GB/s"] = num_bytes / median(uploads) * 1e-9;
  state.counters["pcie_GB/s"] = num_bytes / median(copies) * 1e-9;
  state.counters["of_pcie"] = median(copies) / median(uploads);
  state.counters["upload_ms"] = median(uploads) * 1e3;
  state.counters["compute_ms"] = median(computes) * 1e3;
  state.counters["both_ms"] = median(totals) * 1e3;
  state.counters["hidden"] = 1 - (median(totals) - median(computes)) / median(uploads);
}

void register_all(pikv::Backend& backend) {
  using pikv::SlabFormat;
  for (const SlabFormat format : {SlabFormat::kPlain, SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
    const std::string name = std::string("upload/") +
                             (format == SlabFormat::kPlain ? "bf16" : slab_format_name(format)) + "/" +
                             std::to_string(kNumChunks * kChunkTokens);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [&backend, format](benchmark::State& state) { bench(state, backend, format); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_backend_benchmarks(argc, argv, register_all); }
