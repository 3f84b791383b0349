// Drift as the bridge corrects it: from the rows that a pass repairs, of the rows that nobody computes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "mini_engine/pikv_views.hpp"
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

/// How much each target takes over from each sample, and then each sample from the others: [T + R][R].
std::vector<float> weights_of(RepairWorld& world, const Sequence& sequence, const pikv::CompositionPlan& plan,
                              const Rows& samples, const Rows& targets) {
  const auto chunks_of = [&plan](const Rows& rows) {
    std::vector<std::int32_t> chunks;
    for (const std::int32_t row : rows) {
      const auto holds = [row](const pikv::PlanPiece& piece) { return row >= piece.row_begin && row < piece.row_end; };
      chunks.push_back(static_cast<std::int32_t>(std::ranges::find_if(plan.pieces(), holds) - plan.pieces().begin()));
    }
    return chunks;
  };
  const std::vector<std::int32_t> sample_chunks = chunks_of(samples);
  const std::vector<std::int32_t> target_chunks = chunks_of(targets);
  const pikv::RopeTable table = mini_engine::rope_table(world.model);
  std::vector<float> weights((targets.size() + samples.size()) * samples.size());
  const pikv::Status status = pikv::make_cpu_drift_corrector(1)->weigh_async(
      {.geometry = mini_engine::kv_geometry(world.config, pikv::DType::kFloat32),
       .layer = pikv::drift_layer(world.config.num_layers),
       .cached = pikv::as_const(mini_engine::cache_view(world.cache)),
       .row_slots = mini_engine::row_slots(sequence),
       .sample_rows = samples,
       .target_rows = targets,
       .sample_chunks = sample_chunks,
       .target_chunks = target_chunks,
       .rope = table.view(),
       .weights = weights},
      pikv::StreamRef::legacy_default());
  REQUIRE(status.ok());
  return weights;
}

}  // namespace

TEST_CASE("the rows beside repaired ones are moved by what those that they resemble have drifted") {
  RepairWorld world;
  const pikv::Prompt prompt = world.prompt({2, 0, 1});
  Sequence cached(world.cache);
  (void)world.place(prompt, cached);
  Sequence moved(world.cache);
  const Prefill prefill = world.serve("budget:0,most=0.4,keys=0,values=0.5", prompt, moved, RepairWorld::kChunksAlone);
  const Rows repaired = test_support::repaired_rows(prefill.plan);
  REQUIRE(repaired.size() == 33);  // of 84
  CHECK(prefill.repair.num_passes == 2);
  Rows others;
  std::ranges::set_difference(test_support::approximate_rows(prefill.plan), repaired, std::back_inserter(others));
  REQUIRE(others.size() == 51);
  const std::vector<float> weights = weights_of(world, cached, prefill.plan, repaired, others);

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
      std::vector<std::vector<double>> drift;
      for (const std::int32_t row : repaired) drift.push_back(difference(row));
      const auto predicted = [&](std::size_t row) {
        std::vector<double> sum(static_cast<std::size_t>(world.config.head_dim));
        for (std::size_t i = 0; i < drift.size(); ++i) {
          for (std::size_t d = 0; d < sum.size(); ++d) {
            sum[d] += double{weights[row * drift.size() + i]} * drift[i][d];
          }
        }
        return sum;
      };
      double with_drift = 0;
      double with_itself = 0;
      for (std::size_t i = 0; i < drift.size(); ++i) {
        const std::vector<double> p = predicted(others.size() + i);
        for (std::size_t d = 0; d < p.size(); ++d) {
          with_drift += p[d] * drift[i][d];
          with_itself += p[d] * p[d];
        }
      }
      const double share = std::clamp(with_drift / with_itself, 0.0, 1.0);
      for (std::size_t t = 0; t < others.size(); ++t) {
        const std::vector<double> expected = predicted(t);
        const std::vector<double> d = difference(others[t]);
        for (std::size_t i = 0; i < d.size(); ++i) {
          CHECK(std::abs(d[i] - 0.5 * share * expected[i]) < 1e-5);
          farthest = std::max(farthest, std::abs(d[i]));
        }
      }
    }
    // Keys were to stay.
    const std::vector<float> keys_before = cached_rows(cached, world.config, layer, true);
    const std::vector<float> keys_after = cached_rows(moved, world.config, layer, true);
    for (const std::int32_t row : others) {
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
