#include "mini_engine/pikv_bridge.hpp"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"

namespace mini_engine {
namespace {

std::vector<std::byte> random_secret() {
  std::random_device device;
  std::vector<std::byte> secret(32);
  for (std::byte& byte : secret) byte = static_cast<std::byte>(device());
  return secret;
}

/// Blocks of exact prefix among the rows that the plan computes; their source slots are yet to be said.
std::vector<pikv::CaptureItem> prefix_items(const pikv::ChunkKeyer& keyer, const pikv::CompositionPlan& plan,
                                            std::int32_t block_tokens) {
  std::vector<pikv::Slot> slots(static_cast<std::size_t>(plan.num_rows()), pikv::kSkipSlot);
  for (const std::int32_t row : plan.rows_to_compute()) slots[static_cast<std::size_t>(row)] = row;
  return pikv::exact_prefix_items(keyer, plan, block_tokens, pikv::SlotMap::per_token(slots.data(), plan.num_rows()));
}

/// The plan with all rows from `first` on computed, wherever else they could come from.
pikv::CompositionPlan computed_from(const pikv::CompositionPlan& plan, std::int64_t first) {
  std::vector<std::size_t> pieces;
  for (std::size_t i = 0; i < plan.pieces().size(); ++i) {
    if (plan.pieces()[i].cached() && plan.pieces()[i].row_end > first) pieces.push_back(i);
  }
  return take(plan.without(pieces, std::vector<pikv::MissReason>(pieces.size(), pikv::MissReason::kNone)));
}

}  // namespace

struct ChunkServer::Impl {
  Model& model;
  PagedCache& cache;
  std::unique_ptr<pikv::Backend> own_backend;
  pikv::Backend& backend;
  std::unique_ptr<pikv::RowScorer> own_scorer;
  pikv::RowScorer& scorer;
  std::unique_ptr<pikv::DriftCorrector> own_corrector;
  pikv::DriftCorrector& corrector;
  pikv::StreamRef stream;
  pikv::MemorySpace space;
  std::unique_ptr<pikv::Store> store;
  pikv::ChunkKeyer keyer;
  pikv::RopeTable table;
  std::int32_t prefix_block_tokens;
  std::optional<pikv::LayerPipeline> pipeline;
  std::int64_t pipeline_slot_bytes = 0;
  std::uint64_t num_pipelined = 0;         // compositions given to the pipeline
  std::uint64_t num_surely_pipelined = 0;  // of them, the first ones, which are known to be in place

  Impl(Model& of, PagedCache& scratch, const std::array<std::byte, 32>& fingerprint, const ChunkServerOptions& options,
       const pikv::KvGeometry& geometry, std::span<const std::byte> secret)
      : model(of),
        cache(scratch),
        own_backend(options.device.backend == nullptr ? pikv::make_cpu_backend({.num_threads = options.num_threads})
                                                      : nullptr),
        backend(own_backend ? *own_backend : *options.device.backend),
        own_scorer(options.device.scorer == nullptr ? pikv::make_cpu_row_scorer(options.num_threads) : nullptr),
        scorer(own_scorer ? *own_scorer : *options.device.scorer),
        own_corrector(options.device.corrector == nullptr ? pikv::make_cpu_drift_corrector(options.num_threads)
                                                          : nullptr),
        corrector(own_corrector ? *own_corrector : *options.device.corrector),
        stream(options.device.stream),
        space(backend.caps().space),
        store(take(pikv::Store::create({.geometry = geometry,
                                        .capacity_bytes = options.capacity_bytes,
                                        .memory = options.device.chunk_memory == nullptr ? &backend.memory_resource()
                                                                                         : options.device.chunk_memory,
                                        .encoding = options.encoding}))),
        keyer(take(pikv::ChunkKeyer::create({.model = {fingerprint},
                                             .geometry = geometry,
                                             .rope = rope_config(model.config()),
                                             .name_space = options.name_space,
                                             .secret = secret}))),
        table(take(pikv::copy_table(rope_table(model), backend, backend.memory_resource()))),
        prefix_block_tokens(options.prefix_block_tokens) {}

  [[nodiscard]] pikv::Composer composer(const ReuseOptions& reuse) {
    return take(pikv::Composer::create(*store, backend, keyer, table,
                                       {.use_exact_prefix = reuse.use_exact_prefix,
                                        .use_chunks = reuse.use_chunks,
                                        .prefix_block_tokens = prefix_block_tokens}));
  }

