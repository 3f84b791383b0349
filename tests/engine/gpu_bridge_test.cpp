// Reuse on the GPU against the same reuse on the CPU: the same chunks, prompts and weights, wherever chunks lie.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/gpu/gpu_model.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weights.hpp"
#include "pikv/cuda.hpp"
#include "support/gpu_runs.hpp"

namespace {

using mini_engine::ChunkServer;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Prefill;
using mini_engine::ReuseOptions;
using mini_engine::Sequence;
using mini_engine::TokenId;
using test_support::distance;
using test_support::has_gpu;

constexpr int kPageSize = 16;
constexpr int kPages = 128;
constexpr std::array<std::byte, 32> kFingerprint{};
const std::vector<std::byte> kSecret(32);

ModelConfig small_config() {
  ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 128;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.ffn_size = 256;
  config.vocab_size = 512;
  config.max_positions = 1024;
  return config;
}

std::vector<TokenId> made_up_tokens(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 512);
  return tokens;
}

enum class Place { kDevice, kPinned };

/// The same model on both, each with a server of its own.
class World {
 public:
  World(Precision precision, Place place, pikv::SlabFormat format)
      : cpu(mini_engine::CpuModel::random(small_config(), 7, {.weights = precision, .num_threads = 2})),
        gpu([&] {
          mini_engine::ThreadPool pool(2);
          return mini_engine::gpu::GpuModel::copy_of(small_config(),
                                                     mini_engine::Weights::random(small_config(), 7, precision, pool),
                                                     {.precision = precision});
        }()),
        cpu_cache(small_config(), precision, kPages, kPageSize),
        gpu_cache(mini_engine::gpu::make_device_cache(small_config(), precision, kPages, kPageSize)),
        backend_(mini_engine::take(pikv::make_cuda_backend())),
        scorer_(mini_engine::take(pikv::make_cuda_row_scorer({.memory = &backend_->memory_resource()}))),
        corrector_(mini_engine::take(pikv::make_cuda_drift_corrector({.memory = &backend_->memory_resource()}))),
        pinned_(mini_engine::take(pikv::make_cuda_pinned_memory(std::size_t{1} << 20))) {
    mini_engine::ChunkServerOptions options{
        .capacity_bytes = 64 << 20,
        .store_dtype = precision == Precision::kFloat32 ? pikv::DType::kFloat32 : pikv::DType::kBFloat16,
        .encoding = {.format = format},
        .secret = kSecret,
        .num_threads = 2};
    on_cpu.emplace(cpu, cpu_cache, kFingerprint, options);
    options.device = {.backend = backend_.get(),
                      .chunk_memory = place == Place::kPinned ? pinned_.get() : nullptr,
                      .scorer = scorer_.get(),
                      .corrector = corrector_.get(),
                      .stream = pikv::cuda_stream(gpu.stream())};
    on_gpu.emplace(gpu, gpu_cache, kFingerprint, options);
  }

  void encode(const std::vector<TokenId>& tokens) {
    CHECK(on_cpu->encode_chunk(tokens, {}));
    CHECK(on_gpu->encode_chunk(tokens, {}));
  }
  [[nodiscard]] Prefill prefill_on_gpu(const pikv::Prompt& prompt, const ReuseOptions& reuse = {}) {
    Sequence sequence(gpu_cache);
    return on_gpu->prefill(prompt, sequence, reuse);
  }
  [[nodiscard]] Prefill prefill_on_cpu(const pikv::Prompt& prompt, const ReuseOptions& reuse = {}) {
    Sequence sequence(cpu_cache);
    return on_cpu->prefill(prompt, sequence, reuse);
  }

  mini_engine::CpuModel cpu;
  mini_engine::gpu::GpuModel gpu;
  PagedCache cpu_cache;
  PagedCache gpu_cache;

 private:
  std::unique_ptr<pikv::Backend> backend_;
  std::unique_ptr<pikv::RowScorer> scorer_;
  std::unique_ptr<pikv::DriftCorrector> corrector_;
  std::unique_ptr<pikv::MemoryResource> pinned_;

 public:
  std::optional<ChunkServer> on_cpu;
  std::optional<ChunkServer> on_gpu;
};

