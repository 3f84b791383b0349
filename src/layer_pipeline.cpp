#include "pikv/layer_pipeline.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "detail/composition_access.hpp"
#include "detail/single_layer.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::CompositionAccess;

/// A copy engine idles for microseconds between two copies of one stream, and not between those of two.
constexpr std::size_t kNumCopyStreams = 2;

/// What copy engines and vector loads like best.
constexpr std::int64_t kStageAlignment = 256;

/// Copies of this size come near the bus's rate; each has a fixed cost of microseconds.
constexpr std::int64_t kGoodCopyBytes = std::int64_t{4} << 20;

/// A chunk that comes from host memory. Its layers lie one behind the other there, and in a slot of the ring too.
struct StagedChunk {
  ConstSlabView slab;
  std::int64_t layer_bytes = 0;
  std::int64_t offset = 0;  // of its first layer in a slot, in bytes
};

constexpr std::int64_t staged_bytes(const StagedChunk& chunk, std::int32_t num_layers) noexcept {
  return (chunk.layer_bytes * num_layers + kStageAlignment - 1) / kStageAlignment * kStageAlignment;
}

/// A composition's runs, and the chunks among their sources that the backend reads through the ring.
struct StagingPlan {
  static constexpr std::size_t kDirect = static_cast<std::size_t>(-1);

  std::vector<KvRun> runs;
  std::vector<StagedChunk> chunks;
  std::vector<std::size_t> chunk_of_run;  // index into `chunks`, or kDirect
  std::int32_t layers_per_slot = 1;

  [[nodiscard]] std::int64_t slot_bytes(std::int32_t num_layers) const noexcept {
    std::int64_t bytes = 0;
    for (const StagedChunk& chunk : chunks) bytes += staged_bytes(chunk, num_layers);
    return bytes;
  }
};

StagingPlan plan_staging(std::vector<KvRun> runs, const KvGeometry& geometry, MemorySpace backend_space) {
  StagingPlan plan{.runs = std::move(runs), .chunks = {}, .chunk_of_run = {}};
  for (const KvRun& run : plan.runs) {
    if (backend_space != MemorySpace::kDevice || run.slab.space == MemorySpace::kDevice) {
      plan.chunk_of_run.push_back(StagingPlan::kDirect);
      continue;
    }
    // A chunk that stands twice in a prompt comes up once.
    const auto same = std::ranges::find(plan.chunks, run.slab.data, [](const StagedChunk& c) { return c.slab.data; });
    plan.chunk_of_run.push_back(static_cast<std::size_t>(same - plan.chunks.begin()));
    if (same != plan.chunks.end()) continue;
    const std::int64_t layer_bytes = slab_sections(geometry, run.slab.encoding.format, run.slab.num_tokens).layer_bytes;
    plan.chunks.push_back(StagedChunk{run.slab, layer_bytes, 0});
  }
  return plan;
}

/// Takes as many layers into a slot as make good copies, if they fit. Requires: one layer fits.
void fill_slots(StagingPlan& plan, std::int64_t slot_bytes, std::int32_t num_layers) {
  const auto num_chunks = static_cast<std::int64_t>(plan.chunks.size());
  while (plan.layers_per_slot < num_layers && plan.slot_bytes(plan.layers_per_slot) < num_chunks * kGoodCopyBytes &&
         plan.slot_bytes(plan.layers_per_slot + 1) <= slot_bytes) {
    ++plan.layers_per_slot;
  }
  std::int64_t offset = 0;
  for (StagedChunk& chunk : plan.chunks) {
    chunk.offset = offset;
    offset += staged_bytes(chunk, plan.layers_per_slot);
  }
}

template <class T>
Status take(Result<T> made, T& target) {
  if (!made.ok()) return made.status();
  target = std::move(*made);
  return Status();
}

}  // namespace

/// Layers come up in groups: the first alone, since the engine waits for it, the others as many as a slot takes. Events
/// and what they order, for a layer l of group g in slot s = g modulo the number of slots:
///   begin        engine -> copies, place: nothing starts before the engine has come to start()
///   s.uploaded   each copy stream -> place: its chunks' layers of the group are in the slot
///   s.free       place -> copies: the slot's last group has been read, in this composition or the one before
///   placed[l]    place -> engine: the layer is in the engine's pages
/// A wait refers to the event as it was recorded last before the wait was queued, so events are used again and again.
class LayerPipeline::Impl {
 public:
  Impl(Backend& backend, const KvGeometry& geometry, std::int64_t slot_bytes)
      : backend_(backend), geometry_(geometry), slot_bytes_(slot_bytes) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { drain(); }  // the ring may only go once nothing reads or writes it

