// The drift that rows of a chunk share, on the CPU, against an oracle in double.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
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
using test_support::DriftKind;
using test_support::DriftWorld;
using test_support::Side;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

std::vector<std::byte> corrected(DriftWorld& world, pikv::DriftCorrector& corrector) {
  const pikv::Status status = corrector.correct_async(world.correction(), kStream);
  REQUIRE_MESSAGE(status.ok(), (world.spec().name + ": " + status.to_string()));
  return world.take();
}

TEST_CASE("every correction equals the oracle, and touches targets only") {
  const auto corrector = pikv::make_cpu_drift_corrector(2);
  CHECK(corrector->space() == pikv::MemorySpace::kHost);
  for (const DriftCase& c : test_support::drift_cases()) {
    DriftWorld world(c);
    Comparison comparison(c.name);
    world.compare(corrected(world, *corrector), comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
  }
}

TEST_CASE("the same call gives the same bits on any number of threads") {
  DriftWorld world(test_support::drift_cases().back());
  const std::vector<std::byte> first = corrected(world, *pikv::make_cpu_drift_corrector(1));
  CHECK(first != world.before());
  for (const std::int32_t num_threads : {2, 3, 3}) {
    CHECK(corrected(world, *pikv::make_cpu_drift_corrector(num_threads)) == first);
  }
}

DriftCase small_case(std::vector<test_support::DriftChunk> chunks) {
  DriftCase c;
  c.name = "small";
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 32, .dtype = DType::kFloat32};
  c.layer = 1;
  c.chunks = std::move(chunks);
  c.num_other_rows = 3;
  return c;
}

/// How far a channel of targets moves in semantic keys, or in values.
struct Moves {
  DriftWorld world;
  std::vector<std::byte> after;

  Moves(DriftCase c, float gain) : world(with_gain(std::move(c), gain)) {
    after = corrected(world, *pikv::make_cpu_drift_corrector(1));
  }
  static DriftCase with_gain(DriftCase c, float gain) {
    c.turns = false;  // keys are seen as they are planted
    c.key_gain = c.value_gain = gain;
    return c;
  }
  [[nodiscard]] double by(std::size_t target, Side side, std::int32_t d) const {
    return world.target_value(after, target, side, 1, d) - world.target_value(world.before(), target, side, 1, d);
  }
  [[nodiscard]] double planted(std::size_t chunk, Side side, std::int32_t d) const {
    return world.planted(chunk, side, 1)[static_cast<std::size_t>(d)];
  }
};

TEST_CASE("targets move by gain times what all samples of their chunk have in common") {
  for (const float gain : {0.0F, 0.5F, 1.0F}) {
    const Moves moves(small_case({{5, 7, DriftKind::kCommon}, {9, 2, DriftKind::kCommon}}), gain);
    for (const Side side : {Side::kKey, Side::kValue}) {
      for (std::int32_t d = 0; d < 64; ++d) {
        CHECK(std::abs(moves.by(6, side, d) - gain * moves.planted(0, side, d)) < 1e-5);
        CHECK(std::abs(moves.by(8, side, d) - gain * moves.planted(1, side, d)) < 1e-5);
      }
    }
  }
}

TEST_CASE("a chunk with too few samples of its own moves by what all samples have in common") {
  for (const std::int32_t num_samples : {0, 1}) {
    const DriftKind kind = DriftKind::kCommon;
    const Moves moves(small_case({{num_samples, 3, kind}, {40, 7, kind}}), 1);
    for (const Side side : {Side::kKey, Side::kValue}) {
      for (std::int32_t d = 0; d < 64; ++d) {
        const double mean =
            (num_samples * moves.planted(0, side, d) + 40 * moves.planted(1, side, d)) / (num_samples + 40);
        CHECK(std::abs(moves.by(2, side, d) - mean) < (num_samples == 0 ? 1e-5 : 0.03));
      }
    }
  }
}

TEST_CASE("noise moves nothing") {
  const Moves moves(small_case({{6, 7, DriftKind::kNoise}, {8, 4, DriftKind::kNoise}}), 1);
  CHECK(moves.after == moves.world.before());
}

TEST_CASE("no drift moves nothing") {
  DriftCase c = small_case({{6, 9, DriftKind::kMixed}});
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
  DriftCase c = small_case({{4, 5, DriftKind::kCommon}, {3, 2, DriftKind::kCommon}});
  DriftWorld world(c);  // 17 rows
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
  const Indices late = {1, 4, 7};
  const Indices falling = {0, 8, 7};
  const Indices short_of_all = {0, 4, 6};
  const Indices one_chunk = {0, 7};
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
  refused([&](DriftCorrection& s) { s.sample_offsets = null_indices; }, "sample_offsets is null");
  refused([&](DriftCorrection& s) { s.target_offsets = null_indices; }, "target_offsets is null");
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
        s.sample_offsets = short_of_all;
        s.fresh_slots = s.fresh_slots.slice(0, 6);
        s.target_rows = twice;
      },
      "target_rows[6] is 4, must be there once");
  refused([&](DriftCorrection& s) { s.sample_offsets = {}; }, "sample_offsets is of no chunk");
  refused([&](DriftCorrection& s) { s.target_offsets = {}; }, "target_offsets is of no chunk");
  refused([&](DriftCorrection& s) { s.target_offsets = one_chunk; }, "target_offsets: the number of elements is 2");
  refused([&](DriftCorrection& s) { s.sample_offsets = late; }, "sample_offsets[0] is 1");
  refused([&](DriftCorrection& s) { s.sample_offsets = falling; }, "sample_offsets[1] is 8");
  refused([&](DriftCorrection& s) { s.sample_offsets = short_of_all; }, "sample_offsets[2] is 6");
  refused([&](DriftCorrection& s) { s.target_offsets = late; }, "target_offsets[0] is 1");
  refused([&](DriftCorrection& s) { s.target_offsets = falling; }, "target_offsets[1] is 8");
  refused([&](DriftCorrection& s) { s.target_offsets = short_of_all; }, "target_offsets[2] is 6");
  refused([](DriftCorrection& s) { s.rope.half_dim = 32; }, "rope.half_dim");
  refused([](DriftCorrection& s) { s.rope.values = nullptr; }, "rope.values");
  refused([](DriftCorrection& s) { s.rope.num_positions = 16; }, "rope.num_positions is 16");
  refused([](DriftCorrection& s) { s.key_gain = std::numeric_limits<float>::quiet_NaN(); }, "key_gain");
  refused([](DriftCorrection& s) { s.value_gain = std::numeric_limits<float>::infinity(); }, "value_gain");
  CHECK(world.take() == world.before());
}

TEST_CASE("without samples nobody asks for fresh rows") {
  DriftWorld world(small_case({{0, 5, DriftKind::kMixed}}));
  DriftCorrection correction = world.correction();
  correction.fresh = {};
  CHECK(pikv::make_cpu_drift_corrector(1)->correct_async(correction, kStream).ok());
}

}  // namespace