struct Documents {
  std::vector<TokenId> system = made_up_tokens(21, 1);
  std::vector<std::vector<TokenId>> chunks{made_up_tokens(100, 2), made_up_tokens(33, 3), made_up_tokens(65, 4)};
  std::vector<TokenId> question = made_up_tokens(19, 5);

  [[nodiscard]] pikv::Prompt prompt(const std::vector<std::size_t>& order) const {
    pikv::Prompt prompt;
    prompt.add_fresh(system);
    for (const std::size_t i : order) prompt.add_chunk(chunks[i], pikv::ChunkRecipe::alone());
    prompt.add_fresh(question);
    return prompt;
  }
};

TEST_CASE("composed prompts give the CPU's logits from every place and in every order") {
  if (!has_gpu()) return;
  const Documents documents;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const Place place : {Place::kDevice, Place::kPinned}) {
      for (const pikv::SlabFormat format : {pikv::SlabFormat::kPlain, pikv::SlabFormat::kFloat8}) {
        CAPTURE(static_cast<int>(precision));
        CAPTURE(static_cast<int>(place));
        CAPTURE(static_cast<int>(format));
        World world(precision, place, format);
        for (const std::vector<TokenId>& chunk : documents.chunks) world.encode(chunk);
        // Where K and V differ in the last bit, eight-bit numbers may differ in theirs.
        const double bound = format != pikv::SlabFormat::kPlain ? 4e-2 : precision == Precision::kFloat32 ? 1e-4 : 2e-2;
        for (const std::vector<std::size_t>& order :
             {std::vector<std::size_t>{0, 1, 2}, {2, 0, 1}, {1, 2, 0}, {2, 0, 1}}) {
          for (const std::int32_t repaired : {0, 7}) {
            CAPTURE(repaired);
            const pikv::Prompt prompt = documents.prompt(order);
            const std::unique_ptr<pikv::RepairPolicy> repair =
                repaired == 0 ? nullptr : mini_engine::take(pikv::make_first_rows_repair({.num_rows = repaired}));
            const ReuseOptions reuse{.repair = repair.get()};
            const Prefill expected = world.prefill_on_cpu(prompt, reuse);
            const Prefill given = world.prefill_on_gpu(prompt, reuse);
            CHECK(given.plan.stats().approximate_tokens == expected.plan.stats().approximate_tokens);
            CHECK(given.plan.stats().repaired_tokens == 3 * repaired);
            CHECK(given.plan.stats().exact_prefix_tokens == expected.plan.stats().exact_prefix_tokens);
            CHECK(distance(given.logits, expected.logits) < bound);
          }
        }
      }
    }
  }
}

TEST_CASE("every way of repair chooses the CPU's rows, at the CPU's cost, and gives its logits") {
  if (!has_gpu()) return;
  const Documents documents;
  for (const Place place : {Place::kDevice, Place::kPinned}) {
    CAPTURE(static_cast<int>(place));
    World world(Precision::kFloat32, place, pikv::SlabFormat::kPlain);
    for (const std::vector<TokenId>& chunk : documents.chunks) world.encode(chunk);
    for (const std::string spec :
         {"first:7", "ends:3", "blend:0.2", "prophet:0.2", "attended-deviation:0.2", "budget:0,most=0.3"}) {
      const std::unique_ptr<pikv::RepairPolicy> repair = mini_engine::take(pikv::make_repair_policy(spec));
      for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2}, {2, 0, 1}}) {
        CAPTURE(spec);
        CAPTURE(order[0]);
        const pikv::Prompt prompt = documents.prompt(order);
        const ReuseOptions reuse{.repair = repair.get()};
        const Prefill expected = world.prefill_on_cpu(prompt, reuse);
        const Prefill given = world.prefill_on_gpu(prompt, reuse);
        CHECK(given.plan.stats().repaired_tokens > 0);
        CHECK(std::ranges::equal(given.plan.repaired_rows(), expected.plan.repaired_rows()));
        CHECK(given.plan.stats().exact_prefix_tokens == expected.plan.stats().exact_prefix_tokens);
        CHECK(given.repair.num_passes == expected.repair.num_passes);
        CHECK(given.repair.row_layers == expected.repair.row_layers);
        CHECK(distance(given.logits, expected.logits) < 1e-4);
        // Again, from the exact prefix that the first time left.
        CHECK(distance(world.prefill_on_gpu(prompt, reuse).logits, expected.logits) < 1e-4);
      }
    }
  }
}

