// Selection by score on a GPU against the CPU, exactly, and captured in a graph.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/device_mirror.hpp"
#include "pikv/cuda.hpp"
#include "pikv/selection.hpp"
#include "support/device_array.hpp"
#include "support/selection_cases.hpp"

namespace {

using test_support::DeviceArray;
using test_support::gpu_or_skip;
using test_support::SelectionCase;
using test_support::SelectionOutcome;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

std::unique_ptr<pikv::RowSelector> make(pikv::Backend& gpu, std::int32_t max_rows, std::int32_t max_segments) {
  return pikv::make_cuda_row_selector(
             {.max_rows = max_rows, .max_segments = max_segments, .memory = &gpu.memory_resource()})
      .value();
}

void require_cuda(cudaError_t error) { REQUIRE_MESSAGE(error == cudaSuccess, cudaGetErrorString(error)); }

// First in this file, so that kernels are captured that were never launched before.
TEST_CASE("a captured selection follows the scores from replay to replay") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  constexpr std::int32_t kRows = 20'000;  // more than one tile
  constexpr std::int32_t kEach = 9;
  const std::vector<std::int32_t> offsets = {0, 1, 1, 5'000, 5'004, kRows};
  const auto selector = make(*gpu, kRows, 5);
  const auto cpu = pikv::make_cpu_row_selector(kRows).value();
  DeviceArray<float> scores(*gpu, std::vector<float>(kRows));
  DeviceArray<std::int32_t> segment_offsets(*gpu, offsets);
  DeviceArray<std::int32_t> rows(*gpu, std::vector<std::int32_t>(5 * kEach, test_support::kUnwritten));
  DeviceArray<std::int32_t> row_offsets(*gpu, std::vector<std::int32_t>(offsets.size()));

  const auto stream = gpu->create_stream().value();
  auto* const cuda_stream = static_cast<cudaStream_t>(stream->ref().handle());
  require_cuda(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeGlobal));
  const pikv::Status captured = selector->select_top_rows_per_segment_async({.scores = scores.span(),
                                                                             .segment_offsets = segment_offsets.span(),
                                                                             .k = kEach,
                                                                             .rows = rows.span(),
                                                                             .row_offsets = row_offsets.span()},
                                                                            stream->ref());
  cudaGraph_t graph = nullptr;
  require_cuda(cudaStreamEndCapture(cuda_stream, &graph));
  REQUIRE_MESSAGE(captured.ok(), captured.to_string());
  cudaGraphExec_t replay = nullptr;
  require_cuda(cudaGraphInstantiate(&replay, graph, 0));

  std::mt19937 random(3);
  std::vector<std::int32_t> previous;
  for (int round = 0; round < 2; ++round) {
    std::vector<float> values(kRows);
    for (float& value : values) value = static_cast<float>(random() % 500);
    scores.upload(values);
    require_cuda(cudaGraphLaunch(replay, cuda_stream));
    REQUIRE(gpu->synchronize(stream->ref()).ok());

    std::vector<std::int32_t> expected(5 * kEach, test_support::kUnwritten);
    std::vector<std::int32_t> expected_offsets(offsets.size());
    REQUIRE(cpu->select_top_rows_per_segment_async({.scores = values,
                                                    .segment_offsets = offsets,
                                                    .k = kEach,
                                                    .rows = expected,
                                                    .row_offsets = expected_offsets},
                                                   kStream)
                .ok());
    CHECK(rows.download() == expected);
    CHECK(row_offsets.download() == expected_offsets);
    CHECK(expected != previous);
    previous = expected;
  }
  require_cuda(cudaGraphExecDestroy(replay));
  require_cuda(cudaGraphDestroy(graph));
}

TEST_CASE("every case equals the CPU") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto host = pikv::make_cpu_backend();
  const auto cpu = pikv::make_cpu_row_selector(test_support::kMaxCaseRows).value();
  const auto cuda = make(*gpu, test_support::kMaxCaseRows, test_support::kMaxCaseSegments);
  CHECK(cuda->space() == pikv::MemorySpace::kDevice);
  for (const SelectionCase& c : test_support::selection_cases()) {
    CAPTURE(c.name);
    pikv::Status status;
    const SelectionOutcome expected = run_selections(*cpu, *host, c, &status);
    REQUIRE_MESSAGE(status.ok(), status.to_string());
    const SelectionOutcome got = run_selections(*cuda, *gpu, c, &status);
    REQUIRE_MESSAGE(status.ok(), status.to_string());
    CHECK(got.top_rows == expected.top_rows);
    CHECK(got.segment_row_offsets == expected.segment_row_offsets);
    CHECK(got.segment_rows == expected.segment_rows);
    CHECK(got.num_above == expected.num_above);
    CHECK(got.rows_above == expected.rows_above);
    CHECK(got.chunk_order == expected.chunk_order);
    CHECK(got.slots_above == expected.slots_above);
  }
}

