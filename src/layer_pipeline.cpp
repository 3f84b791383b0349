#include "pikv/layer_pipeline.hpp"

#include <algorithm>
#include <array>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "detail/composition_access.hpp"
#include "detail/layers_from.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::CompositionAccess;

/// A copy engine idles for microseconds between two copies of one stream, and not between those of two.
constexpr std::size_t kNumCopyStreams = 2;

/// What copy engines and vector loads like best.
constexpr std::int64_t kStageAlignment = 256;

/// Copies of this size come near the bus's rate; each has a fixed cost of microseconds.
constexpr std::int64_t kGoodCopyBytes = std::int64_t{3} << 20;

/// A chunk that comes from host memory. Its layers lie one behind the other there, and in a slot of the ring too.
struct StagedChunk {
  ConstSlabView slab;
  std::int64_t layer_bytes = 0;
  std::int64_t offset = 0;  // of its first layer in a slot, in bytes
};

constexpr std::int64_t staged_bytes(const StagedChunk& chunk, std::int32_t num_layers) noexcept {
  return (chunk.layer_bytes * num_layers + kStageAlignment - 1) / kStageAlignment * kStageAlignment;
}

/// A composition's runs, and the chunks among their sources that the backend reads through the ring. Layers come up in
/// groups, as many as a slot takes, but in smaller ones towards both ends: nothing computes while the first comes up,
/// and nothing comes up while the last is computed with.
struct StagingPlan {
  static constexpr std::size_t kDirect = static_cast<std::size_t>(-1);

  std::vector<KvRun> runs;
  std::vector<StagedChunk> chunks;
  std::vector<std::size_t> chunk_of_run;  // index into `chunks`, or kDirect
  std::vector<std::int32_t> group_begins;  // layers, [number of groups + 1]
  std::int32_t layers_per_slot = 1;

  [[nodiscard]] std::int64_t slot_bytes(std::int32_t num_layers) const noexcept {
    std::int64_t bytes = 0;
    for (const StagedChunk& chunk : chunks) bytes += staged_bytes(chunk, num_layers);
    return bytes;
  }
  [[nodiscard]] std::int32_t num_groups() const noexcept { return static_cast<std::int32_t>(group_begins.size()) - 1; }
  [[nodiscard]] std::int32_t group_of(std::int32_t layer) const noexcept {
    return static_cast<std::int32_t>(std::ranges::upper_bound(group_begins, layer) - group_begins.begin()) - 1;
  }
  [[nodiscard]] std::int32_t first_layer(std::int32_t group) const noexcept {
    return group_begins[static_cast<std::size_t>(group)];
  }
};

StagingPlan plan_staging(std::vector<KvRun> runs, const KvGeometry& geometry, MemorySpace backend_space) {
  StagingPlan plan{.runs = std::move(runs), .chunks = {}, .chunk_of_run = {}, .group_begins = {}};
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

/// One layer, two, four ... and as many as a slot takes; of the last layers, half of what is left.
void form_groups(StagingPlan& plan, std::int32_t num_layers) {
  std::int32_t ramp = 1;
  for (std::int32_t layer = 0; layer < num_layers; ramp = std::min(2 * ramp, plan.layers_per_slot)) {
    plan.group_begins.push_back(layer);
    layer += std::min(ramp, std::max(1, (num_layers - layer) / 2));
  }
  plan.group_begins.push_back(num_layers);
}

template <class T>
Status take(Result<T> made, T& target) {
  if (!made.ok()) return made.status();
  target = std::move(*made);
  return Status();
}

}  // namespace