TEST_CASE("an exact prefix that the GPU captured is what it computed, bit for bit") {
  if (!has_gpu()) return;
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    for (const Place place : {Place::kDevice, Place::kPinned}) {
      World world(precision, place, pikv::SlabFormat::kPlain);
      pikv::Prompt prompt;
      prompt.add_fresh(made_up_tokens(200, 8));
      Sequence computed(world.gpu_cache);
      (void)world.on_gpu->prefill(prompt, computed, {});
      Sequence placed(world.gpu_cache);
      const Prefill second = world.on_gpu->prefill(prompt, placed, {});
      CHECK(second.plan.stats().exact_prefix_tokens == 192);
      std::vector<std::byte> all(world.gpu_cache.size_bytes());
      REQUIRE(cudaMemcpy(all.data(), world.gpu_cache.data(), all.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
      const PagedCache::Strides& strides = world.gpu_cache.strides();
      const std::size_t element = precision == Precision::kFloat32 ? 4 : 2;
      const auto row_of = [&](const Sequence& sequence, int layer, std::size_t row) {
        const auto slot = sequence.slots()[row];
        return all.begin() +
               static_cast<std::ptrdiff_t>(element) *
                   (layer * strides.layer + slot / kPageSize * strides.page + slot % kPageSize * strides.token);
      };
      const auto row_bytes = static_cast<std::ptrdiff_t>(element) * strides.token;
      const auto value_bytes = static_cast<std::ptrdiff_t>(element) * strides.value_offset;
      bool are_equal = true;
      for (int layer = 0; layer < 3; ++layer) {
        for (std::size_t row = 0; row < 192; ++row) {
          const auto a = row_of(computed, layer, row);
          const auto b = row_of(placed, layer, row);
          are_equal = are_equal && std::equal(a, a + row_bytes, b) &&
                      std::equal(a + value_bytes, a + value_bytes + row_bytes, b + value_bytes);
        }
      }
      CHECK(are_equal);
    }
  }
}

TEST_CASE("placements may wait for each other's passes, and go without one") {
  if (!has_gpu()) return;
  const Documents documents;
  for (const Place place : {Place::kDevice, Place::kPinned}) {
    World world(Precision::kFloat32, place, pikv::SlabFormat::kPlain);
    for (const std::vector<TokenId>& chunk : documents.chunks) world.encode(chunk);
    const std::vector<std::vector<std::size_t>> orders{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}};
    std::vector<Sequence> sequences;
    std::vector<std::unique_ptr<mini_engine::Placement>> placements;
    for (const std::vector<std::size_t>& order : orders) {
      const pikv::Prompt prompt = documents.prompt(order);
      sequences.emplace_back(world.gpu_cache);
      sequences.back().grow(static_cast<int>(prompt.num_rows()));
      placements.push_back(world.on_gpu->place(prompt, sequences.back(), {}));
    }
    placements[1].reset();
    for (const std::size_t i : {2U, 0U}) {
      const pikv::CompositionPlan& plan = placements[i]->plan();
      std::vector<TokenId> tokens;
      for (const std::int32_t row : plan.rows_to_compute()) {
        tokens.push_back(plan.tokens()[static_cast<std::size_t>(row)]);
      }
      const auto last = static_cast<std::int32_t>(tokens.size() - 1);
      const std::vector<float> logits = world.gpu.forward(Pass{.tokens = tokens,
                                                               .rows = plan.rows_to_compute(),
                                                               .logit_rows = {&last, 1},
                                                               .documents = {},
                                                               .observer = placements[i]->observer()},
                                                          sequences[i]);
      placements[i]->finish();
      CHECK(distance(logits, world.prefill_on_cpu(documents.prompt(orders[i])).logits) < 1e-4);
    }
  }
}

}  // namespace
