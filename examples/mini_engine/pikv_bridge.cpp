#include "mini_engine/pikv_bridge.hpp"

#include <random>
#include <utility>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

void check(const pikv::Status& status) {
  if (!status.ok()) throw Error("pikv: " + status.to_string());
}

template <class T>
T take(pikv::Result<T> result) {
  check(result.status());
  return std::move(*result);
}

pikv::DType dtype_of(Precision precision) {
  return precision == Precision::kFloat32 ? pikv::DType::kFloat32 : pikv::DType::kBFloat16;
}

std::vector<std::byte> random_secret() {
  std::random_device device;
  std::vector<std::byte> secret(32);
  for (std::byte& byte : secret) byte = static_cast<std::byte>(device());
  return secret;
}

/// Where each row of a prompt stands among the rows of the pass that computes it; kSkipSlot for the others.
std::vector<pikv::Slot> pass_slots(const pikv::CompositionPlan& plan) {
  std::vector<pikv::Slot> slots(static_cast<std::size_t>(plan.num_rows()), pikv::kSkipSlot);
  pikv::Slot index = 0;
  for (const std::int32_t row : plan.rows_to_compute()) slots[static_cast<std::size_t>(row)] = index++;
  return slots;
}

/// Puts cached rows into the pages before each layer reads them, and takes semantic keys and values for the store as
/// the projections make them.
class ServingObserver final : public PassObserver {
 public:
  ServingObserver(const pikv::Composition& composition, pikv::Capture& capture, const Sequence& sequence,
                  const ModelConfig& config)
      : composition_(composition), capture_(capture), sequence_(sequence), config_(config) {}

  void before_layer(int layer) override {
    check(composition_.place_layer_async(layer, cache_view(sequence_.cache()), row_slots(sequence_),
                                         pikv::StreamRef::legacy_default()));
  }

  void on_projected(int layer, const ProjectedRows& rows) override {
    if (capture_.nothing_to_take()) return;
    const pikv::AxisStrides strides{
        .layer = 0, .page = rows.row_stride, .token = rows.row_stride, .head = config_.head_dim, .dim = 1};
    const pikv::ConstKvView projected{
        .layout = {.dtype = dtype_of(rows.precision), .page_size = 1, .k = strides, .v = strides},
        .k_base = static_cast<const std::byte*>(rows.keys),
        .v_base = static_cast<const std::byte*>(rows.values),
        .num_slots = rows.num_rows};
    check(capture_.take_layer_async(layer, projected, pikv::StreamRef::legacy_default()));
  }

 private:
  const pikv::Composition& composition_;
  pikv::Capture& capture_;
  const Sequence& sequence_;
  const ModelConfig& config_;
};

}  // namespace

pikv::KvGeometry kv_geometry(const ModelConfig& config, pikv::DType store_dtype) {
  return pikv::KvGeometry{.num_layers = config.num_layers,
                          .num_kv_heads = config.num_kv_heads,
                          .head_dim = config.head_dim,
                          .rotary_dim = config.head_dim,
                          .dtype = store_dtype};
}

pikv::RopeConfig rope_config(const ModelConfig& config) {
  pikv::RopeConfig rope(config.rope.theta, pikv::Pairing::kHalfSplit, pikv::AngleRule::kFp32Product);
  switch (config.rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      rope.scaling = pikv::LinearScaling{.factor = config.rope.factor};
      break;
    case RopeScaling::kLlama3:
      rope.scaling = pikv::Llama3Scaling{.factor = config.rope.factor,
                                         .low_freq_factor = config.rope.low_freq_factor,
                                         .high_freq_factor = config.rope.high_freq_factor,
                                         .original_max_positions = config.rope.original_max_positions};
      break;
  }
  return rope;
}

pikv::RopeTable rope_table(const Model& model) {
  return take(pikv::RopeTable::adopt(model.rotary().cos, model.rotary().sin, model.config().head_dim,
                                     pikv::Pairing::kHalfSplit));
}

pikv::KvView cache_view(PagedCache& cache) {
  const PagedCache::Strides& s = cache.strides();
  const pikv::AxisStrides strides{.layer = s.layer, .page = s.page, .token = s.token, .head = s.head, .dim = 1};
  const pikv::DType dtype = dtype_of(cache.precision());
  return pikv::KvView{.layout = {.dtype = dtype, .page_size = cache.page_size(), .k = strides, .v = strides},
                      .k_base = cache.data(),
                      .v_base = cache.data() + s.value_offset * pikv::dtype_bytes(dtype),
                      .num_slots = cache.num_slots()};
}

pikv::SlotMap row_slots(const Sequence& sequence) {
  return pikv::SlotMap::per_token(sequence.slots().data(), sequence.size());
}

struct ChunkServer::Impl {
  Model& model;
  PagedCache& cache;
  std::unique_ptr<pikv::Backend> backend;
  std::unique_ptr<pikv::Store> store;
  pikv::ChunkKeyer keyer;
  pikv::RopeTable table;
  std::int32_t prefix_block_tokens;

  [[nodiscard]] pikv::Composer composer(const ReuseOptions& reuse) {
    return take(pikv::Composer::create(*store, *backend, keyer, table,
                                       {.use_exact_prefix = reuse.use_exact_prefix,
                                        .use_chunks = reuse.use_chunks,
                                        .prefix_block_tokens = prefix_block_tokens}));
  }

