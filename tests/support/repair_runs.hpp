// Prompts of cached chunks served with repair on the CPU, and what their rows are by other means.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "support/cached_rows.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"

namespace test_support {

using Rows = std::vector<std::int32_t>;
using Tokens = std::vector<mini_engine::TokenId>;

/// Deep enough for every policy to have layers beyond its last check.
inline mini_engine::ModelConfig repair_config() {
  mini_engine::ModelConfig config = small_config();
  config.num_layers = 5;
  return config;
}

/// The same with the rotation of Llama 3.1.
inline mini_engine::ModelConfig scaled_repair_config() {
  mini_engine::ModelConfig config = repair_config();
  config.rope = {.theta = 500000.0,
                 .scaling = mini_engine::RopeScaling::kLlama3,
                 .factor = 8.0,
                 .low_freq_factor = 1.0,
                 .high_freq_factor = 4.0,
                 .original_max_positions = 8192,
                 .frequency_divisors = {}};
  return config;
}

/// Chunks of odd lengths at odd offsets, with nothing between them.
struct RepairWorld {
  explicit RepairWorld(const mini_engine::ModelConfig& config_ = repair_config(), int num_system = 5)
      : config(config_),
        file(config, 7),
        model(file, {.num_threads = 2}),
        cache(config, mini_engine::Precision::kFloat32, 200, 8),
        server(model, cache, {},
               {.capacity_bytes = 64 << 20,
                .secret = std::vector<std::byte>(16),
                .num_threads = 2,
                .prefix_block_tokens = 8}),
        system(random_tokens(num_system, config.vocab_size, 40)),
        question(random_tokens(7, config.vocab_size, 50)) {
    for (const int length : {37, 29, 18}) {
      chunks.push_back(random_tokens(length, config.vocab_size, static_cast<unsigned>(length)));
      CHECK(server.encode_chunk(chunks.back(), {}));
    }
  }

  [[nodiscard]] pikv::Prompt prompt(const std::vector<std::size_t>& order = {0, 1, 2}) const {
    pikv::Prompt prompt;
    prompt.add_fresh(system);
    for (const std::size_t i : order) prompt.add_chunk(chunks[i], pikv::ChunkRecipe::alone());
    prompt.add_fresh(question);
    return prompt;
  }

  [[nodiscard]] mini_engine::Prefill serve(std::string_view spec, const pikv::Prompt& asked,
                                           mini_engine::Sequence& sequence, mini_engine::ReuseOptions reuse) {
    const std::unique_ptr<pikv::RepairPolicy> policy = pikv::make_repair_policy(spec).value();
    reuse.repair = policy.get();
    return server.prefill(asked, sequence, reuse);
  }
  /// By chunks alone, into a sequence that is dropped.
  [[nodiscard]] mini_engine::Prefill serve(std::string_view spec) {
    mini_engine::Sequence sequence(cache);
    return serve(spec, prompt(), sequence, kChunksAlone);
  }

  /// Everything computed.
  [[nodiscard]] std::vector<float> full(const pikv::Prompt& asked) {
    mini_engine::Sequence sequence(cache);
    pikv::Prompt fresh;
    fresh.add_fresh(asked.tokens());
    return server.prefill(fresh, sequence, kNothing).logits;
  }

  /// A pass over `rows` of the prompt in a sequence where the rest is placed; logits of the last row.
  [[nodiscard]] std::vector<float> pass(const pikv::Prompt& asked, const Rows& rows, mini_engine::Sequence& sequence,
                                        mini_engine::PassObserver* observer) {
    Tokens tokens;
    for (const std::int32_t row : rows) tokens.push_back(asked.tokens()[static_cast<std::size_t>(row)]);
    const auto last = static_cast<std::int32_t>(rows.size() - 1);
    return model.forward(
        {.tokens = tokens, .rows = rows, .logit_rows = {&last, 1}, .documents = {}, .observer = observer}, sequence);
  }

  /// The prompt's cached rows in `sequence`; its plan.
  pikv::CompositionPlan place(const pikv::Prompt& asked, mini_engine::Sequence& sequence) {
    sequence.grow(static_cast<int>(asked.num_rows()));
    const std::unique_ptr<mini_engine::Placement> placement = server.place(asked, sequence, kChunksAlone);
    placement->finish();
    return placement->plan();
  }

  [[nodiscard]] std::vector<std::byte> slab(const pikv::ChunkKey& key, std::span<const mini_engine::TokenId> tokens) {
    const pikv::Lookup found = server.store().lookup(key, tokens);
    REQUIRE(found.state == pikv::LookupState::kHit);
    return {found.chunk->slab().begin(), found.chunk->slab().end()};
  }

  static constexpr mini_engine::ReuseOptions kChunksAlone{.use_exact_prefix = false, .store_exact_prefix = false};
  static constexpr mini_engine::ReuseOptions kNothing{
      .use_exact_prefix = false, .use_chunks = false, .store_exact_prefix = false};

  mini_engine::ModelConfig config;
  MemoryModel file;
  mini_engine::CpuModel model;
  mini_engine::PagedCache cache;
  mini_engine::ChunkServer server;
  Tokens system;
  std::vector<Tokens> chunks;
  Tokens question;
};

inline double error_of(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  return relative_error(std::span<const float>(a), std::span<const float>(b));
}

/// Rows of approximate pieces, repaired or not.
inline Rows approximate_rows(const pikv::CompositionPlan& plan) {
  Rows rows;
  for (std::int32_t row = 0; row < plan.num_rows(); ++row) {
    const pikv::Provenance provenance = plan.provenance(row);
    if (provenance == pikv::Provenance::kApproximate || provenance == pikv::Provenance::kRepaired) rows.push_back(row);
  }
  return rows;
}

inline Rows repaired_rows(const pikv::CompositionPlan& plan) {
  return {plan.repaired_rows().begin(), plan.repaired_rows().end()};
}

/// Both are ascending.
inline Rows united(const Rows& a, std::span<const std::int32_t> b) {
  Rows all;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all));
  return all;
}

/// The `count` of `rows` with the highest scores, ascending. Fails where rounding could choose others.
inline Rows best_rows(const Rows& rows, const std::vector<double>& scores, std::size_t count) {
  Rows order = rows;
  const auto score = [&](std::int32_t row) { return scores[static_cast<std::size_t>(row)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return score(a) > score(b); });
  if (count < order.size()) REQUIRE(score(order[count - 1]) > (1 + 1e-4) * score(order[count]));
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace test_support
