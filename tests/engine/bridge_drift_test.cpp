// Drift as the bridge corrects it: from the rows that a pass repairs, of the rows that nobody computes, chunk by chunk.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/repair_runs.hpp"

namespace {

using mini_engine::Prefill;
using mini_engine::Sequence;
using test_support::cached_rows;
using test_support::RepairWorld;
using test_support::Rows;

/// Values of one head, [D] for each row.
std::vector<double> head_of(const std::vector<float>& layer, const mini_engine::ModelConfig& config, std::int32_t row,
                            int head) {
  const auto at = static_cast<std::ptrdiff_t>(row) * config.num_kv_heads * config.head_dim + head * config.head_dim;
  return {layer.begin() + at, layer.begin() + at + config.head_dim};
}

struct Samples {
  std::vector<std::vector<double>> differences;  // fresh - cached

  [[nodiscard]] std::vector<double> mean(std::size_t size) const {
    std::vector<double> mean(size);
    for (const auto& d : differences) {
      for (std::size_t i = 0; i < size; ++i) mean[i] += d[i] / static_cast<double>(differences.size());
    }
    return mean;
  }
  /// The James-Stein estimate towards `common`.
  [[nodiscard]] std::vector<double> shrunk(const std::vector<double>& common) const {
    const auto count = static_cast<double>(differences.size());
    if (count < 2) return common;
    const std::vector<double> m = mean(common.size());
    double variance = 0;
    double distance = 0;
    for (std::size_t i = 0; i < m.size(); ++i) {
      distance += (m[i] - common[i]) * (m[i] - common[i]);
      for (const auto& d : differences) variance += (d[i] - m[i]) * (d[i] - m[i]) / (count - 1);
    }
    const double share = std::max(0.0, 1 - variance / (count * distance));
    std::vector<double> result = common;
    for (std::size_t i = 0; i < m.size(); ++i) result[i] += share * (m[i] - common[i]);
    return result;
  }
};

}  // namespace

TEST_CASE("the rows beside repaired ones are moved by what their chunk's repaired rows have drifted") {
  RepairWorld world;
  const pikv::Prompt prompt = world.prompt({2, 0, 1});
  Sequence cached(world.cache);
  (void)world.place(prompt, cached);
  Sequence moved(world.cache);
  const Prefill prefill = world.serve("budget:0,most=0.4,keys=0,values=0.5", prompt, moved, RepairWorld::kChunksAlone);
  const Rows repaired = test_support::repaired_rows(prefill.plan);
  REQUIRE(repaired.size() == 33);  // of 84
  CHECK(prefill.repair.num_passes == 2);

  double farthest = 0;
  for (const int layer : {1, world.config.num_layers - 1}) {
    const std::vector<float> before = cached_rows(cached, world.config, layer, false);
    const std::vector<float> after = cached_rows(moved, world.config, layer, false);
    for (int head = 0; head < world.config.num_kv_heads; ++head) {
      const auto difference = [&](std::int32_t row) {
        std::vector<double> d = head_of(after, world.config, row, head);
        const std::vector<double> from = head_of(before, world.config, row, head);
        for (std::size_t i = 0; i < d.size(); ++i) d[i] -= from[i];
        return d;
      };
      Samples all;
      for (const std::int32_t row : repaired) all.differences.push_back(difference(row));
      const std::vector<double> common =
          all.shrunk(std::vector<double>(static_cast<std::size_t>(world.config.head_dim)));
      for (const pikv::PlanPiece& piece : prefill.plan.pieces()) {
        if (!piece.cached()) continue;
        Samples own;
        for (const std::int32_t row : repaired) {
          if (row >= piece.row_begin && row < piece.row_end) own.differences.push_back(difference(row));
        }
        const std::vector<double> shift = own.shrunk(common);
        for (auto row = static_cast<std::int32_t>(piece.row_begin); row < piece.row_end; ++row) {
          if (std::ranges::binary_search(repaired, row)) continue;
          const std::vector<double> d = difference(row);
          for (std::size_t i = 0; i < d.size(); ++i) {
            CHECK(std::abs(d[i] - 0.5 * shift[i]) < 1e-5);
            farthest = std::max(farthest, std::abs(d[i]));
          }
        }
      }
    }
    // Keys were to stay.
    const std::vector<float> keys_before = cached_rows(cached, world.config, layer, true);
    const std::vector<float> keys_after = cached_rows(moved, world.config, layer, true);
    for (const std::int32_t row : test_support::approximate_rows(prefill.plan)) {
      if (std::ranges::binary_search(repaired, row)) continue;
      for (int head = 0; head < world.config.num_kv_heads; ++head) {
        CHECK(head_of(keys_before, world.config, row, head) == head_of(keys_after, world.config, row, head));
      }
    }
  }
  CHECK(farthest > 1e-2);  // so that something was there to be seen
}

TEST_CASE("rows that an earlier pass repaired are neither moved nor computed again") {
  RepairWorld world;
  const pikv::Prompt prompt = world.prompt();
  Sequence sequence(world.cache);
  const Prefill prefill =
      world.serve("budget:0.000001,start=0.1,most=0.9", prompt, sequence, RepairWorld::kChunksAlone);
  CHECK(prefill.repair.num_passes == 5);  // the question's, then 8, 16, 32 and 75 of 84 rows
  CHECK(test_support::repaired_rows(prefill.plan).size() == 75);
  const std::int64_t layers = world.config.num_layers;
  CHECK(prefill.repair.row_layers ==
        layers * (75 + 4 * static_cast<std::int64_t>(world.system.size() + world.question.size())));
}

TEST_CASE("a budget of all rows leaves no error, whatever drift did on the way") {
  RepairWorld world;
  CHECK(test_support::error_of(world.serve("budget:0,most=1").logits, world.full(world.prompt())) < 1e-5);
}
