#include "pikv/host_tier.hpp"

#include <new>
#include <optional>
#include <string>
#include <utility>

#include "detail/stream_pool.hpp"
#include "pikv/store.hpp"
#include "store_core.hpp"

namespace pikv {
inline namespace v0 {
namespace {

/// Waits for a stream's work however the scope is left: what the work reads and writes is freed behind it.
class SyncAtExit {
 public:
  SyncAtExit(Backend& backend, StreamRef stream) noexcept : backend_(backend), stream_(stream) {}
  SyncAtExit(const SyncAtExit&) = delete;
  SyncAtExit& operator=(const SyncAtExit&) = delete;
  ~SyncAtExit() {
    if (!done_) static_cast<void>(backend_.synchronize(stream_));
  }
  /// Somebody else waits.
  void dismiss() noexcept { done_ = true; }
  [[nodiscard]] Status now() {
    done_ = true;
    return backend_.synchronize(stream_);
  }

 private:
  Backend& backend_;
  StreamRef stream_;
  bool done_ = false;
};

/// A chunk on its way up, or the reason why there is none.
class HostFetch final : public TierFetch {
 public:
  explicit HostFetch(Status failure) noexcept : failure_(std::move(failure)) {}
  HostFetch(Backend& backend, detail::StreamPool::Lease stream, ChunkHandle source, Buffer slab) noexcept
      : backend_(&backend), stream_(std::move(stream)), source_(std::move(source)), slab_(std::move(slab)) {}
  ~HostFetch() override {
    if (stream_.has_value()) static_cast<void>(backend_->synchronize(stream_->ref()));
  }
  HostFetch(const HostFetch&) = delete;
  HostFetch& operator=(const HostFetch&) = delete;

  [[nodiscard]] Result<std::optional<Chunk>> wait() override try {
    if (!failure_.ok()) return failure_;
    if (source_ == nullptr) return std::optional<Chunk>();
    PIKV_TRY(backend_->synchronize(stream_->ref()));
    slab_.release_after(StreamRef::legacy_default());  // the lease's stream serves others from now on
    const ChunkHandle source = std::move(source_);
    return std::optional<Chunk>(Chunk(source->key(), source->recipe(),
                                      {source->tokens().begin(), source->tokens().end()}, source->geometry(),
                                      std::move(slab_), source->encoding()));
  } catch (const std::bad_alloc&) {
    return out_of_memory("host tier: no memory for a chunk's tokens");
  }

 private:
  // Members go in reverse order: the slab before the stream that its memory goes back behind.
  Status failure_;
  Backend* backend_ = nullptr;
  std::optional<detail::StreamPool::Lease> stream_;
  ChunkHandle source_;
  Buffer slab_;
};

class HostTier final : public Tier {
 public:
  HostTier(Backend& backend, std::shared_ptr<detail::StreamPool> streams, std::unique_ptr<Store> chunks, bool readable)
      : backend_(backend), streams_(std::move(streams)), chunks_(std::move(chunks)), readable_(readable) {}

  [[nodiscard]] std::string_view name() const noexcept override { return "host"; }

  [[nodiscard]] Status put(const ChunkHandle& chunk) override try {
    if (chunk == nullptr) return invalid_argument("host tier: put() of no chunk");
    if (chunk->geometry() != chunks_->geometry()) return invalid_argument("host tier: put(): another geometry");
    const bool as_it_is = detail::same_encoding(chunk->encoding(), chunks_->encoding());
    if (!as_it_is && chunk->is_lossy()) {
      return unsupported(std::string("host tier: put() of a chunk in ") + slab_format_name(chunk->encoding().format) +
                         " where " + slab_format_name(chunks_->encoding().format) + " of one bias is kept");
    }
    Result<detail::StreamPool::Lease> stream = streams_->lease();
    if (!stream.ok()) return stream.status();
    Result<ChunkWriter> writer = chunks_->begin_insert(chunk->key(), chunk->recipe(), chunk->tokens(), stream->ref());
    if (!writer.ok()) return writer.status();
    switch (writer->outcome()) {
      case InsertOutcome::kInserted:
        break;
      case InsertOutcome::kAlreadyPresent:
        return {};
      case InsertOutcome::kInProgress:
        return Status(ErrorCode::kUnavailable, "host tier: somebody else is storing this chunk right now");
      case InsertOutcome::kNoRoom:
        return Status(ErrorCode::kQuotaExceeded, "host tier: no room for " + std::to_string(chunk->num_tokens()) +
                                                     " tokens beside what is pinned");
    }
    PIKV_TRY(as_it_is ? copy(*chunk, writer->slab(), stream->ref()) : encode(*chunk, writer->slab(), stream->ref()));
    Result<ChunkHandle> stored = writer->commit();
    return stored.ok() ? Status() : stored.status();
  } catch (const std::bad_alloc&) {
    return out_of_memory("host tier: no memory for the bookkeeping of a chunk");
  }

  [[nodiscard]] std::unique_ptr<TierFetch> begin_fetch(const ChunkKey& key, MemoryResource& memory) override {
    ChunkHandle chunk = chunks_->peek(key);
    if (chunk != nullptr) chunk = chunks_->lookup(key, chunk->tokens()).chunk;  // for its recency
    if (chunk == nullptr) return std::make_unique<HostFetch>(Status());
    Result<detail::StreamPool::Lease> stream = streams_->lease();
    if (!stream.ok()) return std::make_unique<HostFetch>(stream.status());
    Result<Buffer> slab = Buffer::allocate(chunk->slab().size(), memory, stream->ref());
    if (!slab.ok()) return std::make_unique<HostFetch>(slab.status());
    SyncAtExit sync(backend_, stream->ref());
    const Status queued = backend_.copy_async(slab->data(), chunk->slab().data(), chunk->slab().size(), stream->ref());
    if (!queued.ok()) return std::make_unique<HostFetch>(queued);
    auto fetch = std::make_unique<HostFetch>(backend_, std::move(*stream), std::move(chunk), std::move(*slab));
    sync.dismiss();
    return fetch;
  }

  [[nodiscard]] ChunkHandle resident(const ChunkKey& key, std::span<const TokenId> tokens) override {
    return readable_ ? chunks_->lookup(key, tokens).chunk : nullptr;
  }

  [[nodiscard]] Status erase(const ChunkKey& key) override { return chunks_->erase(key); }

  [[nodiscard]] TierStats stats() const override {
    const StoreStats stats = chunks_->stats();
    return {.num_chunks = stats.num_chunks, .used_bytes = stats.used_bytes};
  }

 private:
  [[nodiscard]] Status copy(const Chunk& chunk, const SlabView& target, StreamRef stream) {
    SyncAtExit sync(backend_, stream);
    PIKV_TRY(backend_.copy_async(target.data, chunk.slab().data(), chunk.slab().size(), stream));
    return sync.now();
  }

  [[nodiscard]] Status encode(const Chunk& chunk, const SlabView& target, StreamRef stream) {
    SlabEncode encode{.geometry = chunk.geometry(),
                      .source = chunk.view(),
                      .source_slots = SlotMap::consecutive(0, chunk.num_tokens()),
                      .rope = {},
                      .target = target,
                      .layer_begin = 0,
                      .layer_end = chunk.geometry().num_layers};
    const bool staged = backend_.caps().space == MemorySpace::kDevice;
    const std::int64_t slab_bytes = slab_sections(chunk.geometry(), target.encoding.format, chunk.num_tokens())
                                        .slab_bytes(chunk.geometry().num_layers);
    Buffer staging;
    if (staged) {
      Result<Buffer> allocated =
          Buffer::allocate(static_cast<std::size_t>(slab_bytes), backend_.memory_resource(), stream);
      if (!allocated.ok()) return allocated.status();
      staging = std::move(*allocated);
      encode.target.data = staging.data();
      encode.target.space = staging.space();
    }
    SyncAtExit sync(backend_, stream);  // before the staging memory goes
    PIKV_TRY(backend_.encode_async(encode, stream));
    if (staged) {
      PIKV_TRY(backend_.copy_async(target.data, staging.data(), static_cast<std::size_t>(slab_bytes), stream));
    }
    return sync.now();
  }

  Backend& backend_;
  const std::shared_ptr<detail::StreamPool> streams_;
  const std::unique_ptr<Store> chunks_;
  const bool readable_;  // by the backend, where the chunks lie
};

}  // namespace

Result<std::shared_ptr<Tier>> make_host_tier(const HostTierOptions& options) try {
  if (options.backend == nullptr) return invalid_argument("host tier: backend is null");
  MemoryResource& memory = options.memory != nullptr ? *options.memory : host_memory_resource();
  if (memory.space() == MemorySpace::kDevice) return invalid_argument("host tier: memory is a device's");
  Result<std::unique_ptr<Store>> chunks = Store::create({.geometry = options.geometry,
                                                         .capacity_bytes = options.capacity_bytes,
                                                         .memory = &memory,
                                                         .encoding = options.encoding});
  if (!chunks.ok()) return Status(chunks.status().code(), "host tier: " + std::string(chunks.status().message()));
  auto streams = std::make_shared<detail::StreamPool>(*options.backend);
  if (Result<detail::StreamPool::Lease> first = streams->lease(); !first.ok()) return first.status();
  const bool readable =
      memory.space() == MemorySpace::kPinnedHost || options.backend->caps().space != MemorySpace::kDevice;
  return std::shared_ptr<Tier>(
      std::make_shared<HostTier>(*options.backend, std::move(streams), std::move(*chunks), readable));
} catch (const std::bad_alloc&) {
  return out_of_memory("host tier: no memory for its state");
}

}  // namespace v0
}  // namespace pikv
