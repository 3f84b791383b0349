#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "cuda/error.hpp"
#include "cuda/transfer_params.hpp"
#include "kernels/launch.hpp"
#include "pikv/cuda.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::cuda_status;
using detail::DeviceScope;
using detail::for_each_launch;

cudaStream_t stream_of(StreamRef stream) noexcept { return static_cast<cudaStream_t>(stream.handle()); }

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(cudaEvent_t event) noexcept : event_(event) {}
  ~CudaEvent() override { (void)cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  [[nodiscard]] cudaEvent_t event() const noexcept { return event_; }

 private:
  cudaEvent_t event_;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(cudaStream_t stream) noexcept : stream_(stream) {}
  ~CudaStream() override { (void)cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] StreamRef ref() const noexcept override { return cuda_stream(stream_); }

 private:
  cudaStream_t stream_;
};

/// Words that kernels write when they meet a slot or position out of range, and that the host reads without waiting.
class FlawWords {
 public:
  [[nodiscard]] static Result<FlawWords> create() {
    void* host = nullptr;
    PIKV_TRY(cuda_status(
        cudaHostAlloc(&host, kernels::kNumFlaws * sizeof(std::uint32_t), cudaHostAllocMapped | cudaHostAllocPortable),
        "cudaHostAlloc"));
    FlawWords words(static_cast<std::uint32_t*>(host));
    std::fill_n(words.host_, kernels::kNumFlaws, 0U);
    void* device = nullptr;
    PIKV_TRY(cuda_status(cudaHostGetDevicePointer(&device, host, 0), "cudaHostGetDevicePointer"));
    words.device_ = static_cast<std::uint32_t*>(device);
    return words;
  }
  FlawWords(FlawWords&& other) noexcept
      : host_(std::exchange(other.host_, nullptr)), device_(std::exchange(other.device_, nullptr)) {}
  FlawWords& operator=(FlawWords&&) = delete;
  ~FlawWords() {
    if (host_ != nullptr) (void)cudaFreeHost(host_);
  }

  [[nodiscard]] std::uint32_t* device() const noexcept { return device_; }
  /// Reported once.
  [[nodiscard]] Status take() const {
    bool found[kernels::kNumFlaws];
    for (int flaw = 0; flaw < kernels::kNumFlaws; ++flaw) {
      std::atomic_ref<std::uint32_t> word(host_[flaw]);
      found[flaw] = word.load(std::memory_order_relaxed) != 0 && word.exchange(0) != 0;
    }
    if (!found[kernels::kBadSlot] && !found[kernels::kBadPosition]) return {};
    std::string what = "cuda: an earlier transfer left tokens out: ";
    if (found[kernels::kBadSlot]) what += "slots out of range";
    if (found[kernels::kBadSlot] && found[kernels::kBadPosition]) what += ", ";
    if (found[kernels::kBadPosition]) what += "positions outside the table";
    return invalid_argument(what);
  }

