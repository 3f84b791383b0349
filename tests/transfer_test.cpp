// Every refusal of a transfer, before a byte is written; and the rest of the CPU backend's interface.
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "pikv/backend.hpp"
#include "support/guarded_buffer.hpp"
#include "support/scenario.hpp"

namespace {

using pikv::KvRun;
using pikv::KvTransfer;
using pikv::PositionMap;
using pikv::SlotMap;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();
constexpr std::int32_t kNumPositions = 128;

test_support::ReanchorCase small_case() {
  test_support::ReanchorCase c;
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 8, .dtype = pikv::DType::kFloat32};
  c.num_positions = kNumPositions;
  c.run_tokens = {5, 4};
  c.layer_end = 2;
  return c;
}

bool is_untouched(const test_support::GuardedBuffer& buffer) {
  for (std::int64_t i = 0; i < buffer.size_bytes(); ++i) {
    if (buffer.data()[i] != test_support::GuardedBuffer::kPoison) return false;
  }
  return buffer.guards_intact();
}

/// Applies `change(transfer, second_run)` to a good transfer and expects a refusal that names `field`.
template <class Change>
void check_refused(const std::string& field, const Change& change,
                   pikv::ErrorCode code = pikv::ErrorCode::kInvalidArgument) {
  CAPTURE(field);
  const test_support::Scenario scenario(small_case(), 1);
  const auto backend = pikv::make_cpu_backend({.num_threads = 2});
  KvTransfer transfer = scenario.transfer();
  std::vector<KvRun> runs(transfer.runs.begin(), transfer.runs.end());
  transfer.runs = runs;
  REQUIRE(pikv::validate(transfer, backend->caps()).ok());
  change(transfer, runs[1]);
  for (const pikv::Status& status :
       {backend->reanchor_async(transfer, kStream), backend->unanchor_async(transfer, kStream)}) {
    CAPTURE(status.to_string());
    CHECK(status.code() == code);
    CHECK(status.message().find(field) != std::string_view::npos);
  }
  CHECK(is_untouched(scenario.target_buffer()));
}

TEST_CASE("a refused transfer names its field") {
  check_refused("num_kv_heads", [](KvTransfer& t, KvRun&) { t.geometry.num_kv_heads = 0; });
  check_refused("layer_begin", [](KvTransfer& t, KvRun&) { t.layer_begin = -1; });
  check_refused("layer_begin", [](KvTransfer& t, KvRun&) { t.layer_begin = t.layer_end = 3; });
  check_refused("layer_end", [](KvTransfer& t, KvRun&) { t.layer_end = 3; });
  check_refused("layer_end", [](KvTransfer& t, KvRun&) { t.layer_begin = 2, t.layer_end = 1; });
  check_refused("rope.values", [](KvTransfer& t, KvRun&) { t.rope.values = nullptr; });
  check_refused("rope.num_positions", [](KvTransfer& t, KvRun&) { t.rope.num_positions = 0; });
  check_refused("rope.half_dim", [](KvTransfer& t, KvRun&) { t.rope.half_dim = 2; });
  check_refused("rope.half_dim is 0", [](KvTransfer& t, KvRun&) { t.rope.half_dim = 0; });
  check_refused("rope.pairing", [](KvTransfer& t, KvRun&) { t.rope.pairing = static_cast<pikv::Pairing>(2); });
  check_refused("rope.pairing",
                [](KvTransfer& t, KvRun&) { t.rope = pikv::RopeTableView{.pairing = static_cast<pikv::Pairing>(2)}; });
  for (const float bad : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
    check_refused("rope.inverse_square", [=](KvTransfer& t, KvRun&) { t.rope.inverse_square = bad; });
  }
  check_refused("target: KvView: k_base", [](KvTransfer& t, KvRun&) { t.target.k_base = nullptr; });
  check_refused("target: KvLayout: v.head", [](KvTransfer& t, KvRun&) { t.target.layout.v.head = -1; });
  check_refused("target.space", [](KvTransfer& t, KvRun&) { t.target.space = pikv::MemorySpace::kDevice; });
  check_refused("runs[1].source: KvView: v_base", [](KvTransfer&, KvRun& run) { run.source.v_base = nullptr; });
  check_refused("runs[1].source.space", [](KvTransfer&, KvRun& run) { run.source.space = pikv::MemorySpace::kDevice; });
}

