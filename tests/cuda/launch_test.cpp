// Which kernels a transfer takes and what they are told, without a GPU: the plan of launches is host code.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "cuda/transfer_params.hpp"

namespace {

using pikv::detail::KernelPath;
using pikv::detail::ReanchorLaunch;
using pikv::kernels::kKeys;
using pikv::kernels::kValues;

/// Addresses that are never read.
std::byte* address(std::uintptr_t value) { return reinterpret_cast<std::byte*>(value); }

constexpr pikv::KvGeometry kLlama{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};
constexpr std::int64_t kPages = 1024;

pikv::KvView pages(const pikv::KvGeometry& g, pikv::DType dtype) {
  pikv::KvView view{.layout = pikv::nhd_pages(g, 16, kPages), .k_base = address(1 << 20)};
  view.layout.dtype = dtype;
  view.v_base = view.k_base + g.num_layers * view.layout.k.layer * pikv::dtype_bytes(dtype);
  view.num_slots = 16 * kPages;
  view.space = pikv::MemorySpace::kDevice;
  return view;
}

pikv::KvRun slab_run(pikv::SlabFormat format, std::int64_t num_tokens, std::int64_t target_slot = 0) {
  pikv::KvRun run;
  run.slab = {.data = address(1 << 16),
              .num_tokens = num_tokens,
              .encoding = {format, nullptr},
              .space = pikv::MemorySpace::kDevice};
  run.source_slots = pikv::SlotMap::consecutive(0, num_tokens);
  run.target_slots = pikv::SlotMap::consecutive(target_slot, num_tokens);
  return run;
}

pikv::KvTransfer transfer_of(const std::vector<pikv::KvRun>& runs, const pikv::KvView& target,
                             const pikv::KvGeometry& g = kLlama) {
  pikv::KvTransfer transfer{.geometry = g, .runs = runs, .target = target};
  transfer.rope.values = reinterpret_cast<const float*>(address(4096));
  transfer.rope.num_positions = 8192;
  transfer.rope.half_dim = g.rotary_dim / 2;
  transfer.layer_end = g.num_layers;
  return transfer;
}

std::vector<ReanchorLaunch> launches_of(const pikv::KvTransfer& transfer) {
  std::vector<ReanchorLaunch> launches;
  const pikv::Status status =
      pikv::detail::for_each_launch(transfer, /*turns_back=*/false, nullptr, [&](const ReanchorLaunch& launch) {
        launches.push_back(launch);
        return pikv::Status();
      });
  CHECK(status.ok());
  return launches;
}

TEST_CASE("one launch moves keys and values of all layers, by the kernel that suits the types") {
  struct Row {
    pikv::SlabFormat format;
    pikv::DType target;
    KernelPath path;
  };
  using pikv::DType;
  using pikv::SlabFormat;
  for (const Row& row : {Row{SlabFormat::kPlain, DType::kBFloat16, KernelPath::kStripes},
                         Row{SlabFormat::kPlain, DType::kFloat32, KernelPath::kVectors},
                         Row{SlabFormat::kPlain, DType::kFloat8E4M3, KernelPath::kVectors},
                         Row{SlabFormat::kFloat8, DType::kBFloat16, KernelPath::kVectors},
                         Row{SlabFormat::kInt8, DType::kFloat16, KernelPath::kVectors},
                         Row{SlabFormat::kInt4, DType::kBFloat16, KernelPath::kVectors},
                         Row{SlabFormat::kInt4, DType::kFloat32, KernelPath::kVectors}}) {
    const std::vector<pikv::KvRun> runs{slab_run(row.format, 512), slab_run(row.format, 100, 512)};
    const std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, pages(kLlama, row.target)));
    CAPTURE(slab_format_name(row.format));
    CAPTURE(dtype_name(row.target));
    REQUIRE(launches.size() == 1);
    CHECK(launches[0].path == row.path);
    CHECK(launches[0].params.planes == (kKeys | kValues));
    CHECK(launches[0].params.num_layers == 32);
    CHECK(launches[0].params.num_runs == 2);
    CHECK(launches[0].params.first_blocks[0] == 0);
    CHECK(launches[0].params.first_blocks[1] > 0);
    CHECK(launches[0].params.num_blocks > launches[0].params.first_blocks[1]);
    CHECK(launches[0].params.streams);
  }
}

