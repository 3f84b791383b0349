// The CUDA backend against the CPU backend, bit for bit, over the same case table; and what only a GPU can do wrong.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <string>

#include "cuda/device_mirror.hpp"
#include "pikv/detail/half.hpp"
#include "support/cases.hpp"
#include "support/compare.hpp"
#include "support/scenario.hpp"

namespace {

using test_support::Comparison;
using test_support::DeviceMirror;
using test_support::gpu_or_skip;
using test_support::ReanchorCase;
using test_support::Scenario;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

enum class Direction { kReanchor, kUnanchor };

pikv::Status move(pikv::Backend& backend, const pikv::KvTransfer& transfer, Direction direction) {
  return direction == Direction::kReanchor ? backend.reanchor_async(transfer, kStream)
                                           : backend.unanchor_async(transfer, kStream);
}

void add_scenario(DeviceMirror& mirror, const Scenario& scenario) {
  for (std::size_t run = 0; run < scenario.transfer().runs.size(); ++run) {
    mirror.add(scenario.source_buffer(run).data(), scenario.source_buffer(run).size_bytes());
  }
  mirror.add(scenario.target_buffer().data(), scenario.target_buffer().size_bytes());
}

void expect_same_bytes(Comparison& comparison, const std::vector<std::byte>& got, const std::byte* expected) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    comparison.expect_same_bits(std::to_integer<std::uint64_t>(got[i]), std::to_integer<std::uint64_t>(expected[i]),
                                [&] { return "byte " + std::to_string(i); });
  }
}

TEST_CASE("every case of the table equals the CPU backend, bit for bit") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto cpu = pikv::make_cpu_backend();
  std::uint32_t seed = 1;
  for (const ReanchorCase& c : test_support::reanchor_cases()) {
    for (const Direction direction : {Direction::kReanchor, Direction::kUnanchor}) {
      Scenario scenario(c, ++seed);
      DeviceMirror mirror(*gpu);
      add_scenario(mirror, scenario);
      const pikv::KvTransfer there = mirror.translate(scenario.transfer(), test_support::rope_table_of(c));
      const pikv::Status status = move(*gpu, there, direction);
      REQUIRE_MESSAGE(status.ok(), (c.name() + ": " + status.to_string()));
      REQUIRE(move(*cpu, scenario.transfer(), direction).ok());
      Comparison comparison(c.name());
      expect_same_bytes(comparison,
                        mirror.download(scenario.target_buffer().data(), scenario.target_buffer().size_bytes()),
                        scenario.target_buffer().data());
      CHECK_MESSAGE(comparison.ok(), comparison.report());
      CHECK_MESSAGE(mirror.guards_intact(), c.name());
    }
  }
}

/// A case without oddities, of `num_runs` runs.
ReanchorCase plain_case(std::size_t num_runs) {
  ReanchorCase c;
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kBFloat16};
  c.source_dtype = c.target_dtype = pikv::DType::kBFloat16;
  c.target_slots = test_support::SlotKind::kPerToken;
  c.positions = test_support::PositionKind::kScattered;
  c.num_positions = 4096;
  c.run_tokens.assign(num_runs, 7);
  c.layer_end = 2;
  return c;
}

TEST_CASE("more runs than one launch carries") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const ReanchorCase c = plain_case(75);
  Scenario scenario(c, 5);
  DeviceMirror mirror(*gpu);
  add_scenario(mirror, scenario);
  REQUIRE(move(*gpu, mirror.translate(scenario.transfer(), test_support::rope_table_of(c)), Direction::kReanchor).ok());
  REQUIRE(move(*pikv::make_cpu_backend(), scenario.transfer(), Direction::kReanchor).ok());
  Comparison comparison("75 runs");
  expect_same_bytes(comparison, mirror.download(scenario.target_buffer().data(), scenario.target_buffer().size_bytes()),
                    scenario.target_buffer().data());
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

