// What repaired rows tell of the rows beside them, on the CPU, against an oracle in double.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "pikv/cuda.hpp"
#include "pikv/drift.hpp"
#include "support/drift_cases.hpp"

namespace {

using pikv::DriftCorrection;
using pikv::DType;
using pikv::ErrorCode;
using test_support::Comparison;
using test_support::DriftCase;
using test_support::DriftWorld;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

std::vector<std::byte> corrected(DriftWorld& world, pikv::DriftCorrector& corrector) {
  const pikv::Status status = corrector.correct_async(world.correction(), kStream);
  REQUIRE_MESSAGE(status.ok(), (world.spec().name + ": " + status.to_string()));
  return world.take();
}

/// Between values that must stay as they are.
std::vector<float> weights_of(const DriftWorld& world, pikv::DriftCorrector& corrector) {
  constexpr float kGuard = 12345;
  const auto size = static_cast<std::size_t>(world.spec().num_samples) *
                    static_cast<std::size_t>(world.spec().num_targets + world.spec().num_samples);
  std::vector<float> weights(size + 2, std::numeric_limits<float>::quiet_NaN());
  weights.front() = weights.back() = kGuard;
  const pikv::Status status = corrector.weigh_async(world.weighing(std::span(weights).subspan(1, size)), kStream);
  REQUIRE_MESSAGE(status.ok(), (world.spec().name + ": " + status.to_string()));
  CHECK(weights.front() == kGuard);
  CHECK(weights.back() == kGuard);
  return {weights.begin() + 1, weights.end() - 1};
}

TEST_CASE("every correction equals the oracle, and touches targets only") {
  const auto corrector = pikv::make_cpu_drift_corrector(2);
  CHECK(corrector->space() == pikv::MemorySpace::kHost);
  for (const DriftCase& c : test_support::drift_cases()) {
    DriftWorld world(c);
    Comparison comparison(c.name);
    world.compare(corrected(world, *corrector), 0, comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
  }
}

TEST_CASE("all weights equal the oracle's") {
  const auto corrector = pikv::make_cpu_drift_corrector(2);
  for (const DriftCase& c : test_support::drift_cases()) {
    const DriftWorld world(c);
    Comparison comparison(c.name);
    world.compare_weights(weights_of(world, *corrector), comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK(world.cache() == world.before());
  }
}

TEST_CASE("the same call gives the same bits on any number of threads") {
  DriftWorld world(test_support::drift_cases().back());
  const std::vector<std::byte> first = corrected(world, *pikv::make_cpu_drift_corrector(1));
  const std::vector<float> weights = weights_of(world, *pikv::make_cpu_drift_corrector(1));
  CHECK(first != world.before());
  for (const std::int32_t num_threads : {2, 3, 3}) {
    const auto corrector = pikv::make_cpu_drift_corrector(num_threads);
    CHECK(corrected(world, *corrector) == first);
    CHECK(weights_of(world, *corrector) == weights);
  }
}

DriftCase small_case(std::int32_t num_samples, std::int32_t num_targets) {
  DriftCase c;
  c.name = "small";
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 32, .dtype = DType::kFloat32};
  c.layer = 1;
  c.num_samples = num_samples;
  c.num_targets = num_targets;
  c.num_other_rows = 3;
  return c;
}

TEST_CASE("a row that is like a sample takes over from it what is not noise") {
  const DriftWorld world(small_case(6, 6));
  pikv::DriftWeighing weighing = world.weighing({});
  const std::vector<std::int32_t> rows(weighing.sample_rows.begin(), weighing.sample_rows.end());
  weighing.target_rows = rows;  // each like one sample, and unlike the others
  const std::vector<std::int32_t> chunks(6, 1);
  weighing.sample_chunks = weighing.target_chunks = chunks;
  std::vector<float> weights(72);
  weighing.weights = weights;
  weighing.noise = 1e-4F;
  CHECK(pikv::make_cpu_drift_corrector(1)->weigh_async(weighing, kStream).ok());
  for (std::size_t t = 0; t < 6; ++t) {
    for (std::size_t i = 0; i < 6; ++i) CHECK(std::abs(weights[t * 6 + i] - (t == i ? 1 : 0)) < 1e-3);
  }
  weighing.noise = 1e6F;  // all is noise
  CHECK(pikv::make_cpu_drift_corrector(1)->weigh_async(weighing, kStream).ok());
  for (const float weight : weights) CHECK(std::abs(weight) < 2e-6);
}

TEST_CASE("samples that are all alike share what they tell") {
  DriftCase c = small_case(4, 3);
  c.turns = false;
  const DriftWorld world(c);
  pikv::DriftWeighing weighing = world.weighing({});
  const std::vector<std::int32_t> same(4, weighing.sample_rows[0]);
  weighing.sample_rows = same;
  const std::vector<std::int32_t> chunks(4, 1);
  weighing.sample_chunks = chunks;
  weighing.target_chunks = std::span(chunks).first(3);
  std::vector<float> weights(28);
  weighing.weights = weights;
  CHECK(pikv::make_cpu_drift_corrector(1)->weigh_async(weighing, kStream).ok());
  for (std::size_t i = 0; i < 12; ++i) CHECK(std::abs(weights[i] - 1 / (4 + 1.0F / 3)) < 1e-6);
  for (std::size_t i = 0; i < 4; ++i) {  // each is one of three for the others
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(std::abs(weights[12 + 4 * i + j] - (i == j ? 0 : 1 / (3 + 1.0F / 3))) < 1e-6);
    }
  }
}

TEST_CASE("no drift moves nothing") {
  DriftCase c = small_case(6, 9);
  c.turns = false;
  DriftWorld world(c);
  DriftCorrection correction = world.correction();
  std::vector<pikv::Slot> slots;
  for (const std::int32_t row : correction.sample_rows) slots.push_back(correction.row_slots.slot(row));
  correction.fresh = pikv::as_const(correction.cached);
  correction.fresh.k_base = correction.cached.k_layer(1);
  correction.fresh.v_base = correction.cached.v_layer(1);
  correction.fresh_slots = pikv::SlotMap::per_token(slots.data(), 6);
  CHECK(pikv::make_cpu_drift_corrector(1)->correct_async(correction, kStream).ok());
  CHECK(world.take() == world.before());
}

TEST_CASE("corrections that make no sense are refused by field, and nothing is written") {
  DriftWorld world(small_case(7, 7));  // 17 rows
  const auto corrector = pikv::make_cpu_drift_corrector(1);
  const auto refused = [&](const auto& spoil, const std::string& part, ErrorCode code = ErrorCode::kInvalidArgument) {
    DriftCorrection correction = world.correction();
    spoil(correction);
    const pikv::Status status = corrector->correct_async(correction, kStream);
    CHECK_MESSAGE(status.code() == code, (part + ": " + status.to_string()));
    CHECK_MESSAGE(status.message().find(part) != std::string_view::npos, (part + ": " + status.to_string()));
  };
  const std::vector<pikv::Slot> outside(17, world.correction().cached.num_slots);
  const std::vector<pikv::Slot> skipped(17, pikv::kSkipSlot);
  const std::vector<std::int32_t> pages(3, -2);
  using Indices = std::vector<std::int32_t>;
  const Indices beyond = {17, 0, 1, 2, 3, 4, 5};
  const Indices negative = {0, -1, 1, 2, 3, 4, 5};
  const std::span<const std::int32_t> own = world.correction().target_rows;
  Indices target_beyond(own.begin(), own.end());
  target_beyond[0] = 17;
  Indices target_negative(own.begin(), own.end());
  target_negative[1] = -1;
  const Indices twice = {0, 1, 2, 3, 4, 5, 4};
  const Indices targets = {7, 8, 9, 10, 11, 12, 3};
  refused([](DriftCorrection& s) { s.geometry.num_kv_heads = 0; }, "DriftCorrection: geometry");
  refused([](DriftCorrection& s) { s.geometry.head_dim = 320; }, "head_dim is 320", ErrorCode::kUnsupported);
  refused([](DriftCorrection& s) { s.layer = 2; }, "layer is 2");
  refused([](DriftCorrection& s) { s.layer = -1; }, "layer is -1");
  refused([](DriftCorrection& s) { s.fresh.k_base = nullptr; }, "fresh: KvView: k_base");
  refused([](DriftCorrection& s) { s.fresh.space = pikv::MemorySpace::kDevice; }, "fresh.space");
  refused([](DriftCorrection& s) { s.fresh.layout.dtype = DType::kFloat8E4M3; }, "fresh.layout.dtype",
          ErrorCode::kUnsupported);
  refused([](DriftCorrection& s) { s.cached.layout.dtype = DType::kFloat8E4M3; }, "cached.layout.dtype",
          ErrorCode::kUnsupported);
  refused([](DriftCorrection& s) { s.cached.v_base = nullptr; }, "cached: KvView: v_base");
  refused([](DriftCorrection& s) { s.cached.layout.k.token = 0; }, "cached");
  refused([](DriftCorrection& s) { s.fresh_slots = pikv::SlotMap::consecutive(1'000, 7); }, "fresh_slots");
  refused([](DriftCorrection& s) { s.fresh_slots = pikv::SlotMap::consecutive(0, 6); }, "fresh_slots.num_tokens is 6");
  refused([&](DriftCorrection& s) { s.fresh_slots = pikv::SlotMap::per_token(skipped.data(), 7); },
          "fresh_slots.slots[0] is -1");
  refused([](DriftCorrection& s) { s.row_slots = pikv::SlotMap::consecutive(1'000, 17); }, "row_slots");
  refused([&](DriftCorrection& s) { s.row_slots = pikv::SlotMap::per_token(outside.data(), 17); },
          "row_slots.slots[0]");
  refused([&](DriftCorrection& s) { s.row_slots = pikv::SlotMap::per_token(skipped.data(), 17); },
          "row_slots.slots[0] is -1");
  refused([&](DriftCorrection& s) { s.row_slots = pikv::SlotMap::page_table(pages.data(), 16, 0, 17); },
          "row_slots.pages[0] is -2");
  refused([](DriftCorrection& s) { s.row_slots = pikv::SlotMap::per_token(nullptr, 17); }, "row_slots");
  const auto null_indices = std::span<const std::int32_t>(static_cast<const std::int32_t*>(nullptr), 7);
  refused([&](DriftCorrection& s) { s.sample_rows = null_indices; }, "sample_rows is null");
  refused([&](DriftCorrection& s) { s.target_rows = null_indices; }, "target_rows is null");
  refused([&](DriftCorrection& s) { s.sample_rows = beyond; }, "sample_rows[0] is 17");
  refused([&](DriftCorrection& s) { s.sample_rows = negative; }, "sample_rows[1] is -1");
  refused([&](DriftCorrection& s) { s.target_rows = target_beyond; }, "target_rows[0] is 17");
  refused([&](DriftCorrection& s) { s.target_rows = target_negative; }, "target_rows[1] is -1");
  refused(
      [&](DriftCorrection& s) {
        s.sample_rows = targets;
        s.target_rows = twice;
      },
      "target_rows[3] is 3, must be no sample row");
  refused(
      [&](DriftCorrection& s) {
        s.sample_rows = std::span(targets).first(6);
        s.fresh_slots = s.fresh_slots.slice(0, 6);
        s.weights = s.weights.first(78);
        s.target_rows = twice;
      },
      "target_rows[6] is 4, must be there once");
  refused([](DriftCorrection& s) { s.rope.half_dim = 32; }, "rope.half_dim");
  refused([](DriftCorrection& s) { s.rope.values = nullptr; }, "rope.values");
  refused([](DriftCorrection& s) { s.rope.num_positions = 16; }, "rope.num_positions is 16");
  refused([](DriftCorrection& s) { s.key_gain = std::numeric_limits<float>::quiet_NaN(); }, "key_gain");
  refused([](DriftCorrection& s) { s.value_gain = std::numeric_limits<float>::infinity(); }, "value_gain");
  refused([](DriftCorrection& s) { s.weights = s.weights.first(97); }, "weights has 97 elements, 98 are needed");
  refused([](DriftCorrection& s) { s.weights = {static_cast<const float*>(nullptr), 98}; }, "weights is null");
  CHECK(world.take() == world.before());
}

TEST_CASE("weighings that make no sense are refused by field, and nothing is written") {
  const DriftWorld world(small_case(7, 7));
  const auto corrector = pikv::make_cpu_drift_corrector(1);
  std::vector<float> weights(98, -1);
  const auto refused = [&](const auto& spoil, const std::string& part) {
    pikv::DriftWeighing weighing = world.weighing(weights);
    spoil(weighing);
    const pikv::Status status = corrector->weigh_async(weighing, kStream);
    CHECK_MESSAGE(status.code() == ErrorCode::kInvalidArgument, (part + ": " + status.to_string()));
    CHECK_MESSAGE(status.message().find("DriftWeighing: " + part) != std::string_view::npos,
                  (part + ": " + status.to_string()));
  };
  const std::vector<std::int32_t> many(1025, 0);
  refused([](pikv::DriftWeighing& w) { w.layer = 2; }, "layer is 2");
  refused([](pikv::DriftWeighing& w) { w.cached.k_base = nullptr; }, "cached: KvView: k_base");
  refused([](pikv::DriftWeighing& w) { w.rope.num_positions = 16; }, "rope.num_positions is 16");
  refused([&](pikv::DriftWeighing& w) { w.sample_rows = many; }, "sample_rows: the number of rows is 1025");
  refused([&](pikv::DriftWeighing& w) { w.weights = w.weights.first(97); }, "weights has 97 elements, 98 are needed");
  for (const float noise : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    refused([&](pikv::DriftWeighing& w) { w.noise = noise; }, "noise is ");
  }
  for (const float factor : {-0.1F, 1.1F, std::numeric_limits<float>::quiet_NaN()}) {
    refused([&](pikv::DriftWeighing& w) { w.other_chunks = factor; }, "other_chunks is ");
  }
  refused([](pikv::DriftWeighing& w) { w.sample_chunks = w.sample_chunks.first(6); }, "sample_chunks has 6 elements");
  refused([](pikv::DriftWeighing& w) { w.target_chunks = {}; }, "target_chunks has 0 elements");
  const std::vector<std::int32_t> beyond = {0, 1, 2, 3, 4, 5, 17};
  refused([&](pikv::DriftWeighing& w) { w.sample_rows = beyond; }, "sample_rows[6] is 17");
  refused([&](pikv::DriftWeighing& w) { w.target_rows = beyond; }, "target_rows[6] is 17");
  CHECK(weights == std::vector<float>(98, -1));
}

TEST_CASE("without samples nobody asks for fresh rows") {
  DriftWorld world(small_case(0, 5));
  DriftCorrection correction = world.correction();
  correction.fresh = {};
  CHECK(pikv::make_cpu_drift_corrector(1)->correct_async(correction, kStream).ok());
}

}  // namespace