TEST_CASE("a division by multiplication is exact below 2^31") {
  constexpr std::uint32_t kEnd = 1U << 31;
  for (const std::uint32_t value : {1U, 2U, 3U, 5U, 7U, 16U, 48U, 64U, 255U, 256U, 641U, 65537U, 1000003U, kEnd - 1}) {
    const pikv::kernels::Divisor divisor = pikv::kernels::Divisor::of(value);
    CAPTURE(value);
    for (std::uint64_t multiple = 0; multiple < kEnd;
         multiple += std::max<std::uint64_t>(value, kEnd / 1000 / value * value)) {
      for (const std::uint64_t n : {multiple, multiple + value - 1, multiple + value / 2}) {
        if (n < kEnd) REQUIRE(divisor.quotient(static_cast<std::uint32_t>(n)) == n / value);
      }
    }
    CHECK(divisor.quotient(kEnd - 1) == (kEnd - 1) / value);
  }
}

TEST_CASE("views that reach further than 32-bit offsets are refused") {
  const auto refusal = [](const pikv::KvTransfer& transfer) {
    return pikv::detail::for_each_launch(transfer, /*turns_back=*/false, nullptr,
                                         [](const ReanchorLaunch&) { return pikv::Status(); });
  };
  const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kPlain, 64)};
  pikv::KvView target = pages(kLlama, pikv::DType::kBFloat16);
  CHECK(refusal(transfer_of(runs, target)).ok());
  target.num_slots = std::int64_t{1} << 31;
  pikv::Status status = refusal(transfer_of(runs, target));
  CHECK(status.code() == pikv::ErrorCode::kUnsupported);
  CHECK(status.message().find("KvTransfer: target has 2147483648 slots") != std::string::npos);
  target = pages(kLlama, pikv::DType::kBFloat16);
  target.layout.v.head = std::int64_t{1} << 29;
  status = refusal(transfer_of(runs, target));
  CHECK(status.code() == pikv::ErrorCode::kUnsupported);
  CHECK(status.message().find("target.layout.v") != std::string::npos);
  std::vector<pikv::KvRun> far = runs;
  const std::int32_t page = 0;
  far[0].target_slots = pikv::SlotMap::page_table(&page, 16, INT32_MAX, 64);
  status = refusal(transfer_of(far, pages(kLlama, pikv::DType::kBFloat16)));
  CHECK(status.code() == pikv::ErrorCode::kUnsupported);
  CHECK(status.message().find("runs[0].target_slots") != std::string::npos);
}

TEST_CASE("blocks cover every token, and none is empty") {
  const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kPlain, 5), slab_run(pikv::SlabFormat::kPlain, 4, 5)};
  const std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, pages(kLlama, pikv::DType::kBFloat16)));
  REQUIRE(launches.size() == 1);
  // Two warps a token, four a block: three blocks for five tokens, two for four.
  CHECK(launches[0].params.first_blocks[1] == 3);
  CHECK(launches[0].params.num_blocks == 5);
  CHECK_FALSE(launches[0].params.streams);  // little enough to stay in the cache
}

TEST_CASE("values whose channels lie apart go by another kernel than their keys") {
  pikv::KvView target = pages(kLlama, pikv::DType::kBFloat16);
  target.layout = pikv::transposed_value_cells(kLlama, 4096);
  target.num_slots = 4096;
  const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kPlain, 64)};
  const std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, target));
  REQUIRE(launches.size() == 2);
  CHECK(launches[0].params.planes == kKeys);
  CHECK(launches[0].path == KernelPath::kVectors);
  CHECK(launches[1].params.planes == kValues);
  CHECK(launches[1].path == KernelPath::kElements);
}

TEST_CASE("what does not lie on vector boundaries goes element by element") {
  for (const int shift : {2, 8}) {
    pikv::KvView target = pages(kLlama, pikv::DType::kBFloat16);
    target.k_base += shift;
    target.v_base += shift;
    const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kInt8, 64)};
    const std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, target));
    REQUIRE(launches.size() == 1);
    CHECK(launches[0].path == KernelPath::kElements);
  }
  pikv::KvGeometry odd = kLlama;
  odd.head_dim = odd.rotary_dim = 126;
  const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kPlain, 64)};
  CHECK(launches_of(transfer_of(runs, pages(odd, pikv::DType::kBFloat16), odd))[0].path == KernelPath::kElements);
}