  /// Runs the rows that the composition leaves, with `items` captured on the way; logits of the last row.
  std::vector<float> run(const pikv::Composition& composition, std::span<const pikv::CaptureItem> items,
                         Sequence& sequence, std::vector<pikv::CapturedChunk>* captured) {
    const pikv::CompositionPlan& plan = composition.plan();
    sequence.grow(static_cast<int>(plan.num_rows()));
    std::vector<TokenId> tokens;
    tokens.reserve(plan.rows_to_compute().size());
    for (const std::int32_t row : plan.rows_to_compute())
      tokens.push_back(plan.tokens()[static_cast<std::size_t>(row)]);

    pikv::Capture capture = take(pikv::Capture::begin(*store, *backend, items));
    ServingObserver observer(composition, capture, sequence, model.config());
    const auto last = static_cast<std::int32_t>(tokens.size() - 1);
    std::vector<float> logits = model.forward(Pass{.tokens = tokens,
                                                   .rows = plan.rows_to_compute(),
                                                   .logit_rows = {&last, 1},
                                                   .documents = {},
                                                   .observer = &observer},
                                              sequence);
    std::vector<pikv::CapturedChunk> stored = take(capture.commit());
    if (captured != nullptr) *captured = std::move(stored);
    return logits;
  }
};

ChunkServer::ChunkServer(Model& model, PagedCache& cache, const std::array<std::byte, 32>& model_fingerprint,
                         const ChunkServerOptions& options) {
  const pikv::KvGeometry geometry = kv_geometry(model.config(), options.store_dtype);
  const std::vector<std::byte> secret = options.secret.empty() ? random_secret() : options.secret;
  impl_.reset(
      new Impl{.model = model,
               .cache = cache,
               .backend = pikv::make_cpu_backend({.num_threads = options.num_threads}),
               .store = take(pikv::Store::create({.geometry = geometry, .capacity_bytes = options.capacity_bytes})),
               .keyer = take(pikv::ChunkKeyer::create({.model = {model_fingerprint},
                                                       .geometry = geometry,
                                                       .rope = rope_config(model.config()),
                                                       .name_space = options.name_space,
                                                       .secret = secret})),
               .table = rope_table(model),
               .prefix_block_tokens = options.prefix_block_tokens});
}

ChunkServer::~ChunkServer() = default;

pikv::ChunkRecipe ChunkServer::recipe(std::span<const TokenId> prefix) const {
  if (prefix.empty()) return pikv::ChunkRecipe::alone();
  return pikv::ChunkRecipe::behind_prefix(impl_->keyer.extend(impl_->keyer.empty_context(), prefix));
}

pikv::ChunkKey ChunkServer::chunk_key(std::span<const TokenId> tokens, std::span<const TokenId> prefix) const {
  return impl_->keyer.key(recipe(prefix), tokens);
}

bool ChunkServer::encode_chunk(std::span<const TokenId> tokens, std::span<const TokenId> prefix) {
  const pikv::ChunkKey key = chunk_key(tokens, prefix);
  if (impl_->store->contains(key)) return false;

  pikv::Prompt prompt;
  prompt.add_fresh(prefix);
  prompt.add_fresh(tokens);
  const pikv::Composition composition = take(impl_->composer({.use_chunks = false}).compose(prompt));
  const std::vector<pikv::Slot> slots = pass_slots(composition.plan());
  const auto rows = pikv::SlotMap::per_token(slots.data(), composition.plan().num_rows());

  // The prefix itself enters the store as exact prefix, so that the next chunk behind it starts where it ends.
  std::vector<pikv::CaptureItem> items;
  for (pikv::CaptureItem& item :
       pikv::exact_prefix_items(impl_->keyer, composition.plan(), impl_->prefix_block_tokens, rows)) {
    if (item.tokens.data() + item.tokens.size() <= composition.plan().tokens().data() + prefix.size()) {
      items.push_back(std::move(item));
    }
  }
  items.push_back(pikv::CaptureItem{
      .key = key,
      .recipe = recipe(prefix),
      .tokens = tokens,
      .source_slots = rows.slice(static_cast<std::int64_t>(prefix.size()), static_cast<std::int64_t>(tokens.size()))});

  Sequence sequence(impl_->cache);
  std::vector<pikv::CapturedChunk> captured;
  (void)impl_->run(composition, items, sequence, &captured);
  if (captured.back().outcome == pikv::InsertOutcome::kNoRoom) {
    throw Error("pikv: no room in the store for a chunk of " + std::to_string(tokens.size()) + " tokens");
  }
  return captured.back().outcome == pikv::InsertOutcome::kInserted;
}

Prefill ChunkServer::prefill(const pikv::Prompt& prompt, Sequence& sequence, const ReuseOptions& reuse) {
  if (sequence.size() != 0)
    throw Error("prefill: the sequence already holds " + std::to_string(sequence.size()) + " rows");
  const pikv::Composition composition = take(impl_->composer(reuse).compose(prompt));
  const std::vector<pikv::Slot> slots = pass_slots(composition.plan());
  std::vector<pikv::CaptureItem> items;
  if (reuse.store_exact_prefix) {
    items = pikv::exact_prefix_items(impl_->keyer, composition.plan(), impl_->prefix_block_tokens,
                                     pikv::SlotMap::per_token(slots.data(), composition.plan().num_rows()));
  }
  std::vector<float> logits = impl_->run(composition, items, sequence, nullptr);
  return Prefill{.logits = std::move(logits), .plan = composition.plan()};
}

pikv::Store& ChunkServer::store() { return *impl_->store; }
const pikv::ChunkKeyer& ChunkServer::keyer() const { return impl_->keyer; }

}  // namespace mini_engine