  [[nodiscard]] pikv::Composition compose(const pikv::Prompt& prompt, const ReuseOptions& reuse) {
    const pikv::Composer with = composer(reuse);
    pikv::PlannedPrompt planned = take(with.plan(prompt));
    if (reuse.repair != nullptr) {
      planned.plan = take(
          planned.plan.with_repaired_rows(rows_known_ahead(*reuse.repair, planned.plan, model.config().num_layers)));
    }
    return take(with.load(std::move(planned)));
  }

  /// Starts bringing up the chunks that lie in host memory, and placing everything; which composition it is for
  /// wait_pipelined(). 0: there are no such chunks, and nothing was started.
  [[nodiscard]] std::uint64_t start_pipelined(const pikv::Composition& composition, const pikv::KvView& target,
                                              const pikv::SlotMap& rows) {
    const std::int64_t needed = pikv::LayerPipeline::required_slot_bytes(composition);
    if (needed == 0) return 0;
    if (needed > pipeline_slot_bytes) {
      constexpr std::int64_t kLayersAtOnce = 4;
      drop_pipeline();
      pipeline = take(pikv::LayerPipeline::create(backend, store->geometry(), {.slot_bytes = needed * kLayersAtOnce}));
      pipeline_slot_bytes = needed;
    }
    const pikv::Status status = pipeline->start(composition, target, rows, stream);
    if (!status.ok()) drop_pipeline();  // it would let nobody wait any more
    check(status);
    return ++num_pipelined;
  }

  /// What is queued on the stream from now on finds the layer's rows of that composition in place.
  void wait_pipelined(std::uint64_t number, int layer) {
    if (number <= num_surely_pipelined) return;
    // Where another composition has been started since, its first layer comes after all of this one's.
    check(pipeline->wait_layer(number == num_pipelined ? layer : 0, stream));
  }

  /// Waits for all that it has under way.
  void drop_pipeline() {
    pipeline.reset();
    pipeline_slot_bytes = 0;
    num_surely_pipelined = num_pipelined;
  }

  /// Runs the rows that the placement leaves; logits of the last row.
  [[nodiscard]] std::vector<float> run(Placement& placement, Sequence& sequence) {
    const pikv::CompositionPlan& plan = placement.plan();
    std::vector<TokenId> tokens;
    tokens.reserve(plan.rows_to_compute().size());
    for (const std::int32_t row : plan.rows_to_compute()) {
      tokens.push_back(plan.tokens()[static_cast<std::size_t>(row)]);
    }
    const auto last = static_cast<std::int32_t>(tokens.size() - 1);
    std::vector<float> logits = model.forward(Pass{.tokens = tokens,
                                                   .rows = plan.rows_to_compute(),
                                                   .logit_rows = {&last, 1},
                                                   .documents = {},
                                                   .observer = placement.observer()},
                                              sequence);
    placement.finish();
    return logits;
  }
};

/// Takes rows out of passes and into the store, and lets passes wait for rows that are still on their way.
class ChunkServer::Placing final : public Placement, private PassObserver {
 public:
  /// What the store has of the rows is placed; `items` say what to take, by rows of the prompt.
  Placing(Impl& server, pikv::Composition composition, Sequence& sequence, std::vector<pikv::CaptureItem> items)
      : server_(server),
        composition_(std::move(composition)),
        items_(std::move(items)),
        target_(cache_view(sequence.cache())) {
    const bool has_cached_rows = plan().stats().reused_tokens() + plan().stats().repaired_tokens > 0;
    if (!has_cached_rows) return;
    const std::int32_t* pages = sequence.pages().data();
    if (server.space != pikv::MemorySpace::kHost) {
      pages_ = take(pikv::Buffer::allocate(sequence.pages().size() * sizeof(std::int32_t),
                                           server.backend.memory_resource(), server.stream));
      check(server.backend.copy_async(pages_.data(), pages, pages_.size_bytes(), server.stream));
      pages = reinterpret_cast<const std::int32_t*>(pages_.data());
    }
    const auto rows = pikv::SlotMap::page_table(pages, sequence.cache().page_size(), 0, sequence.size());
    is_pending_ = server.backend.caps().asynchronous;
    pipelined_as_ = server.start_pipelined(composition_, target_, rows);
    if (pipelined_as_ == 0) check(composition_.place_async(target_, rows, server.stream));
  }
  ~Placing() override {
    if (!is_pending_) return;
    try {
      server_.wait_pipelined(pipelined_as_, server_.model.config().num_layers - 1);
    } catch (const Error&) {
      server_.drop_pipeline();
    }
    (void)server_.backend.synchronize(server_.stream);
  }

