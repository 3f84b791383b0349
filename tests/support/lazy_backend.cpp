#include "support/lazy_backend.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace test_support {
namespace {

constexpr int kPoison = 0xCD;

template <class View>
View on_host(View view) {
  view.space = pikv::MemorySpace::kHost;
  return view;
}

/// A transfer's arrays that are read before a call returns, kept until it runs.
struct KeptBases {
  std::vector<std::byte*> k, v;
  void keep(pikv::KvView& view, std::int32_t num_layers) {
    if (view.k_layers == nullptr) return;
    k.assign(view.k_layers, view.k_layers + num_layers);
    v.assign(view.v_layers, view.v_layers + num_layers);
    view.k_layers = k.data();
    view.v_layers = v.data();
  }
};

}  // namespace

pikv::Result<void*> FakeDeviceMemory::allocate_async(std::size_t size_bytes, pikv::StreamRef stream) {
  pikv::Result<void*> data = pikv::host_memory_resource().allocate_async(size_bytes, stream);
  if (!data.ok()) return data;
  std::memset(*data, kPoison, size_bytes);
  live_bytes_ += static_cast<std::int64_t>(size_bytes);
  ++num_allocations_;
  return data;
}

void FakeDeviceMemory::deallocate_async(void* data, std::size_t size_bytes, pikv::StreamRef stream) noexcept {
  live_bytes_ -= static_cast<std::int64_t>(size_bytes);
  std::memset(data, kPoison, size_bytes);  // work that comes too late reads this, or is seen by a sanitizer
  pikv::host_memory_resource().deallocate_async(data, size_bytes, stream);
}

struct LazyBackend::LazyEvent final : pikv::Event {
  std::uint64_t num_recorded = 0;
  std::shared_ptr<Happened> happened = std::make_shared<Happened>();
};

struct LazyBackend::LazyStream final : pikv::Stream {
  explicit LazyStream(Queue& queue_) : queue(queue_) {}
  [[nodiscard]] pikv::StreamRef ref() const noexcept override { return pikv::StreamRef::from_handle(&queue); }
  Queue& queue;
};

LazyBackend::LazyBackend(LazyOrder order, std::uint32_t seed)
    : order_(order), random_(seed), cpu_(pikv::make_cpu_backend({.num_threads = 1})) {
  queues_.push_back(std::make_shared<Queue>());
}

LazyBackend::~LazyBackend() = default;

pikv::BackendCaps LazyBackend::caps() const noexcept {
  return {.name = "lazy", .space = pikv::MemorySpace::kDevice, .asynchronous = true};
}

pikv::Status LazyBackend::reanchor_async(const pikv::KvTransfer& transfer, pikv::StreamRef stream) {
  return move(transfer, /*reanchor=*/true, stream);
}

pikv::Status LazyBackend::unanchor_async(const pikv::KvTransfer& transfer, pikv::StreamRef stream) {
  return move(transfer, /*reanchor=*/false, stream);
}

pikv::Status LazyBackend::move(const pikv::KvTransfer& transfer, bool reanchor, pikv::StreamRef stream) {
  PIKV_TRY(pikv::validate(transfer, caps()));
  auto bases = std::make_shared<KeptBases>();
  pikv::KvTransfer kept = transfer;
  kept.target = on_host(kept.target);
  bases->keep(kept.target, transfer.geometry.num_layers);
  std::vector<pikv::KvRun> runs(transfer.runs.begin(), transfer.runs.end());
  for (pikv::KvRun& run : runs) {
    run.source = on_host(run.source);
    run.slab = on_host(run.slab);
  }
  enqueue(
      [this, kept, runs = std::move(runs), bases, reanchor]() mutable {
        kept.runs = runs;
        const pikv::StreamRef any = pikv::StreamRef::legacy_default();
        note(reanchor ? cpu_->reanchor_async(kept, any) : cpu_->unanchor_async(kept, any));
      },
      stream);
  return {};
}

pikv::Status LazyBackend::encode_async(const pikv::SlabEncode& encode, pikv::StreamRef stream) {
  PIKV_TRY(pikv::validate(encode, caps()));
  pikv::SlabEncode kept = encode;
  kept.source = on_host(kept.source);
  kept.target = on_host(kept.target);
  enqueue([this, kept] { note(cpu_->encode_async(kept, pikv::StreamRef::legacy_default())); }, stream);
  return {};
}

pikv::Status LazyBackend::copy_async(void* target, const void* source, std::size_t size_bytes, pikv::StreamRef stream) {
  if (target == nullptr || source == nullptr) return pikv::invalid_argument("lazy copy: null");
  enqueue(
      [this, target, source, size_bytes] {
        std::memcpy(target, source, size_bytes);
        num_copied_bytes_ += static_cast<std::int64_t>(size_bytes);
      },
      stream);
  return {};
}

pikv::Result<std::unique_ptr<pikv::Stream>> LazyBackend::create_stream() {
  queues_.push_back(std::make_shared<Queue>());
  return std::unique_ptr<pikv::Stream>(new LazyStream(*queues_.back()));
}

pikv::Result<std::unique_ptr<pikv::Event>> LazyBackend::create_event() {
  return std::unique_ptr<pikv::Event>(new LazyEvent);
}

pikv::Status LazyBackend::record(pikv::Event& event, pikv::StreamRef stream) {
  auto& lazy = dynamic_cast<LazyEvent&>(event);
  const std::uint64_t count = ++lazy.num_recorded;
  enqueue([happened = lazy.happened, count] { happened->count = std::max(happened->count, count); }, stream);
  return {};
}

pikv::Status LazyBackend::wait(const pikv::Event& event, pikv::StreamRef stream) {
  const auto& lazy = dynamic_cast<const LazyEvent&>(event);
  push(stream, Work{.after = lazy.happened, .after_count = lazy.num_recorded, .run = {}});
  return {};
}

pikv::Status LazyBackend::synchronize(pikv::StreamRef stream) {
  ++num_synchronizes_;
  const Queue& queue = queue_of(stream);
  while (!queue.work.empty()) {
    if (!run_one()) return pikv::Status(pikv::ErrorCode::kInternal, "lazy backend: streams wait for each other");
  }
  return failure_;
}

void LazyBackend::enqueue(std::function<void()> work, pikv::StreamRef stream) {
  push(stream, Work{.after = {}, .after_count = 0, .run = std::move(work)});
}

LazyBackend::Queue& LazyBackend::queue_of(pikv::StreamRef stream) {
  return stream.handle() == nullptr ? *queues_.front() : *static_cast<Queue*>(stream.handle());
}

bool LazyBackend::run_one() {
  const auto ready = [](const Queue& queue) {
    if (queue.work.empty()) return false;
    const Work& first = queue.work.front();
    return first.after == nullptr || first.after->count >= first.after_count;
  };
  std::vector<Queue*> able;
  for (const std::shared_ptr<Queue>& queue : queues_) {
    if (ready(*queue)) able.push_back(queue.get());
  }
  if (able.empty()) return false;
  Queue* chosen = able.front();
  if (order_ == LazyOrder::kNewestFirst) chosen = able.back();
  if (order_ == LazyOrder::kRandom) chosen = able[random_() % able.size()];
  const Work work = std::move(chosen->work.front());
  chosen->work.pop_front();
  if (work.run) work.run();
  return true;
}

void LazyBackend::note(const pikv::Status& status) {
  if (!status.ok() && failure_.ok()) {
    failure_ = pikv::Status(pikv::ErrorCode::kInternal, "lazy backend: accepted, then: " + status.to_string());
  }
}

}  // namespace test_support