  [[nodiscard]] Status init(std::int32_t num_slots, MemoryResource& memory) {
    for (std::unique_ptr<Stream>& stream : copy_streams_) PIKV_TRY(take(backend_.create_stream(), stream));
    PIKV_TRY(take(backend_.create_stream(), place_stream_));
    PIKV_TRY(take(backend_.create_event(), begin_));
    placed_.resize(static_cast<std::size_t>(geometry_.num_layers));
    for (std::unique_ptr<Event>& event : placed_) PIKV_TRY(take(backend_.create_event(), event));
    slots_.resize(static_cast<std::size_t>(num_slots));
    for (RingSlot& slot : slots_) {
      PIKV_TRY(take(Buffer::allocate(static_cast<std::size_t>(slot_bytes_), memory, place_stream_->ref()), slot.data));
      for (std::unique_ptr<Event>& event : slot.uploaded) PIKV_TRY(take(backend_.create_event(), event));
      PIKV_TRY(take(backend_.create_event(), slot.free));
      PIKV_TRY(backend_.record(*slot.free, place_stream_->ref()));  // there to be written from here on
    }
    return Status();
  }

  [[nodiscard]] Status start(const Composition& composition, const KvView& target, const SlotMap& rows,
                             StreamRef engine_stream) {
    started_ = false;
    if (&CompositionAccess::backend(composition) != &backend_) {
      return invalid_argument("layer pipeline: the composition belongs to another backend");
    }
    if (CompositionAccess::geometry(composition) != geometry_) {
      return invalid_argument("layer pipeline: the composition has another geometry");
    }
    Result<std::vector<KvRun>> runs = CompositionAccess::runs(composition, rows);
    if (!runs.ok()) return runs.status();
    StagingPlan plan = plan_staging(std::move(*runs), geometry_, backend_.caps().space);
    if (plan.slot_bytes(1) > slot_bytes_) {
      return invalid_argument("layer pipeline: slot_bytes is " + std::to_string(slot_bytes_) +
                              ", the composition needs " + std::to_string(plan.slot_bytes(1)));
    }
    fill_slots(plan, slot_bytes_, geometry_.num_layers);

    PIKV_TRY(validate(as_const(target), geometry_));  // as a whole; layers are then moved one by one

    const Status queued = queue(plan, CompositionAccess::rope(composition), target, engine_stream);
    if (queued.ok()) {
      started_ = true;
    } else {
      drain();  // the caller may drop the composition
    }
    return queued;
  }

  [[nodiscard]] Status wait_layer(std::int32_t layer, StreamRef engine_stream) {
    if (layer < 0 || layer >= geometry_.num_layers) {
      return invalid_argument("layer pipeline: layer " + std::to_string(layer) + " of " +
                              std::to_string(geometry_.num_layers));
    }
    if (!started_) return invalid_argument("layer pipeline: no composition has been started");
    return backend_.wait(*placed_[static_cast<std::size_t>(layer)], engine_stream);
  }

 private:
  void drain() noexcept {
    for (const std::unique_ptr<Stream>& stream : copy_streams_) {
      if (stream != nullptr) static_cast<void>(backend_.synchronize(stream->ref()));
    }
    if (place_stream_ != nullptr) static_cast<void>(backend_.synchronize(place_stream_->ref()));
  }

  struct RingSlot {
    Buffer data;
    std::array<std::unique_ptr<Event>, kNumCopyStreams> uploaded;
    std::unique_ptr<Event> free;
  };

  [[nodiscard]] Status queue(const StagingPlan& plan, const RopeTableView& rope, const KvView& target,
                             StreamRef engine_stream) {
    PIKV_TRY(backend_.record(*begin_, engine_stream));
    for (const std::unique_ptr<Stream>& stream : copy_streams_) PIKV_TRY(backend_.wait(*begin_, stream->ref()));
    PIKV_TRY(backend_.wait(*begin_, place_stream_->ref()));
    std::size_t group = 0;
    for (std::int32_t begin = 0; begin < geometry_.num_layers; ++group) {
      const std::int32_t end = group == 0 ? 1 : std::min(begin + plan.layers_per_slot, geometry_.num_layers);
      RingSlot& slot = slots_[group % slots_.size()];
      if (!plan.chunks.empty()) PIKV_TRY(queue_upload(plan, begin, end, slot));
      for (std::int32_t layer = begin; layer < end; ++layer) {
        PIKV_TRY(queue_placing(plan, layer, layer - begin, slot, rope, target));
      }
      if (!plan.chunks.empty()) PIKV_TRY(backend_.record(*slot.free, place_stream_->ref()));
      begin = end;
    }
    return Status();
  }