TEST_CASE("offsets beyond 4 GiB, in source and target") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  // One layer of 2 heads of 128: 512 bytes a token and side, so 9 Mi slots are 4.5 GiB.
  const pikv::KvGeometry g{
      .num_layers = 1, .num_kv_heads = 2, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};
  constexpr std::int64_t kSlots = std::int64_t{9} << 20;
  constexpr std::int64_t kTokens = 37;
  const std::int64_t side_bytes = kSlots * 512;
  auto source = pikv::Buffer::allocate(static_cast<std::size_t>(2 * side_bytes), gpu->memory_resource(), kStream);
  auto target = pikv::Buffer::allocate(static_cast<std::size_t>(2 * side_bytes), gpu->memory_resource(), kStream);
  if (!source.ok() || !target.ok()) {
    MESSAGE("SKIPPED: needs 18 GiB of device memory");
    return;
  }
  const pikv::RopeConfig rope(10000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kExact);
  const pikv::RopeTable table = pikv::RopeTable::build(rope, 128, 64).value();
  const pikv::RopeTable device_table = pikv::copy_table(table, *gpu, gpu->memory_resource()).value();
  std::vector<std::uint16_t> numbers(static_cast<std::size_t>(kTokens * 256 * 2));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = pikv::detail::float_to_bfloat16(static_cast<float>(i % 97) - 48.0F);
  }
  const std::int64_t row_bytes = kTokens * 512;
  const std::int64_t first_slot = kSlots - kTokens;
  for (const int side : {0, 1}) {
    REQUIRE(gpu->copy_async(source->data() + side * side_bytes + first_slot * 512,
                            reinterpret_cast<const std::byte*>(numbers.data()) + side * row_bytes,
                            static_cast<std::size_t>(row_bytes), kStream)
                .ok());
  }
  const pikv::KvLayout layout = pikv::nhd_pages(g, 1, kSlots);
  pikv::KvRun run;
  run.source = {.layout = layout, .k_base = source->data(), .v_base = source->data() + side_bytes};
  run.source.num_slots = kSlots;
  run.source.space = pikv::MemorySpace::kDevice;
  run.source_slots = run.target_slots = pikv::SlotMap::consecutive(first_slot, kTokens);
  run.positions = pikv::PositionMap::consecutive(3);
  pikv::KvTransfer transfer{.geometry = g, .runs = {&run, 1}, .target = {}, .rope = device_table.view()};
  transfer.target = {.layout = layout, .k_base = target->data(), .v_base = target->data() + side_bytes};
  transfer.target.num_slots = kSlots;
  transfer.target.space = pikv::MemorySpace::kDevice;
  transfer.layer_end = 1;

  // The same numbers in the first slots of small buffers, on the CPU.
  std::vector<std::uint16_t> expected(numbers.size());
  const pikv::KvLayout small = pikv::nhd_pages(g, 1, kTokens);
  pikv::KvRun small_run;
  small_run.source = {.layout = small,
                      .k_base = reinterpret_cast<const std::byte*>(numbers.data()),
                      .v_base = reinterpret_cast<const std::byte*>(numbers.data()) + row_bytes};
  small_run.source.num_slots = kTokens;
  small_run.source_slots = small_run.target_slots = pikv::SlotMap::consecutive(0, kTokens);
  small_run.positions = run.positions;
  pikv::KvTransfer small_transfer = transfer;
  small_transfer.runs = {&small_run, 1};
  small_transfer.rope = table.view();
  small_transfer.target = {.layout = small,
                           .k_base = reinterpret_cast<std::byte*>(expected.data()),
                           .v_base = reinterpret_cast<std::byte*>(expected.data()) + row_bytes};
  small_transfer.target.num_slots = kTokens;
  const auto cpu = pikv::make_cpu_backend();

  for (const std::int64_t shift : {0, 1}) {  // by vectors, and element by element from an odd address
    if (shift != 0) {
      transfer.geometry.head_dim = transfer.geometry.rotary_dim = 126;
      small_transfer.geometry = transfer.geometry;
    }
    const bool turns = shift == 0;
    if (!turns) transfer.rope = small_transfer.rope = {};
    std::fill(expected.begin(), expected.end(), std::uint16_t{0});
    REQUIRE(cpu->reanchor_async(small_transfer, kStream).ok());
    for (const int side : {0, 1}) {
      const std::vector<std::byte> zeros(static_cast<std::size_t>(row_bytes));
      REQUIRE(
          gpu->copy_async(target->data() + side * side_bytes + first_slot * 512, zeros.data(), zeros.size(), kStream)
              .ok());
    }
    const pikv::Status status = gpu->reanchor_async(transfer, kStream);
    REQUIRE_MESSAGE(status.ok(), status.to_string());
    for (const int side : {0, 1}) {
      std::vector<std::byte> got(static_cast<std::size_t>(row_bytes));
      REQUIRE(
          gpu->copy_async(got.data(), target->data() + side * side_bytes + first_slot * 512, got.size(), kStream).ok());
      REQUIRE(gpu->synchronize(kStream).ok());
      CHECK(std::memcmp(got.data(), reinterpret_cast<std::byte*>(expected.data()) + side * row_bytes, got.size()) == 0);
    }
  }
}