TEST_CASE("hostile slots and positions are refused by name") {
  constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
  check_refused("runs[1].source_slots.num_tokens",
                [](KvTransfer&, KvRun& run) { run.source_slots = SlotMap::consecutive(0, 3); });
  check_refused("runs[1].target_slots.num_tokens",
                [](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::consecutive(0, -4); });
  for (const std::int64_t first : {std::int64_t{-1}, std::int64_t{100'000}, kFar, kFar - 4}) {
    check_refused("runs[1].target_slots",
                  [=](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::consecutive(first, 4); });
    check_refused("runs[1].source_slots",
                  [=](KvTransfer&, KvRun& run) { run.source_slots = SlotMap::consecutive(first, 4); });
  }
  check_refused("array of slots", [](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::per_token(nullptr, 4); });
  check_refused("array of pages",
                [](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::page_table(nullptr, 16, 0, 4); });
  check_refused("array of positions", [](KvTransfer&, KvRun& run) { run.positions = PositionMap::per_token(nullptr); });
  for (const pikv::Slot bad : {pikv::Slot{-2}, pikv::Slot{100'000}, kFar}) {
    const std::vector<pikv::Slot> slots{0, 1, bad, 2};
    check_refused("runs[1].target_slots[2]",
                  [&](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::per_token(slots.data(), 4); });
    check_refused("runs[1].source_slots[2]",
                  [&](KvTransfer&, KvRun& run) { run.source_slots = SlotMap::per_token(slots.data(), 4); });
  }
  const std::vector<pikv::Slot> skipping{0, pikv::kSkipSlot, 1, 2};
  check_refused("runs[1].source_slots[1]",
                [&](KvTransfer&, KvRun& run) { run.source_slots = SlotMap::per_token(skipping.data(), 4); });
  // A page of -1 with one token a page would look like a token to leave out.
  for (const std::int32_t bad : {-1, std::numeric_limits<std::int32_t>::min(), 100'000}) {
    const std::vector<std::int32_t> pages{0, 1, bad, 2};
    check_refused("runs[1].target_slots.pages[2]",
                  [&](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::page_table(pages.data(), 1, 0, 4); });
    check_refused("runs[1].source_slots.pages[2]",
                  [&](KvTransfer&, KvRun& run) { run.source_slots = SlotMap::page_table(pages.data(), 1, 0, 4); });
  }
  const std::vector<std::int32_t> pages{0, 1, 2, 3};
  check_refused("page_size",
                [&](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::page_table(pages.data(), 0, 0, 4); });
  check_refused("first token",
                [&](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::page_table(pages.data(), 1, -1, 4); });
  check_refused("first token",
                [&](KvTransfer&, KvRun& run) { run.target_slots = SlotMap::page_table(pages.data(), 1, kFar, 4); });
  constexpr pikv::Position kMax = std::numeric_limits<pikv::Position>::max();
  constexpr pikv::Position kMin = std::numeric_limits<pikv::Position>::min();
  for (const pikv::Position bad : {-1, kNumPositions - 3, kNumPositions, kMax, kMin}) {
    check_refused("runs[1].positions", [=](KvTransfer&, KvRun& run) { run.positions = PositionMap::consecutive(bad); });
  }
  for (const pikv::Position bad : {-1, kNumPositions, kMax, kMin}) {
    const std::vector<pikv::Position> positions{0, 1, 2, bad};
    check_refused("runs[1].positions[3]",
                  [&](KvTransfer&, KvRun& run) { run.positions = PositionMap::per_token(positions.data()); });
  }
}

TEST_CASE("what is at the edge is accepted") {
  test_support::Scenario scenario(small_case(), 1);
  const auto backend = pikv::make_cpu_backend();
  KvRun run = scenario.transfer().runs[1];
  KvTransfer transfer = scenario.transfer();
  transfer.runs = {&run, 1};
  run.positions = PositionMap::consecutive(kNumPositions - 4);
  run.target_slots = SlotMap::consecutive(transfer.target.num_slots - 4, 4);
  run.source_slots = SlotMap::consecutive(run.source.num_slots - 4, 4);
  CHECK(backend->reanchor_async(transfer, kStream).ok());

  // A token that is left out may have any position and source slot.
  const std::vector<pikv::Slot> targets{0, pikv::kSkipSlot, 1, 2};
  const std::vector<pikv::Slot> sources{0, -77, 1, 2};
  const std::vector<pikv::Position> positions{0, -77, 1, 2};
  run.target_slots = SlotMap::per_token(targets.data(), 4);
  run.source_slots = SlotMap::per_token(sources.data(), 4);
  run.positions = PositionMap::per_token(positions.data());
  CHECK(backend->reanchor_async(transfer, kStream).ok());

  run.source_slots = run.target_slots = SlotMap::per_token(nullptr, 0);
  run.positions = PositionMap::per_token(nullptr);
  CHECK(backend->reanchor_async(transfer, kStream).ok());
  transfer.runs = {};
  CHECK(backend->reanchor_async(transfer, kStream).ok());
  transfer.layer_begin = transfer.layer_end = 2;
  CHECK(backend->unanchor_async(transfer, kStream).ok());
}

TEST_CASE("copies") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 2});
  std::vector<std::byte> source(9'000'001);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 31 >> 3);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, source.size()}) {
    test_support::GuardedBuffer target(static_cast<std::int64_t>(size), 1);
    REQUIRE(backend->copy_async(target.data(), source.data(), size, kStream).ok());
    CHECK(std::memcmp(target.data(), source.data(), size) == 0);
    CHECK(target.guards_intact());
  }
  CHECK(backend->copy_async(nullptr, nullptr, 0, kStream).ok());
  CHECK(backend->copy_async(nullptr, source.data(), 1, kStream).message().find("target") != std::string_view::npos);
  CHECK(backend->copy_async(source.data(), nullptr, 1, kStream).message().find("source") != std::string_view::npos);
  CHECK(backend->copy_async(source.data(), source.data() + 10, 11, kStream).message().find("overlap") !=
        std::string_view::npos);
  CHECK(backend->copy_async(source.data() + 10, source.data(), 11, kStream).message().find("overlap") !=
        std::string_view::npos);
  CHECK(backend->copy_async(source.data() + 10, source.data(), 10, kStream).ok());
}

