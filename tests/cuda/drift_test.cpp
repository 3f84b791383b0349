// What repaired rows tell of the rows beside them, on a GPU, against the oracle that the CPU is held to.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <memory>
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

/// Of the sums' factors, which are rounded to TF32.
constexpr double kFactorError = 0x1p-11;

std::unique_ptr<pikv::DriftCorrector> make_corrector(pikv::Backend& gpu) {
  return pikv::make_cuda_drift_corrector({.memory = &gpu.memory_resource()}).value();
}

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

std::vector<float> weights_of(const DriftWorld& world, pikv::Backend& gpu, pikv::DriftCorrector& corrector) {
  const auto size = static_cast<std::size_t>(world.spec().num_samples) *
                    static_cast<std::size_t>(world.spec().num_targets + world.spec().num_samples);
  std::vector<float> weights(size, std::numeric_limits<float>::quiet_NaN());
  DeviceMirror mirror(gpu);
  mirror.add(world.cache());
  mirror.add(weights);
  const pikv::Status status = corrector.weigh_async(mirror.translate(world.weighing(weights), world.table()), kStream);
  REQUIRE_MESSAGE(status.ok(), (world.spec().name + ": " + status.to_string()));
  if (!weights.empty()) {
    const std::vector<std::byte> there =
        mirror.download(weights.data(), static_cast<std::int64_t>(size * sizeof(float)));
    std::memcpy(weights.data(), there.data(), there.size());
  }
  CHECK(mirror.download(world.cache().data(), static_cast<std::int64_t>(world.cache().size())) == world.before());
  CHECK_MESSAGE(mirror.guards_intact(), world.spec().name);
  return weights;
}

/// Both calls of a case against the oracle, and against themselves.
void check_case(const DriftWorld& world, pikv::Backend& gpu, pikv::DriftCorrector& corrector) {
  const std::vector<std::byte> after = corrected(world, gpu, corrector);
  Comparison comparison(world.spec().name);
  world.compare(after, kFactorError, comparison);
  CHECK_MESSAGE(comparison.ok(), comparison.report());
  const std::vector<float> weights = weights_of(world, gpu, corrector);
  Comparison of_weights(world.spec().name);
  world.compare_weights(weights, of_weights);
  CHECK_MESSAGE(of_weights.ok(), of_weights.report());
  CHECK_MESSAGE(corrected(world, gpu, corrector) == after, world.spec().name);
  CHECK_MESSAGE(weights_of(world, gpu, corrector) == weights, world.spec().name);
}

TEST_CASE("corrections and weights equal the oracle, touch their targets only, and give the same bits again") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto corrector = make_corrector(*gpu);
  CHECK(corrector->space() == pikv::MemorySpace::kDevice);
  for (const DriftCase& c : test_support::drift_cases()) check_case(DriftWorld(c), *gpu, *corrector);
}

TEST_CASE("as many samples as there may be") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  DriftCase c = test_support::drift_cases().back();
  c.name = "most samples";
  c.geometry = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 24, .rotary_dim = 24, .dtype = pikv::DType::kBFloat16};
  c.layer = 0;
  c.key_gain = c.value_gain = 1;
  c.num_samples = pikv::kMaxDriftSamples;
  c.num_targets = 65;
  check_case(DriftWorld(c), *gpu, *make_corrector(*gpu));
}

TEST_CASE("a captured correction does what it does outside a graph") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const DriftWorld world(test_support::drift_cases().back());
  const auto corrector = make_corrector(*gpu);
  const std::vector<std::byte> expected = corrected(world, *gpu, *corrector);  // takes the workspace
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
  // The workspace goes back to the stream of the last call, which must still exist.
  (void)corrected(world, *gpu, *corrector);
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
  DeviceArray<float> weights(*gpu, std::vector<float>(std::size_t{2 * kRows} * kRows, 0.5F));
  const pikv::RopeTableView rope{.values = table.data(), .num_positions = kRows, .half_dim = 32};
  const auto corrector = make_corrector(*gpu);
  for (const bool has_wild_slots : {false, true}) {
    const pikv::SlotMap map =
        has_wild_slots ? pikv::SlotMap::per_token(slots.data(), kRows) : pikv::SlotMap::consecutive(0, kRows);
    CHECK(corrector
              ->weigh_async({.geometry = geometry,
                             .cached = pikv::as_const(view_of(cache)),
                             .row_slots = map,
                             .sample_rows = rows.span(),
                             .target_rows = rows.span(),
                             .sample_chunks = rows.span(),
                             .target_chunks = rows.span(),
                             .rope = rope,
                             .weights = weights.span()},
                            kStream)
              .ok());
    CHECK(corrector
              ->correct_async({.geometry = geometry,
                               .fresh = pikv::as_const(view_of(fresh)),
                               .fresh_slots = map,
                               .cached = view_of(cache),
                               .row_slots = map,
                               .sample_rows = rows.span(),
                               .target_rows = rows.span(),
                               .weights = weights.span(),
                               .rope = rope},
                              kStream)
              .ok());
    (void)cache.download();  // looks at what is beside the array
    (void)fresh.download();
    (void)weights.download();
  }
}

TEST_CASE("what lies on the host is refused") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const DriftWorld world(test_support::drift_cases().front());
  CHECK(make_corrector(*gpu)->correct_async(world.correction(), kStream).code() == pikv::ErrorCode::kInvalidArgument);
}

}  // namespace