  [[nodiscard]] const pikv::CompositionPlan& plan() const override { return composition_.plan(); }
  [[nodiscard]] PassObserver* observer() override { return pipelined_as_ == 0 && items_.empty() ? nullptr : this; }
  void finish() override {
    if (is_pending_) check(server_.backend.synchronize(server_.stream));
    is_pending_ = false;
    store_taken();
  }
  /// Of the last item, once finish() has run.
  [[nodiscard]] pikv::InsertOutcome last_outcome() const { return last_outcome_; }

 private:
  void before_layer(int layer) override {
    if (layer == 0) {
      store_taken();  // by the pass before, which has ended
      is_pending_ = server_.backend.caps().asynchronous;
    }
    server_.wait_pipelined(pipelined_as_, layer);
  }

  void on_projected(int layer, const ProjectedRows& rows) override {
    if (layer == 0) begin_taking(rows.rows);
    if (!capture_) return;
    check(capture_->take_layer_async(layer, projected_view(rows, server_.model.config().head_dim, server_.space),
                                     server_.stream));
  }

  /// Of the items, those whose rows are all among those of the pass. They stand before every approximate row, so that
  /// rows which a pass lets go leave their indices as they are.
  void begin_taking(std::span<const std::int32_t> rows) {
    if (items_.empty()) return;
    std::vector<pikv::CaptureItem> taken;
    for (pikv::CaptureItem& item : items_) {
      const auto first = static_cast<std::int32_t>(item.tokens.data() - plan().tokens().data());
      const auto begin = std::lower_bound(rows.begin(), rows.end(), first);
      const auto count = static_cast<std::ptrdiff_t>(item.tokens.size());
      if (rows.end() - begin < count || *begin != first || begin[count - 1] != first + count - 1) continue;
      item.source_slots = pikv::SlotMap::consecutive(begin - rows.begin(), count);
      taken.push_back(item);
    }
    if (taken.empty()) return;
    capture_ = take(pikv::Capture::begin(*server_.store, server_.backend, taken, server_.stream));
    if (capture_->nothing_to_take()) store_taken();
  }

  void store_taken() {
    if (!capture_) return;
    const std::vector<pikv::CapturedChunk> stored = take(capture_->commit());
    last_outcome_ = stored.back().outcome;
    capture_.reset();
  }

  Impl& server_;
  pikv::Composition composition_;
  std::vector<pikv::CaptureItem> items_;
  pikv::KvView target_;
  bool is_pending_ = false;         // something may be queued that reads what this object holds
  pikv::Buffer pages_;              // of the sequence, where the backend reads them from there
  std::uint64_t pipelined_as_ = 0;  // 0: not at all
  std::optional<pikv::Capture> capture_;
  pikv::InsertOutcome last_outcome_ = pikv::InsertOutcome::kNoRoom;
};

ChunkServer::ChunkServer(Model& model, PagedCache& cache, const std::array<std::byte, 32>& model_fingerprint,
                         const ChunkServerOptions& options) {
  const pikv::KvGeometry geometry = kv_geometry(model.config(), options.store_dtype);
  const std::vector<std::byte> secret = options.secret.empty() ? random_secret() : options.secret;
  impl_ = std::make_unique<Impl>(model, cache, model_fingerprint, options, geometry, secret);
}

ChunkServer::~ChunkServer() = default;

pikv::ChunkRecipe ChunkServer::recipe(std::span<const TokenId> prefix) const {
  if (prefix.empty()) return pikv::ChunkRecipe::alone();
  return pikv::ChunkRecipe::behind_prefix(impl_->keyer.extend(impl_->keyer.empty_context(), prefix));
}

pikv::ChunkKey ChunkServer::chunk_key(std::span<const TokenId> tokens, std::span<const TokenId> prefix) const {
  return impl_->keyer.key(recipe(prefix), tokens);
}

pikv::InsertOutcome ChunkServer::try_encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix) {
  const pikv::ChunkKey key = chunk_key(tokens, prefix);
  // Asked first, so that a chunk to be encoded counts as no miss; the look-up makes one that is there recent.
  if (impl_->store->contains(key) && impl_->store->lookup(key, tokens).state == pikv::LookupState::kHit) {
    return pikv::InsertOutcome::kAlreadyPresent;
  }

  pikv::Prompt prompt;
  prompt.add_fresh(prefix);
  prompt.add_fresh(tokens);
  const pikv::Composer composer = impl_->composer({.use_chunks = false});
  pikv::PlannedPrompt planned = take(composer.plan(prompt));
  planned = {.plan = computed_from(planned.plan, static_cast<std::int64_t>(prefix.size())), .lookups = {}};
  pikv::Composition composition = take(composer.load(std::move(planned)));
  const std::span<const TokenId> all = composition.plan().tokens();

  // The prefix itself enters the store as exact prefix, so that the next chunk behind it starts where it ends.
  std::vector<pikv::CaptureItem> items = prefix_items(impl_->keyer, composition.plan(), impl_->prefix_block_tokens);
  std::erase_if(items, [&](const pikv::CaptureItem& item) {
    return item.tokens.data() + item.tokens.size() > all.data() + prefix.size();
  });
  items.push_back({.key = key, .recipe = recipe(prefix), .tokens = all.subspan(prefix.size())});

  Sequence sequence(impl_->cache);
  sequence.grow(static_cast<int>(all.size()));
  Placing placing(*impl_, std::move(composition), sequence, std::move(items));
  (void)impl_->run(placing, sequence);
  return placing.last_outcome();
}

