// Re-anchoring on a GPU: Llama 3.1 8B geometry, all layers, keys and values, pages of 16 tokens.
//
// Every iteration times, in turn and on other memory each time, a device-to-device copy that moves the same number of
// bytes, the re-anchoring, and (bf16) the usual two kernels a layer. All memory together is far beyond the second-level
// cache. Bytes are those read plus those written, scales included. Counters, of medians over all iterations:
//   GB/s          bytes a second
//   of_copy       rate over the copy's rate in this run; both by device time
//   over_two      how many times as fast as the two kernels, from an idle stream: the time to queue counts for both
//   over_flashinfer  likewise, than FlashInfer's kernels for the same, if built with its headers
//   MB            bytes moved, which a profiler's DRAM counters can be held against
#include <numeric>
#include <optional>
#include <random>
#include <string>

#include "flashinfer_kernels.hpp"
#include "gpu.hpp"
#include "two_kernels.hpp"

namespace {

using pikv_bench::check;
using pikv_bench::DeviceArray;
using pikv_bench::median;
using pikv_bench::Stopwatch;

constexpr std::int32_t kPageSize = 16;
constexpr std::int64_t kWorkingSetBytes = std::int64_t{2} << 30;  // at least, against 50 MB of second-level cache
constexpr std::int32_t kNumPositions = 131072;
constexpr std::int64_t kChunkTokens = 512;
constexpr std::int32_t kFirstPosition = 4096;

enum class Pages { kShuffled, kInOrder };
enum class Job { kReanchor, kUnanchor, kUnanchorWhole };  // chunk by chunk, or the prompt as one chunk

struct Setting {
  Job job;
  pikv::SlabFormat format;
  pikv::DType target;
  std::int64_t num_tokens;
  Pages pages;
};

constexpr pikv::KvGeometry kGeometry{
    .num_layers = 32, .num_kv_heads = 8, .head_dim = 128, .rotary_dim = 128, .dtype = pikv::DType::kBFloat16};

/// Never destroyed: its memory goes with the backend, which statics would outlive.
const pikv::RopeTable& device_table(pikv::Backend& backend) {
  static const pikv::RopeTable& table = *new pikv::RopeTable([&] {
    pikv::RopeConfig rope(500000.0, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
    rope.scaling =
        pikv::Llama3Scaling{.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_positions = 8192};
    const pikv::RopeTable host = pikv::RopeTable::build(rope, kGeometry.rotary_dim, kNumPositions).value();
    return pikv::copy_table(host, backend, backend.memory_resource()).value();
  }());
  return table;
}

/// Slabs of one prompt's chunks and the pages they go to.
class Prompt {
 public:
  Prompt(const Setting& setting, const pikv::RopeTable& table, std::uint32_t seed)
      : setting_(setting),
        chunk_tokens_(setting.job == Job::kUnanchorWhole ? setting.num_tokens
                                                         : std::min(kChunkTokens, setting.num_tokens)),
        num_chunks_(setting.num_tokens / chunk_tokens_),
        chunk_bytes_(pikv::slab_sections(kGeometry, setting.format, chunk_tokens_).slab_bytes(kGeometry.num_layers)),
        slabs_(static_cast<std::size_t>(num_chunks_ * chunk_bytes_)),
        cache_(static_cast<std::size_t>(setting.num_tokens * kGeometry.elements_per_token() *
                                        pikv::dtype_bytes(setting.target))) {
    const std::int64_t num_pages = setting.num_tokens / kPageSize;
    std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
    std::iota(pages.begin(), pages.end(), 0);
    if (setting.pages == Pages::kShuffled) std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
    pages_.emplace(pages.size() * sizeof(std::int32_t));
    check(cudaMemcpy(pages_->data(), pages.data(), pages_->size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");

    view_.layout = pikv::nhd_pages(kGeometry, kPageSize, num_pages);
    view_.layout.dtype = setting.target;
    view_.k_base = cache_.data();
    view_.v_base = cache_.data() + cache_.size_bytes() / 2;
    view_.num_slots = setting.num_tokens;
    view_.space = pikv::MemorySpace::kDevice;
    const auto* const page_table = reinterpret_cast<const std::int32_t*>(pages_->data());
    for (std::int64_t chunk = 0; chunk < num_chunks_; ++chunk) {
      const pikv::SlotMap rows = pikv::SlotMap::page_table(page_table, kPageSize, chunk * chunk_tokens_, chunk_tokens_);
      const pikv::SlotMap tokens = pikv::SlotMap::consecutive(0, chunk_tokens_);
      const auto positions =
          pikv::PositionMap::consecutive(static_cast<pikv::Position>(kFirstPosition + chunk * chunk_tokens_));
      pikv::KvRun run{.source = {}, .source_slots = tokens, .target_slots = rows, .positions = positions};
      run.slab = pikv::ConstSlabView{.data = slabs_.data() + chunk * chunk_bytes_,
                                     .num_tokens = chunk_tokens_,
                                     .encoding = {.format = setting.format},
                                     .space = pikv::MemorySpace::kDevice};
      runs_.push_back(run);
    }
    transfer_ = pikv::KvTransfer{.geometry = kGeometry,
                                 .runs = runs_,
                                 .target = view_,
                                 .rope = table.view(),
                                 .layer_begin = 0,
                                 .layer_end = kGeometry.num_layers};
  }
  Prompt(const Prompt&) = delete;
  Prompt& operator=(const Prompt&) = delete;

  void reanchor(pikv::Backend& backend, cudaStream_t stream) const {
    check(backend.reanchor_async(transfer_, pikv::cuda_stream(stream)), "reanchor_async");
  }

  /// The inverse: out of the pages, into plain slabs, chunk by chunk.
  void unanchor(pikv::Backend& backend, cudaStream_t stream) const {
    for (const pikv::KvRun& forward : runs_) {
      const pikv::KvRun run{.source = pikv::as_const(view_),
                            .source_slots = forward.target_slots,
                            .target_slots = forward.source_slots,
                            .positions = forward.positions};
      pikv::KvTransfer transfer = transfer_;
      transfer.runs = {&run, 1};
      transfer.target = pikv::plain_view(kGeometry, pikv::SlabView{.data = const_cast<std::byte*>(forward.slab.data),
                                                                   .num_tokens = chunk_tokens_,
                                                                   .space = pikv::MemorySpace::kDevice});
      check(backend.unanchor_async(transfer, pikv::cuda_stream(stream)), "unanchor_async");
    }
  }

  /// Moves as many bytes in all, half of them read and half written. Within the buffers, which may be of unequal size.
  void copy(cudaStream_t stream) const {
    std::size_t left = static_cast<std::size_t>(num_bytes() / 2);
    const std::size_t span = std::min(slabs_.size_bytes(), cache_.size_bytes());
    while (left > 0) {
      const std::size_t piece = std::min(left, span);
      check(cudaMemcpyAsync(cache_.data(), slabs_.data(), piece, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
      left -= piece;
    }
  }

  void two_kernels(const pikv::RopeTable& table, DeviceArray& scratch, cudaStream_t stream) const {
    check(pikv_bench::run_two_kernels(two_kernels_job(table, scratch), stream), "two kernels");
  }
  void flashinfer(const pikv::RopeTable& table, DeviceArray& scratch, const pikv_bench::FlashInferIndices& indices,
                  cudaStream_t stream) const {
    check(pikv_bench::run_flashinfer(two_kernels_job(table, scratch), indices, stream), "FlashInfer's kernels");
  }

  [[nodiscard]] std::int64_t num_bytes() const {
    return static_cast<std::int64_t>(slabs_.size_bytes() + cache_.size_bytes());
  }

 private:
  [[nodiscard]] pikv_bench::TwoKernels two_kernels_job(const pikv::RopeTable& table, DeviceArray& scratch) const {
    const std::int64_t row = std::int64_t{kGeometry.num_kv_heads} * kGeometry.head_dim;
    pikv_bench::TwoKernels job{};
    job.keys = slabs_.data();
    job.values = slabs_.data() + setting_.num_tokens * row * 2;
    job.layer_elements = 2 * setting_.num_tokens * row;
    job.turned_keys = scratch.data();
    job.k_pages = view_.k_base;
    job.v_pages = view_.v_base;
    job.page_layer_elements = setting_.num_tokens * row;
    job.pages = reinterpret_cast<const std::int32_t*>(pages_->data());
    job.table = table.view().values;
    job.first_position = kFirstPosition;
    job.num_layers = kGeometry.num_layers;
    job.num_tokens = static_cast<std::int32_t>(setting_.num_tokens);
    job.num_heads = kGeometry.num_kv_heads;
    job.head_dim = kGeometry.head_dim;
    job.page_size = kPageSize;
    return job;
  }

  Setting setting_;
  std::int64_t chunk_tokens_;
  std::int64_t num_chunks_;
  std::int64_t chunk_bytes_;
  DeviceArray slabs_;
  DeviceArray cache_;
  std::optional<DeviceArray> pages_;
  pikv::KvView view_;
  std::vector<pikv::KvRun> runs_;
  pikv::KvTransfer transfer_;
};

/// FlashInfer's arrays of a prompt.
class FlashInferArrays {
 public:
  explicit FlashInferArrays(std::int64_t num_tokens) : memory_(static_cast<std::size_t>(3 * num_tokens + 3) * 4) {
    const auto count = static_cast<std::size_t>(num_tokens);
    std::vector<std::int32_t> host(3 * count + 3, 0);
    std::iota(host.begin(), host.begin() + num_tokens, kFirstPosition);
    std::iota(host.begin() + 2 * num_tokens, host.begin() + 3 * num_tokens, 0);
    host[3 * count + 1] = static_cast<std::int32_t>(num_tokens / kPageSize);
    host[3 * count + 2] = kPageSize;
    check(cudaMemcpy(memory_.data(), host.data(), memory_.size_bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    auto* const begin = reinterpret_cast<std::int32_t*>(memory_.data());
    indices_ = {begin, begin + num_tokens, begin + 2 * num_tokens, begin + 3 * num_tokens, begin + 3 * num_tokens + 2};
  }
  [[nodiscard]] const pikv_bench::FlashInferIndices& indices() const { return indices_; }

 private:
  DeviceArray memory_;
  pikv_bench::FlashInferIndices indices_{};
};

void bench(benchmark::State& state, pikv::Backend& backend, const Setting& setting) {
  const pikv::RopeTable& table = device_table(backend);
  std::vector<std::unique_ptr<Prompt>> prompts;
  std::int64_t total_bytes = 0;
  while ((total_bytes < kWorkingSetBytes && prompts.size() < 32) || prompts.size() < 2) {
    prompts.push_back(std::make_unique<Prompt>(setting, table, static_cast<std::uint32_t>(prompts.size())));
    total_bytes += prompts.back()->num_bytes();
  }
  const bool has_two = setting.format == pikv::SlabFormat::kPlain && setting.target == pikv::DType::kBFloat16 &&
                       setting.job == Job::kReanchor;
  DeviceArray scratch(
      static_cast<std::size_t>(setting.num_tokens * kGeometry.elements_per_token() / kGeometry.num_layers * 2));
  Stopwatch watch;
  std::size_t next = 0;
  const auto other = [&]() -> const Prompt& { return *prompts[next++ % prompts.size()]; };
  const auto move = [&] {
    const Prompt& prompt = other();
    if (setting.job != Job::kReanchor) return prompt.unanchor(backend, watch.stream());
    prompt.reanchor(backend, watch.stream());
  };
  const auto copy = [&] { other().copy(watch.stream()); };
  const auto two_kernels = [&] { other().two_kernels(table, scratch, watch.stream()); };
  const FlashInferArrays arrays(setting.num_tokens);
  const auto flashinfer = [&] { other().flashinfer(table, scratch, arrays.indices(), watch.stream()); };
  const bool has_flashinfer = has_two && pikv_bench::has_flashinfer();
  for (std::size_t i = 0; i < prompts.size(); ++i) {  // warms up, and loads every kernel
    (void)watch.device_seconds(copy);
    (void)watch.device_seconds(move);
    if (has_two) (void)watch.device_seconds(two_kernels);
    if (has_flashinfer) (void)watch.device_seconds(flashinfer);
  }
  std::vector<double> copies;
  std::vector<double> moves;
  std::vector<double> eager_moves;
  std::vector<double> eager_twos;
  std::vector<double> eager_flashinfers;
  for (auto _ : state) {
    copies.push_back(watch.device_seconds(copy));
    moves.push_back(watch.device_seconds(move));
    state.SetIterationTime(moves.back());
    if (!has_two) continue;
    eager_moves.push_back(watch.eager_seconds(move));
    eager_twos.push_back(watch.eager_seconds(two_kernels));
    if (has_flashinfer) eager_flashinfers.push_back(watch.eager_seconds(flashinfer));
  }
  const auto num_bytes = static_cast<double>(prompts[0]->num_bytes());
  state.counters["MB"] = num_bytes * 1e-6;
  state.counters["us"] = median(moves) * 1e6;
  state.counters["GB/s"] = num_bytes / median(moves) * 1e-9;
  state.counters["copy_GB/s"] = num_bytes / median(copies) * 1e-9;
  state.counters["of_copy"] = median(copies) / median(moves);
  if (has_two) state.counters["over_two"] = median(eager_twos) / median(eager_moves);
  if (has_flashinfer) state.counters["over_flashinfer"] = median(eager_flashinfers) / median(eager_moves);
}

const char* job_name(Job job) {
  return job == Job::kReanchor ? "reanchor/" : job == Job::kUnanchor ? "unanchor/" : "unanchor_whole/";
}

const char* target_name(pikv::DType target) {
  return target == pikv::DType::kBFloat16 ? "bf16" : target == pikv::DType::kFloat16 ? "fp16" : "fp8";
}

void register_one(pikv::Backend& backend, const Setting& setting) {
  const std::string source = setting.format == pikv::SlabFormat::kPlain ? "bf16" : slab_format_name(setting.format);
  const std::string name = std::string(job_name(setting.job)) + source + "-" + target_name(setting.target) + "/" +
                           std::to_string(setting.num_tokens) +
                           (setting.pages == Pages::kShuffled ? "/shuffled" : "/in_order");
  benchmark::RegisterBenchmark(name.c_str(),
                               [&backend, setting](benchmark::State& state) { bench(state, backend, setting); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void register_all(pikv::Backend& backend) {
  using pikv::DType;
  using pikv::SlabFormat;
  for (const std::int64_t num_tokens : {16, 512, 2048, 4096, 16384}) {
    for (const Pages pages : {Pages::kShuffled, Pages::kInOrder}) {
      register_one(backend, {Job::kReanchor, SlabFormat::kPlain, DType::kBFloat16, num_tokens, pages});
    }
    for (const SlabFormat format : {SlabFormat::kFloat8, SlabFormat::kInt8, SlabFormat::kInt4}) {
      register_one(backend, {Job::kReanchor, format, DType::kBFloat16, num_tokens, Pages::kShuffled});
    }
    register_one(backend, {Job::kReanchor, SlabFormat::kPlain, DType::kFloat8E4M3, num_tokens, Pages::kShuffled});
    register_one(backend, {Job::kReanchor, SlabFormat::kFloat8, DType::kFloat8E4M3, num_tokens, Pages::kShuffled});
    for (const Job job : {Job::kUnanchor, Job::kUnanchorWhole}) {
      register_one(backend, {job, SlabFormat::kPlain, DType::kBFloat16, num_tokens, Pages::kShuffled});
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return pikv_bench::run_backend_benchmarks(argc, argv, register_all); }