/// Events, and what they order for group g in slot s = g modulo the number of slots:
///   begin        engine -> copies, place: nothing starts before the engine has come to start()
///   s.uploaded   each copy stream -> place: its chunks' layers of the group are in the slot
///   s.free       place -> copies: the slot's last group has been read, in this composition or the one before
///   placed[g]    place -> engine: the group is in the engine's pages
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
    if (under_way_) PIKV_TRY(queue_through(under_way_->plan.num_groups() - 1));  // of the composition before
    under_way_.reset();
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
    form_groups(plan, geometry_.num_layers);

    PIKV_TRY(validate(as_const(target), geometry_));  // as a whole; groups of layers are then moved one by one

    PIKV_TRY(queue_begin(engine_stream));
    under_way_.emplace(UnderWay{.plan = std::move(plan), .rope = CompositionAccess::rope(composition), .target = target});
    return queue_through(0);
  }

  [[nodiscard]] Status wait_layer(std::int32_t layer, StreamRef engine_stream) {
    if (layer < 0 || layer >= geometry_.num_layers) {
      return invalid_argument("layer pipeline: layer " + std::to_string(layer) + " of " +
                              std::to_string(geometry_.num_layers));
    }
    if (!under_way_) return invalid_argument("layer pipeline: no composition has been started");
    const std::int32_t group = under_way_->plan.group_of(layer);
    // The ring is kept full, and no fuller: the engine's own work is queued in between, and need not come last.
    const auto ahead = static_cast<std::int32_t>(slots_.size()) - 1;
    PIKV_TRY(queue_through(std::min(under_way_->plan.num_groups() - 1, group + ahead)));
    return backend_.wait(*placed_[static_cast<std::size_t>(group)], engine_stream);
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

  /// A composition whose layers are being queued.
  struct UnderWay {
    StagingPlan plan;
    RopeTableView rope;
    KvView target;
    std::int32_t num_groups_queued = 0;
  };

  [[nodiscard]] Status queue_begin(StreamRef engine_stream) {
    PIKV_TRY(backend_.record(*begin_, engine_stream));
    for (const std::unique_ptr<Stream>& stream : copy_streams_) PIKV_TRY(backend_.wait(*begin_, stream->ref()));
    return backend_.wait(*begin_, place_stream_->ref());
  }

  /// Every group up to `group`, as far as it has not been. After an error nothing is under way.
  [[nodiscard]] Status queue_through(std::int32_t group) {
    while (under_way_ && under_way_->num_groups_queued <= group) {
      const Status queued = queue_group(under_way_->num_groups_queued++);
      if (queued.ok()) continue;
      drain();  // the caller may drop the composition
      under_way_.reset();
      return queued;
    }
    return Status();
  }

  [[nodiscard]] Status queue_group(std::int32_t group) {
    const StagingPlan& plan = under_way_->plan;
    const std::int32_t begin = plan.first_layer(group);
    const std::int32_t end = plan.first_layer(group + 1);
    RingSlot& slot = slots_[static_cast<std::size_t>(group) % slots_.size()];
    if (!plan.chunks.empty()) PIKV_TRY(queue_upload(plan, begin, end, slot));
    PIKV_TRY(queue_placing(begin, end, slot));
    if (!plan.chunks.empty()) PIKV_TRY(backend_.record(*slot.free, place_stream_->ref()));
    return backend_.record(*placed_[static_cast<std::size_t>(group)], place_stream_->ref());
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

  /// Layers [begin, end) into the engine's pages; staged chunks have them in the slot.
  [[nodiscard]] Status queue_placing(std::int32_t begin, std::int32_t end, const RingSlot& slot) {
    const StagingPlan& plan = under_way_->plan;
    KvGeometry group = geometry_;
    group.num_layers = end - begin;
    std::vector<KvRun> runs = plan.runs;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      runs[i].slab = slab_layer(geometry_, runs[i].slab, begin);
      if (plan.chunk_of_run[i] == StagingPlan::kDirect) continue;
      runs[i].slab.data = slot.data.data() + plan.chunks[plan.chunk_of_run[i]].offset;
      runs[i].slab.space = slot.data.space();
    }
    return backend_.reanchor_async(KvTransfer{.geometry = group,
                                              .runs = runs,
                                              .target = detail::layers_from(under_way_->target, begin),
                                              .rope = under_way_->rope,
                                              .layer_begin = 0,
                                              .layer_end = group.num_layers},
                                   place_stream_->ref());
  }

  Backend& backend_;
  const KvGeometry geometry_;
  const std::int64_t slot_bytes_;
  // Members go in reverse order: the ring before the stream that its memory goes back behind.
  std::array<std::unique_ptr<Stream>, kNumCopyStreams> copy_streams_;
  std::unique_ptr<Stream> place_stream_;
  std::unique_ptr<Event> begin_;
  std::vector<std::unique_ptr<Event>> placed_;  // [L], of groups: there are no more of them than layers
  std::vector<RingSlot> slots_;
  std::optional<UnderWay> under_way_;  // none before the first start() and after an error
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

Status LayerPipeline::wait_layer(std::int32_t layer, StreamRef engine_stream) try {
  return impl_->wait_layer(layer, engine_stream);
} catch (const std::bad_alloc&) {
  return out_of_memory("layer pipeline: no memory for the list of runs");
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