bool ChunkServer::encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix) {
  const pikv::InsertOutcome outcome = try_encode_chunk(tokens, prefix);
  if (outcome == pikv::InsertOutcome::kNoRoom) {
    const pikv::StoreStats stats = impl_->store->stats();
    throw Error("pikv: no room in the store for a chunk of " + std::to_string(tokens.size()) +
                " tokens: " + std::to_string(stats.used_bytes) + " of " + std::to_string(stats.capacity_bytes) +
                " bytes are in use, " + std::to_string(stats.pinned_bytes) + " of them pinned");
  }
  return outcome == pikv::InsertOutcome::kInserted;
}

std::unique_ptr<Placement> ChunkServer::place(const pikv::Prompt& prompt, Sequence& sequence,
                                              const ReuseOptions& reuse) {
  if (sequence.size() != prompt.num_rows()) {
    throw Error("place: the sequence has " + std::to_string(sequence.size()) + " rows, the prompt " +
                std::to_string(prompt.num_rows()));
  }
  pikv::Composition composition = impl_->compose(prompt, reuse);
  std::vector<pikv::CaptureItem> items;
  // What a lossy store gives back would not be exact.
  if (reuse.store_exact_prefix && impl_->store->encoding().format == pikv::SlabFormat::kPlain) {
    items = prefix_items(impl_->keyer, composition.plan(), impl_->prefix_block_tokens);
  }
  return std::make_unique<Placing>(*impl_, std::move(composition), sequence, std::move(items));
}

Prefill ChunkServer::prefill(const pikv::Prompt& prompt, Sequence& sequence, const ReuseOptions& reuse) {
  if (sequence.size() != 0)
    throw Error("prefill: the sequence already holds " + std::to_string(sequence.size()) + " rows");
  sequence.grow(static_cast<int>(prompt.num_rows()));
  ReuseOptions without_repair = reuse;
  without_repair.repair = nullptr;
  const std::unique_ptr<Placement> placement = place(prompt, sequence, without_repair);
  if (reuse.repair == nullptr) {
    std::vector<float> logits = impl_->run(*placement, sequence);
    return Prefill{.logits = std::move(logits), .plan = placement->plan(), .repair = {}};
  }
  RepairPasses passes(*reuse.repair, placement->plan(), sequence,
                      {.backend = impl_->backend,
                       .scorer = impl_->scorer,
                       .corrector = impl_->corrector,
                       .stream = impl_->stream,
                       .table = impl_->table},
                      placement->observer());
  std::vector<float> logits = passes.run(impl_->model);
  placement->finish();
  return Prefill{.logits = std::move(logits),
                 .plan = take(placement->plan().with_repaired_rows(passes.repaired_rows())),
                 .repair = passes.cost()};
}

pikv::Store& ChunkServer::store() { return *impl_->store; }
const pikv::ChunkKeyer& ChunkServer::keyer() const { return impl_->keyer; }

}  // namespace mini_engine