 private:
  explicit FlawWords(std::uint32_t* host) noexcept : host_(host) {}
  std::uint32_t* host_;
  std::uint32_t* device_ = nullptr;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, std::unique_ptr<MemoryResource> memory, FlawWords flaws) noexcept
      : device_(device), memory_(std::move(memory)), flaws_(std::move(flaws)) {}

  BackendCaps caps() const noexcept override {
    return BackendCaps{.name = "cuda", .space = MemorySpace::kDevice, .asynchronous = true};
  }
  MemoryResource& memory_resource() noexcept override { return *memory_; }

  Status reanchor_async(const KvTransfer& transfer, StreamRef stream) override {
    PIKV_TRY(validate(transfer, caps()));
    return move(transfer, /*turns_back=*/false, stream);
  }

  Status unanchor_async(const KvTransfer& transfer, StreamRef stream) override {
    PIKV_TRY(validate(transfer, caps()));
    for (std::size_t i = 0; i < transfer.runs.size(); ++i) {
      if (transfer.runs[i].slab.data == nullptr) continue;
      return invalid_argument("KvTransfer: runs[" + std::to_string(i) + "].slab: a slab holds semantic keys already");
    }
    return move(transfer, /*turns_back=*/transfer.rope.turns(), stream);
  }

  Status encode_async(const SlabEncode& encode, StreamRef stream) override {
    PIKV_TRY(validate(encode, caps()));
    if (encode.target.encoding.format == SlabFormat::kPlain) {
      const KvRun run{.source = encode.source,
                      .source_slots = encode.source_slots,
                      .target_slots = SlotMap::consecutive(0, encode.target.num_tokens),
                      .positions = encode.positions};
      const KvTransfer transfer{.geometry = encode.geometry,
                                .runs = {&run, 1},
                                .target = plain_view(encode.geometry, encode.target),
                                .rope = encode.rope,
                                .layer_begin = encode.layer_begin,
                                .layer_end = encode.layer_end};
      return move(transfer, encode.rope.turns(), stream);
    }
    return on_device([&] {
      return for_each_launch(encode, flaws_.device(), [&](const kernels::EncodeParams& params) {
        return cuda_status(kernels::launch_encode(params, stream_of(stream)), "encode kernel");
      });
    });
  }

  Status copy_async(void* target, const void* source, std::size_t size_bytes, StreamRef stream) override {
    if (size_bytes == 0) return {};
    if (target == nullptr) return invalid_argument("copy: target is null");
    if (source == nullptr) return invalid_argument("copy: source is null");
    return on_device([&] {
      return cuda_status(cudaMemcpyAsync(target, source, size_bytes, cudaMemcpyDefault, stream_of(stream)),
                         "cudaMemcpyAsync");
    });
  }

  Result<std::unique_ptr<Stream>> create_stream() override {
    cudaStream_t stream = nullptr;
    PIKV_TRY(on_device([&] {
      return cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    }));
    return std::unique_ptr<Stream>(new CudaStream(stream));
  }

  Result<std::unique_ptr<Event>> create_event() override {
    cudaEvent_t event = nullptr;
    PIKV_TRY(on_device([&] {
      return cuda_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    }));
    return std::unique_ptr<Event>(new CudaEvent(event));
  }

  Status record(Event& event, StreamRef stream) override {
    auto* const cuda_event = dynamic_cast<CudaEvent*>(&event);
    if (cuda_event == nullptr) return invalid_argument("event was made by another backend");
    return on_device(
        [&] { return cuda_status(cudaEventRecord(cuda_event->event(), stream_of(stream)), "cudaEventRecord"); });
  }

  Status wait(const Event& event, StreamRef stream) override {
    const auto* const cuda_event = dynamic_cast<const CudaEvent*>(&event);
    if (cuda_event == nullptr) return invalid_argument("event was made by another backend");
    return on_device([&] {
      return cuda_status(cudaStreamWaitEvent(stream_of(stream), cuda_event->event(), 0), "cudaStreamWaitEvent");
    });
  }

  Status synchronize(StreamRef stream) override {
    PIKV_TRY(on_device([&] { return cuda_status(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize"); }));
    return flaws_.take();
  }

 private:
  /// Runs `work` with the device selected, and remembers a failure from which CUDA does not recover.
  template <class Work>
  [[nodiscard]] Status on_device(const Work& work) {
    if (failed_.load(std::memory_order_acquire)) {
      return Status(ErrorCode::kDeviceError, "cuda: the device failed earlier; make a new backend in a new process");
    }
    PIKV_TRY(flaws_.take());
    const DeviceScope scope(device_);
    PIKV_TRY(scope.status());
    Status status = work();
    if (status.code() == ErrorCode::kDeviceError) failed_.store(true, std::memory_order_release);
    return status;
  }

  [[nodiscard]] static cudaError_t start(const detail::ReanchorLaunch& launch, cudaStream_t stream) {
    switch (launch.path) {
      case detail::KernelPath::kStripes:
        return kernels::launch_reanchor_stripes(launch.params, launch.target, stream);
      case detail::KernelPath::kVectors:
        return kernels::launch_reanchor_vectors(launch.params, launch.source, launch.target, stream);
      case detail::KernelPath::kElements:
        break;
    }
    return kernels::launch_reanchor_elements(launch.params, launch.source, launch.target, stream);
  }

  [[nodiscard]] Status move(const KvTransfer& transfer, bool turns_back, StreamRef stream) {
    return on_device([&] {
      return for_each_launch(transfer, turns_back, flaws_.device(), [&](const detail::ReanchorLaunch& launch) {
        return cuda_status(start(launch, stream_of(stream)), "re-anchor kernel");
      });
    });
  }

  const int device_;
  const std::unique_ptr<MemoryResource> memory_;
  const FlawWords flaws_;
  std::atomic<bool> failed_{false};
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaBackendOptions& options) {
  constexpr int kMinMajor = 9;
  int num_devices = 0;
  PIKV_TRY(cuda_status(cudaGetDeviceCount(&num_devices), "cudaGetDeviceCount"));
  if (options.device < 0 || options.device >= num_devices) {
    return Status(ErrorCode::kUnavailable,
                  "cuda: device " + std::to_string(options.device) + " of " + std::to_string(num_devices) + " devices");
  }
  int major = 0;
  PIKV_TRY(cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, options.device),
                       "cudaDeviceGetAttribute"));
  if (major < kMinMajor) {
    return unsupported("cuda: device " + std::to_string(options.device) + " has compute capability " +
                       std::to_string(major) + ".x, 9.0 is needed");
  }
  const DeviceScope scope(options.device);
  PIKV_TRY(scope.status());
  Result<std::unique_ptr<MemoryResource>> memory = make_cuda_device_memory(options.device);
  if (!memory.ok()) return memory.status();
  Result<FlawWords> flaws = FlawWords::create();
  if (!flaws.ok()) return flaws.status();
  return std::unique_ptr<Backend>(new CudaBackend(options.device, std::move(*memory), std::move(*flaws)));
}

}  // namespace v0
}  // namespace pikv