  /// Layers [begin, end) of every staged chunk into the slot.
  [[nodiscard]] Status queue_upload(const StagingPlan& plan, std::int32_t begin, std::int32_t end, RingSlot& slot) {
    for (std::size_t i = 0; i < kNumCopyStreams; ++i) {
      const StreamRef stream = copy_streams_[i]->ref();
      PIKV_TRY(backend_.wait(*slot.free, stream));
      for (std::size_t j = i; j < plan.chunks.size(); j += kNumCopyStreams) {
        const StagedChunk& chunk = plan.chunks[j];
        PIKV_TRY(backend_.copy_async(slot.data.data() + chunk.offset, chunk.slab.data + begin * chunk.layer_bytes,
                                     static_cast<std::size_t>((end - begin) * chunk.layer_bytes), stream));
      }
      PIKV_TRY(backend_.record(*slot.uploaded[i], stream));
      PIKV_TRY(backend_.wait(*slot.uploaded[i], place_stream_->ref()));
    }
    return Status();
  }

  /// The layer into the engine's pages; staged chunks have it in the slot, `layer_in_slot` layers from their first.
  [[nodiscard]] Status queue_placing(const StagingPlan& plan, std::int32_t layer, std::int32_t layer_in_slot,
                                     const RingSlot& slot, const RopeTableView& rope, const KvView& target) {
    KvGeometry one_layer = geometry_;
    one_layer.num_layers = 1;
    std::vector<KvRun> runs = plan.runs;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      runs[i].slab = slab_layer(geometry_, runs[i].slab, layer);
      if (plan.chunk_of_run[i] == StagingPlan::kDirect) continue;
      const StagedChunk& chunk = plan.chunks[plan.chunk_of_run[i]];
      runs[i].slab.data = slot.data.data() + chunk.offset + layer_in_slot * chunk.layer_bytes;
      runs[i].slab.space = slot.data.space();
    }
    const StreamRef stream = place_stream_->ref();
    PIKV_TRY(backend_.reanchor_async(KvTransfer{.geometry = one_layer,
                                                .runs = runs,
                                                .target = detail::single_layer(target, layer),
                                                .rope = rope,
                                                .layer_begin = 0,
                                                .layer_end = 1},
                                     stream));
    return backend_.record(*placed_[static_cast<std::size_t>(layer)], stream);
  }

  Backend& backend_;
  const KvGeometry geometry_;
  const std::int64_t slot_bytes_;
  // Members go in reverse order: the ring before the stream that its memory goes back behind.
  std::array<std::unique_ptr<Stream>, kNumCopyStreams> copy_streams_;
  std::unique_ptr<Stream> place_stream_;
  std::unique_ptr<Event> begin_;
  std::vector<std::unique_ptr<Event>> placed_;  // [L]
  std::vector<RingSlot> slots_;
  bool started_ = false;
};

Result<LayerPipeline> LayerPipeline::create(Backend& backend, const KvGeometry& geometry,
                                            const LayerPipelineOptions& options) try {
  PIKV_TRY(validate(geometry));
  if (options.slot_bytes <= 0) {
    return invalid_argument("layer pipeline: slot_bytes is " + std::to_string(options.slot_bytes) + ", not positive");
  }
  if (options.num_slots <= 0) {
    return invalid_argument("layer pipeline: num_slots is " + std::to_string(options.num_slots) + ", not positive");
  }
  MemoryResource& memory = options.memory != nullptr ? *options.memory : backend.memory_resource();
  if (memory.space() != backend.caps().space) {
    return invalid_argument("layer pipeline: memory is not in the backend's memory space");
  }
  auto impl = std::make_unique<Impl>(backend, geometry, options.slot_bytes);
  PIKV_TRY(impl->init(options.num_slots, memory));
  return LayerPipeline(std::move(impl));
} catch (const std::bad_alloc&) {
  return out_of_memory("layer pipeline: no memory for its state");
}

LayerPipeline::LayerPipeline(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
LayerPipeline::LayerPipeline(LayerPipeline&&) noexcept = default;
LayerPipeline& LayerPipeline::operator=(LayerPipeline&&) noexcept = default;
LayerPipeline::~LayerPipeline() = default;

Status LayerPipeline::start(const Composition& composition, const KvView& target, const SlotMap& rows,
                            StreamRef engine_stream) try {
  return impl_->start(composition, target, rows, engine_stream);
} catch (const std::bad_alloc&) {
  return out_of_memory("layer pipeline: no memory for the list of runs");
}

Status LayerPipeline::wait_layer(std::int32_t layer, StreamRef engine_stream) {
  return impl_->wait_layer(layer, engine_stream);
}

std::int64_t LayerPipeline::required_slot_bytes(const Composition& composition) {
  const SlotMap rows = SlotMap::consecutive(0, composition.plan().num_rows());
  Result<std::vector<KvRun>> runs = CompositionAccess::runs(composition, rows);
  if (!runs.ok()) return 0;  // cannot be: one slot for each row
  return plan_staging(std::move(*runs), CompositionAccess::geometry(composition),
                      CompositionAccess::backend(composition).caps().space)
      .slot_bytes(1);
}

}  // namespace v0
}  // namespace pikv