TEST_CASE("between equal types of 16 bits stripes are taken where a warp can cover whole heads of whole rows") {
  const auto path_of = [](const pikv::KvGeometry& g, pikv::DType source, pikv::DType target) {
    pikv::KvGeometry stored = g;
    stored.dtype = source;
    const std::vector<pikv::KvRun> runs{slab_run(pikv::SlabFormat::kPlain, 64)};
    const std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, pages(stored, target), stored));
    REQUIRE(launches.size() == 1);
    return launches[0].path;
  };
  using pikv::DType;
  CHECK(path_of(kLlama, DType::kFloat16, DType::kFloat16) == KernelPath::kStripes);
  CHECK(path_of(kLlama, DType::kFloat16, DType::kBFloat16) == KernelPath::kVectors);
  CHECK(path_of(kLlama, DType::kFloat32, DType::kFloat32) == KernelPath::kVectors);
  struct Row {
    std::int32_t num_heads, head_dim, rotary_dim;
    KernelPath path;
  };
  for (const Row& row : {Row{8, 64, 64, KernelPath::kStripes}, Row{2, 256, 256, KernelPath::kStripes},
                         Row{32, 16, 16, KernelPath::kStripes}, Row{4, 128, 0, KernelPath::kStripes},
                         Row{8, 128, 64, KernelPath::kVectors},      // heads turn in part
                         Row{16, 96, 96, KernelPath::kVectors},      // 12 vectors a head
                         Row{3, 128, 128, KernelPath::kVectors},     // a row is no whole number of stripes
                         Row{1, 512, 512, KernelPath::kVectors}}) {  // a head is longer than a warp
    CAPTURE(row.num_heads);
    CAPTURE(row.head_dim);
    pikv::KvGeometry g = kLlama;
    g.num_kv_heads = row.num_heads;
    g.head_dim = row.head_dim;
    g.rotary_dim = row.rotary_dim;
    CHECK(path_of(g, DType::kBFloat16, DType::kBFloat16) == row.path);
  }
}

TEST_CASE("many runs, many layers, several formats and layers with bases of their own take several launches") {
  std::vector<pikv::KvRun> runs;
  for (int i = 0; i < 19; ++i) runs.push_back(slab_run(pikv::SlabFormat::kPlain, 16, 16 * i));
  runs.insert(runs.begin() + 4, slab_run(pikv::SlabFormat::kInt4, 16, 400));
  runs.push_back(slab_run(pikv::SlabFormat::kPlain, 0));
  std::vector<ReanchorLaunch> launches = launches_of(transfer_of(runs, pages(kLlama, pikv::DType::kBFloat16)));
  REQUIRE(launches.size() == 4);  // 8 + 8 + 3 plain, 1 int4
  CHECK(std::count_if(launches.begin(), launches.end(), [](const ReanchorLaunch& launch) {
          return launch.source == pikv::kernels::SourceKind::kInt4;
        }) == 1);

  pikv::KvGeometry deep = kLlama;
  deep.num_layers = 70;
  runs.assign(1, slab_run(pikv::SlabFormat::kPlain, 16));
  launches = launches_of(transfer_of(runs, pages(deep, pikv::DType::kBFloat16), deep));
  REQUIRE(launches.size() == 2);
  CHECK(launches[0].params.num_layers == pikv::kernels::kMaxLayers);
  CHECK(launches[1].params.layer_begin == pikv::kernels::kMaxLayers);
  CHECK(launches[1].params.num_layers == 70 - pikv::kernels::kMaxLayers);

  const pikv::KvView source = pages(kLlama, pikv::DType::kBFloat16);
  std::vector<std::byte*> bases;
  for (int i = 0; i < 64; ++i)
    bases.push_back(address((std::uintptr_t{1} << 30) + (static_cast<std::uintptr_t>(i) << 28)));
  runs[0].slab = {};
  runs[0].source = pikv::as_const(source);
  runs[0].source.k_layers = const_cast<const std::byte* const*>(bases.data());
  runs[0].source.v_layers = const_cast<const std::byte* const*>(bases.data() + 32);
  launches = launches_of(transfer_of(runs, pages(kLlama, pikv::DType::kBFloat16)));
  REQUIRE(launches.size() == 32);
  for (std::size_t layer = 0; layer < 32; ++layer) {
    CHECK(launches[layer].params.runs[0].k.base == bases[layer]);
    CHECK(launches[layer].params.runs[0].v.base == bases[32 + layer]);
    CHECK(launches[layer].params.runs[0].k.layer_bytes == 0);
  }
}

}  // namespace
