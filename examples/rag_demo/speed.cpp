#include "rag_demo/speed.hpp"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "mini_engine/pikv_bridge.hpp"

namespace rag_demo {
namespace {

constexpr int kRepeats = 5;
constexpr std::int32_t kTokensPerPage = 16;

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void copy_with_threads(std::byte* target, const std::byte* source, std::size_t size_bytes, int num_threads) {
  std::vector<std::thread> threads;
  const std::size_t part = size_bytes / static_cast<std::size_t>(num_threads);
  for (int i = 0; i < num_threads; ++i) {
    const std::size_t begin = part * static_cast<std::size_t>(i);
    const std::size_t count = i + 1 == num_threads ? size_bytes - begin : part;
    threads.emplace_back([=] { std::memcpy(target + begin, source + begin, count); });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Best times of copying a slab and of re-anchoring it into pages in random order, taken in turns.
void measure_reanchor(const pikv::KvGeometry& geometry, int num_threads, SpeedReport& report) {
  constexpr std::int64_t kTokens = 2048;
  const auto size_bytes = static_cast<std::size_t>(kTokens * geometry.bytes_per_token());
  std::vector<std::byte> slab(size_bytes, std::byte{0x11});
  std::vector<std::byte> cache(size_bytes, std::byte{0});
  std::vector<std::int32_t> pages(kTokens / kTokensPerPage);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(7));

  const std::int64_t element_bytes = pikv::dtype_bytes(geometry.dtype);
  const pikv::RopeTable table =
      pikv::RopeTable::build(pikv::RopeConfig(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact),
                             geometry.rotary_dim, 8192)
          .value();
  const pikv::KvRun run{.source = {.layout = pikv::slab_layout(geometry, kTokens),
                                   .k_base = slab.data(),
                                   .v_base = slab.data() + pikv::slab_value_offset(geometry, kTokens) * element_bytes,
                                   .num_slots = kTokens},
                        .source_slots = pikv::SlotMap::consecutive(0, kTokens),
                        .target_slots = pikv::SlotMap::page_table(pages.data(), kTokensPerPage, 0, kTokens),
                        .positions = pikv::PositionMap::consecutive(1000)};
  const pikv::KvTransfer transfer{
      .geometry = geometry,
      .runs = {&run, 1},
      .target = {.layout = pikv::fused_nhd_pages(geometry, kTokensPerPage, kTokens / kTokensPerPage),
                 .k_base = cache.data(),
                 .v_base = cache.data() +
                           std::int64_t{kTokensPerPage} * geometry.num_kv_heads * geometry.head_dim * element_bytes,
                 .num_slots = kTokens},
      .rope = table.view(),
      .layer_begin = 0,
      .layer_end = geometry.num_layers};
  const std::unique_ptr<pikv::Backend> backend = pikv::make_cpu_backend({.num_threads = num_threads});
  double copy = std::numeric_limits<double>::infinity();
  double reanchor = copy;
  for (int i = 0; i < kRepeats; ++i) {
    copy = std::min(copy, seconds([&] { copy_with_threads(cache.data(), slab.data(), size_bytes, num_threads); }));
    reanchor = std::min(reanchor, seconds([&] {
                          const pikv::Status done =
                              backend->reanchor_async(transfer, pikv::StreamRef::legacy_default());
                          if (!done.ok()) throw pikv::BadResult(done);
                        }));
  }
  report.memcpy_gigabytes_per_s = static_cast<double>(size_bytes) / copy / 1e9;
  report.reanchor_gigabytes_per_s = static_cast<double>(size_bytes) / reanchor / 1e9;
}

double sgemm_gflops(int num_threads) {
  openblas_set_num_threads(num_threads);
  constexpr int kSize = 1536;
  const std::vector<float> a(std::size_t{kSize} * kSize, 0.5F);
  const std::vector<float> b(std::size_t{kSize} * kSize, 0.25F);
  std::vector<float> c(std::size_t{kSize} * kSize);
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats; ++i) {
    best = std::min(best, seconds([&] {
                      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kSize, kSize, kSize, 1.0F, a.data(), kSize,
                                  b.data(), kSize, 0.0F, c.data(), kSize);
                    }));
  }
  return 2.0 * kSize * kSize * kSize / best / 1e9;
}

double hash_ns_per_token(const pikv::ChunkKeyer& keyer) {
  constexpr std::size_t kTokens = 512;
  constexpr int kKeys = 2000;
  std::vector<pikv::TokenId> tokens(kTokens, 1);
  std::byte sum{};
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats; ++i) {
    best = std::min(best, seconds([&] {
                      for (int key = 0; key < kKeys; ++key) {
                        tokens[0] = static_cast<pikv::TokenId>(key);
                        sum ^= keyer.key(pikv::ChunkRecipe::alone(), tokens).bytes[0];
                      }
                    }));
  }
  const volatile std::byte keep = sum;  // the keys are used, so they have to be computed
  (void)keep;
  return best * 1e9 / (static_cast<double>(kKeys) * kTokens);
}

}  // namespace

double prefill_flops(const mini_engine::ModelConfig& config, std::int64_t num_tokens) {
  const auto tokens = static_cast<double>(num_tokens);
  const double hidden = config.hidden_size;
  const double queries = static_cast<double>(config.num_heads) * config.head_dim;
  const double keys = static_cast<double>(config.num_kv_heads) * config.head_dim;
  const double weights = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * config.ffn_size;
  const double attended = tokens * (tokens + 1) / 2;
  return config.num_layers * (2 * weights * tokens + 4 * queries * attended) + 2 * hidden * config.vocab_size;
}

SpeedReport measure_speed(const pikv::KvGeometry& geometry, const pikv::ChunkKeyer& keyer, int num_threads) {
  SpeedReport report;
  measure_reanchor(geometry, num_threads, report);
  report.sgemm_gflops = sgemm_gflops(num_threads);
  report.hash_ns_per_token = hash_ns_per_token(keyer);
  return report;
}

}  // namespace rag_demo
