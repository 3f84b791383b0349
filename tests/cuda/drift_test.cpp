// The drift that rows of a chunk share, on a GPU, against the oracle that the CPU is held to.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "cuda/device_mirror.hpp"
#include "pikv/cuda.hpp"
#include "pikv/drift.hpp"
#include "support/device_array.hpp"
#include "support/drift_cases.hpp"

namespace {

using test_support::Comparison;
using test_support::DeviceArray;
using test_support::DeviceMirror;
using test_support::DriftCase;
using test_support::DriftWorld;
using test_support::gpu_or_skip;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

/// What the device's cache holds after the correction.
std::vector<std::byte> corrected(const DriftWorld& world, pikv::Backend& gpu, pikv::DriftCorrector& corrector) {
  DeviceMirror mirror(gpu);
  mirror.add(world.cache());
  mirror.add(world.fresh());
  const pikv::Status status = corrector.correct_async(mirror.translate(world.correction(), world.table()), kStream);
  REQUIRE_MESSAGE(status.ok(), (world.spec().name + ": " + status.to_string()));
  std::vector<std::byte> after = mirror.download(world.cache().data(), static_cast<std::int64_t>(world.cache().size()));
  CHECK_MESSAGE(mirror.guards_intact(), world.spec().name);
  return after;
}

TEST_CASE("every correction equals the oracle, touches targets only, and gives the same bits again") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto corrector = pikv::make_cuda_drift_corrector().value();
  CHECK(corrector->space() == pikv::MemorySpace::kDevice);
  for (const DriftCase& c : test_support::drift_cases()) {
    const DriftWorld world(c);
    const std::vector<std::byte> after = corrected(world, *gpu, *corrector);
    Comparison comparison(c.name);
    world.compare(after, comparison);
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK_MESSAGE(corrected(world, *gpu, *corrector) == after, c.name);
  }
}

/// Blocks that share the targets of a chunk.
TEST_CASE("a chunk of many rows equals the oracle") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  DriftCase c = test_support::drift_cases().back();
  c.name = "one large chunk";
  c.geometry = {
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};
  c.layer = 0;
  c.key_gain = c.value_gain = 1;
  c.chunks = {{400, 3'333, test_support::DriftKind::kMixed}};
  const DriftWorld world(c);
  const std::vector<std::byte> after = corrected(world, *gpu, *pikv::make_cuda_drift_corrector().value());
  Comparison comparison(c.name);
  world.compare(after, comparison);
  CHECK_MESSAGE(comparison.ok(), comparison.report());
  CHECK(after != world.before());
}

TEST_CASE("a captured correction does what it does outside a graph") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const DriftWorld world(test_support::drift_cases().back());
  const auto corrector = pikv::make_cuda_drift_corrector().value();
  const std::vector<std::byte> expected = corrected(world, *gpu, *corrector);
  DeviceMirror mirror(*gpu);
  mirror.add(world.cache());
  mirror.add(world.fresh());
  const pikv::DriftCorrection correction = mirror.translate(world.correction(), world.table());
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  const pikv::Status status = corrector->correct_async(correction, pikv::cuda_stream(stream));
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK_MESSAGE(status.ok(), status.to_string());
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  CHECK(cudaGraphLaunch(executable, stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(mirror.download(world.cache().data(), static_cast<std::int64_t>(world.cache().size())) == expected);
  CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("indices that make no sense on the device touch no memory beside the arrays") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kMin = std::numeric_limits<std::int32_t>::min();
  constexpr std::int32_t kRows = 70;
  const pikv::KvGeometry geometry{
      .num_layers = 1, .num_kv_heads = 1, .head_dim = 64, .rotary_dim = 64, .dtype = pikv::DType::kBFloat16};
  DeviceArray<std::uint16_t> cache(*gpu, std::vector<std::uint16_t>(2 * kRows * 64, 0x3F80));
  DeviceArray<std::uint16_t> fresh(*gpu, std::vector<std::uint16_t>(2 * kRows * 64, 0x4000));
  const auto view_of = [&](DeviceArray<std::uint16_t>& memory) {
    auto* const base = reinterpret_cast<std::byte*>(memory.data());
    return pikv::KvView{.layout = pikv::nhd_pages(geometry, 1, kRows),
                        .k_base = base,
                        .v_base = base + std::ptrdiff_t{kRows} * 128,
                        .num_slots = kRows,
                        .space = pikv::MemorySpace::kDevice};
  };
  std::vector<pikv::Slot> wild(kRows, pikv::Slot{1} << 40);
  for (std::size_t i = 0; i < wild.size(); i += 2) wild[i] = -static_cast<pikv::Slot>(i) - 1;
  DeviceArray<pikv::Slot> slots(*gpu, wild);
  DeviceArray<float> table(*gpu, std::vector<float>(std::size_t{kRows} * 64, 1.0F));
  std::vector<std::int32_t> far(kRows, kMax);
  for (std::size_t i = 0; i < far.size(); i += 3) far[i] = kMin;
  for (std::size_t i = 1; i < far.size(); i += 3) far[i] = static_cast<std::int32_t>(i);
  DeviceArray<std::int32_t> rows(*gpu, far);
  const auto corrector = pikv::make_cuda_drift_corrector().value();
  for (const std::vector<std::int32_t>& odd : {std::vector<std::int32_t>{0, 35, 70},
                                               {kMin, kMax, 5},
                                               {kMax, kMin, kMax},
                                               {-5, 1'000, -7},
                                               {60, 10, 1 << 30}}) {
    DeviceArray<std::int32_t> offsets(*gpu, odd);
    for (const bool has_wild_slots : {false, true}) {
      const pikv::SlotMap map =
          has_wild_slots ? pikv::SlotMap::per_token(slots.data(), kRows) : pikv::SlotMap::consecutive(0, kRows);
      CHECK(corrector
                ->correct_async({.geometry = geometry,
                                 .fresh = pikv::as_const(view_of(fresh)),
                                 .fresh_slots = map,
                                 .cached = view_of(cache),
                                 .row_slots = map,
                                 .sample_rows = rows.span(),
                                 .sample_offsets = offsets.span(),
                                 .target_rows = rows.span(),
                                 .target_offsets = offsets.span(),
                                 .rope = {.values = table.data(), .num_positions = kRows, .half_dim = 32}},
                                kStream)
                .ok());
      (void)cache.download();  // looks at what is beside the array
      (void)fresh.download();
    }
  }
}

TEST_CASE("what lies on the host is refused") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const DriftWorld world(test_support::drift_cases().front());
  CHECK(pikv::make_cuda_drift_corrector().value()->correct_async(world.correction(), kStream).code() ==
        pikv::ErrorCode::kInvalidArgument);
}

}  // namespace