TEST_CASE("a selector made for exactly one size serves it and all smaller ones") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  for (const std::int32_t max_rows : {1, 256, 5'000, 33'333}) {
    const auto selector = make(*gpu, max_rows, 0);
    for (std::int32_t num_rows = max_rows; num_rows > 0; num_rows /= 3) {
      std::vector<float> values(static_cast<std::size_t>(num_rows));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 7 % 11);
      std::vector<std::int32_t> expected(values.size());
      REQUIRE(pikv::make_cpu_row_selector(num_rows).value()->order_chunks_async(values, expected, kStream).ok());
      DeviceArray<float> scores(*gpu, values);
      DeviceArray<std::int32_t> order(*gpu, std::vector<std::int32_t>(values.size()));
      const pikv::Status status = selector->order_chunks_async(scores.span(), order.span(), kStream);
      REQUIRE_MESSAGE(status.ok(), status.to_string());
      CHECK_MESSAGE(order.download() == expected, (std::to_string(num_rows) + " of " + std::to_string(max_rows)));
    }
  }
}

TEST_CASE("indices that make no sense on the device touch no memory beside the arrays") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();
  constexpr std::int32_t kMin = std::numeric_limits<std::int32_t>::min();
  const auto selector = make(*gpu, 1'000, 4);
  DeviceArray<float> scores(*gpu, std::vector<float>(1'000, 1.0F));
  for (const std::vector<std::int32_t>& offsets : std::vector<std::vector<std::int32_t>>{
           {900, 20, 600, 3, 500}, {kMin, 7, kMax, 1, kMin}, {0, 9, 0, kMax, kMax}}) {
    DeviceArray<std::int32_t> segment_offsets(*gpu, offsets);
    DeviceArray<std::int32_t> rows(*gpu, std::vector<std::int32_t>(4 * 30));
    DeviceArray<std::int32_t> row_offsets(*gpu, std::vector<std::int32_t>(5));
    CHECK(selector
              ->select_top_rows_per_segment_async({.scores = scores.span(),
                                                   .segment_offsets = segment_offsets.span(),
                                                   .k = 30,
                                                   .rows = rows.span(),
                                                   .row_offsets = row_offsets.span()},
                                                  kStream)
              .ok());
    for (const std::int32_t row : rows.download()) CHECK((row >= 0 && row < 1'000));
    (void)row_offsets.download();
  }
  DeviceArray<pikv::Slot> slots(*gpu, {10, 20, 30});
  DeviceArray<std::int32_t> rows(*gpu, {2, 3, -1, kMax, kMin, 0});
  DeviceArray<pikv::Slot> target(*gpu, std::vector<pikv::Slot>(6));
  REQUIRE(selector->gather_slots_async({.slots = slots.span(), .rows = rows.span(), .target = target.span()}, kStream)
              .ok());
  CHECK(target.download() == std::vector<pikv::Slot>{30, -1, -1, -1, -1, 10});
}

TEST_CASE("sizes beyond what the selector was made for are refused") {
  pikv::Backend* const gpu = gpu_or_skip();
  if (gpu == nullptr) return;
  const auto selector = make(*gpu, 10, 1);
  DeviceArray<float> scores(*gpu, std::vector<float>(11));
  DeviceArray<std::int32_t> rows(*gpu, std::vector<std::int32_t>(11));
  DeviceArray<std::int32_t> offsets(*gpu, {0, 5, 10});
  CHECK(selector->select_top_rows_async(scores.span(), rows.span(), kStream).code() ==
        pikv::ErrorCode::kInvalidArgument);
  CHECK(selector->order_chunks_async(scores.span(), rows.span(), kStream).code() == pikv::ErrorCode::kInvalidArgument);
  CHECK(selector
            ->select_top_rows_per_segment_async({.scores = scores.span().first(10),
                                                 .segment_offsets = offsets.span(),
                                                 .k = 1,
                                                 .rows = rows.span(),
                                                 .row_offsets = rows.span().first(3)},
                                                kStream)
            .code() == pikv::ErrorCode::kInvalidArgument);
}

}  // namespace