class ForeignEvent final : public pikv::Event {};

TEST_CASE("events, memory and capabilities") {
  const auto backend = pikv::make_cpu_backend();
  CHECK(backend->caps().name == "cpu");
  CHECK(backend->caps().space == pikv::MemorySpace::kHost);
  CHECK_FALSE(backend->caps().asynchronous);
  auto event = backend->create_event();
  REQUIRE(event.ok());
  CHECK(backend->record(**event, kStream).ok());
  CHECK(backend->wait(**event, kStream).ok());
  CHECK(backend->synchronize(kStream).ok());
  ForeignEvent foreign;
  CHECK(backend->record(foreign, kStream).code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(backend->wait(foreign, kStream).code() == pikv::ErrorCode::kInvalidArgument);

  pikv::MemoryResource& memory = backend->memory_resource();
  auto buffer = pikv::Buffer::allocate(100, memory, kStream);
  REQUIRE(buffer.ok());
  CHECK(reinterpret_cast<std::uintptr_t>(buffer->data()) % 64 == 0);
  CHECK(buffer->space() == pikv::MemorySpace::kHost);
  CHECK(pikv::Buffer::allocate(0, memory, kStream).status().code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(memory.allocate_async(0, kStream).status().code() == pikv::ErrorCode::kInvalidArgument);
#ifndef PIKV_ENABLE_ASSERTS  // set in sanitized builds, whose allocators abort on such a size
  const auto impossible = memory.allocate_async(std::numeric_limits<std::size_t>::max() / 4, kStream);
  CHECK(impossible.status().code() == pikv::ErrorCode::kOutOfMemory);
#endif
  pikv::Buffer moved = *std::move(buffer);
  CHECK(moved.size_bytes() == 100);
}

}  // namespace