TEST_CASE("a captured transfer replays with the slots and positions that its arrays hold then") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const ReanchorCase c = plain_case(3);
  Scenario scenario(c, 9);
  DeviceMirror mirror(*gpu);
  add_scenario(mirror, scenario);
  const pikv::KvTransfer there = mirror.translate(scenario.transfer(), test_support::rope_table_of(c));
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  const pikv::Status status = gpu->reanchor_async(there, pikv::cuda_stream(stream));
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE_MESSAGE(status.ok(), status.to_string());
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);

  const auto cpu = pikv::make_cpu_backend();
  for (int replay = 0; replay < 2; ++replay) {
    if (replay == 1) {  // other positions, in the same arrays
      for (const pikv::KvRun& run : scenario.transfer().runs) {
        auto* const positions = const_cast<pikv::Position*>(run.positions.array());
        for (int i = 0; i < 7; ++i) positions[i] = (positions[i] + 1000) % 4096;
        mirror.add(positions, 7 * static_cast<std::int64_t>(sizeof(pikv::Position)));
      }
    }
    REQUIRE(cudaGraphLaunch(exec, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    REQUIRE(cpu->reanchor_async(scenario.transfer(), kStream).ok());
    Comparison comparison("replay " + std::to_string(replay));
    expect_same_bytes(comparison,
                      mirror.download(scenario.target_buffer().data(), scenario.target_buffer().size_bytes()),
                      scenario.target_buffer().data());
    CHECK_MESSAGE(comparison.ok(), comparison.report());
  }
  (void)cudaGraphExecDestroy(exec);
  (void)cudaGraphDestroy(graph);
  (void)cudaStreamDestroy(stream);
}

TEST_CASE("slots and positions out of range are left out and reported once") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const ReanchorCase c = plain_case(1);
  for (const bool bad_position : {false, true}) {
    Scenario scenario(c, 4);
    pikv::KvRun run = scenario.transfer().runs[0];
    std::vector<pikv::Slot> slots(run.target_slots.slots(), run.target_slots.slots() + 7);
    std::vector<pikv::Position> positions(run.positions.array(), run.positions.array() + 7);
    if (bad_position) {
      positions[3] = 4096;
      positions[5] = -1;
    } else {
      slots[3] = scenario.transfer().target.num_slots;
      slots[5] = -7;
    }
    run.target_slots = pikv::SlotMap::per_token(slots.data(), 7);
    run.positions = pikv::PositionMap::per_token(positions.data());
    pikv::KvTransfer transfer = scenario.transfer();
    transfer.runs = {&run, 1};
    DeviceMirror mirror(*gpu);
    add_scenario(mirror, scenario);
    REQUIRE(gpu->reanchor_async(mirror.translate(transfer, test_support::rope_table_of(c)), kStream).ok());
    const pikv::Status status = gpu->synchronize(kStream);
    CHECK(status.code() == pikv::ErrorCode::kInvalidArgument);
    CHECK(status.message().find(bad_position ? "positions" : "slots") != std::string_view::npos);
    CHECK(gpu->synchronize(kStream).ok());
    CHECK(mirror.guards_intact());

    // The others arrived: the CPU leaves the same two out when they are skipped.
    slots[3] = slots[5] = pikv::kSkipSlot;
    REQUIRE(pikv::make_cpu_backend()->reanchor_async(transfer, kStream).ok());
    Comparison comparison("left out");
    expect_same_bytes(comparison,
                      mirror.download(scenario.target_buffer().data(), scenario.target_buffer().size_bytes()),
                      scenario.target_buffer().data());
    CHECK_MESSAGE(comparison.ok(), comparison.report());
  }
}

}  // namespace
