#include "check/probe_session.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

#include "pikv/capture.hpp"

namespace pikv {
inline namespace v0 {
namespace check {
namespace {

constexpr std::array<std::byte, 32> kSecret{};  // the store lives as long as the check, and nobody else sees it

/// Calls the engine's side; what it throws becomes a Status.
template <class Call>
auto guarded(const char* member, const Call& call) -> decltype(call()) {
  const auto failure = [&](ErrorCode code, std::string_view message) {
    return Status(code, "the probe's " + std::string(member) + ": " + std::string(message));
  };
  try {
    auto result = call();
    if (!result.ok()) return failure(result.status().code(), result.status().message());
    return result;
  } catch (const std::exception& error) {
    return failure(ErrorCode::kUnavailable, std::string("threw: ") + error.what());
  }
}

/// Hands what a pass projects to a capture.
class CapturingObserver final : public ProbeObserver {
 public:
  CapturingObserver(Capture& capture, StreamRef stream) : capture_(capture), stream_(stream) {}
  Status on_projected(std::int32_t layer, const ConstKvView& rows) override {
    return capture_.take_layer_async(layer, rows, stream_);
  }

 private:
  Capture& capture_;
  StreamRef stream_;
};

Status check_said(const ProbedModel& model) {
  PIKV_TRY(validate(model.geometry));
  PIKV_TRY(validate(model.rope, model.geometry.rotary_dim));
  if (model.vocab_size < 2) return invalid_argument("vocab_size is " + std::to_string(model.vocab_size));
  if (!model.table) return {};
  const RopeTableView table = model.table->view();
  if (2 * table.half_dim != model.geometry.rotary_dim) {
    return invalid_argument("the table turns " + std::to_string(2 * table.half_dim) +
                            " channels, geometry.rotary_dim is " + std::to_string(model.geometry.rotary_dim));
  }
  if (table.pairing != model.rope.pairing) return invalid_argument("the table and the RopeConfig differ in pairing");
  return {};
}

}  // namespace

double relative_difference(std::span<const float> got, std::span<const float> expected) {
  if (got.size() != expected.size()) return std::nan("");
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double delta = double{got[i]} - double{expected[i]};
    difference += delta * delta;
    norm += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(difference / norm);
}

std::vector<Position> position_run(Position first, std::int64_t count) {
  std::vector<Position> positions(static_cast<std::size_t>(count));
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

Result<std::unique_ptr<ProbeSession>> ProbeSession::open(ModelProbe& probe) {
  Result<ProbedModel> model = guarded("model()", [&] { return Result<ProbedModel>(probe.model()); });
  if (!model.ok()) return model.status();
  PIKV_TRY(check_said(*model));
  Result<RopeTable> table =
      model->table ? *model->table
                   : RopeTable::build(model->rope, model->geometry.rotary_dim, std::max(model->max_rows, 1));
  if (!table.ok()) return table.status();
  model->max_rows = std::min(model->max_rows, table->num_positions());
  std::unique_ptr<ProbeSession> session;
  PIKV_TRY(guarded("backend()", [&] {
             session.reset(new ProbeSession(probe, std::move(*model), std::move(*table)));
             return Result<bool>(true);
           }).status());
  PIKV_TRY(session->prepare());
  return session;
}

Status ProbeSession::prepare() {
  Result<RopeTable> table = copy_table(table_, backend_, backend_.memory_resource());
  if (!table.ok()) return table.status();
  reachable_table_ = std::move(*table);
  // Its chunks fit into one sequence, and each may be there twice while a new one takes the place of an old one.
  const std::int64_t most_tokens = 2 * std::int64_t{std::clamp(model_.max_rows, 1, 1 << 20)};
  Result<std::unique_ptr<Store>> store =
      Store::create({.geometry = model_.geometry,
                     .capacity_bytes = most_tokens * model_.geometry.bytes_per_token(),
                     .memory = &backend_.memory_resource()});
  if (!store.ok()) return store.status();
  store_ = std::move(*store);
  Result<ChunkKeyer> keyer = ChunkKeyer::create({.model = {},
                                                 .geometry = model_.geometry,
                                                 .rope = model_.rope,
                                                 .name_space = "private:check_model",
                                                 .secret = kSecret});
  if (!keyer.ok()) return keyer.status();
  keyer_ = std::move(*keyer);
  Result<Composer> composer =
      Composer::create(*store_, backend_, *keyer_, *reachable_table_, {.use_exact_prefix = false});
  if (!composer.ok()) return composer.status();
  composer_ = std::move(*composer);
  return {};
}

template <class T>
Result<const T*> ProbeSession::reachable(std::span<const T> values, Buffer& owner) {
  if (backend_.caps().space == MemorySpace::kHost) return values.data();
  Result<Buffer> buffer = Buffer::allocate(values.size_bytes(), backend_.memory_resource(), stream_);
  if (!buffer.ok()) return buffer.status();
  owner = std::move(*buffer);
  PIKV_TRY(backend_.copy_async(owner.data(), values.data(), values.size_bytes(), stream_));
  PIKV_TRY(backend_.synchronize(stream_));
  return reinterpret_cast<const T*>(owner.data());
}

Status ProbeSession::begin_sequence(std::int64_t num_rows) {
  Result<ProbedSequence> sequence =
      guarded("begin_sequence()", [&] { return probe_.begin_sequence(static_cast<std::int32_t>(num_rows)); });
  if (!sequence.ok()) return sequence.status();
  if (static_cast<std::int64_t>(sequence->slots.size()) != num_rows) {
    return invalid_argument("the probe's begin_sequence(): " + std::to_string(sequence->slots.size()) + " slots for " +
                            std::to_string(num_rows) + " rows");
  }
  cache_ = sequence->cache;
  slots_ = std::move(sequence->slots);
  PIKV_TRY(validate(pikv::as_const(cache_), model_.geometry));
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i] >= 0 && slots_[i] < cache_.num_slots) continue;
    return invalid_argument("the probe's begin_sequence(): slots[" + std::to_string(i) + "] is " +
                            std::to_string(slots_[i]) + ", the cache has " + std::to_string(cache_.num_slots));
  }
  Result<const Slot*> reached = reachable(std::span<const Slot>(slots_), slot_memory_);
  if (!reached.ok()) return reached.status();
  reachable_slots_ = *reached;
  return {};
}

SlotMap ProbeSession::slots_of(Position first, std::int64_t count) const {
  return SlotMap::per_token(reachable_slots_ + first, count);
}

Result<std::vector<float>> ProbeSession::run(const ProbePass& pass) {
  Result<std::vector<float>> logits = guarded("compute()", [&] { return probe_.compute(pass); });
  if (!logits.ok()) return logits;
  if (logits->size() != pass.logit_rows.size() * static_cast<std::size_t>(model_.vocab_size)) {
    return invalid_argument("the probe's compute(): " + std::to_string(logits->size()) + " logits for " +
                            std::to_string(pass.logit_rows.size()) + " rows of a vocabulary of " +
                            std::to_string(model_.vocab_size));
  }
  for (std::size_t i = 0; i < logits->size(); ++i) {
    if (std::isfinite((*logits)[i])) continue;
    const std::size_t row = i / static_cast<std::size_t>(model_.vocab_size);
    return Status(ErrorCode::kCorruption,
                  "the probe's compute(): a logit of position " +
                      std::to_string(pass.positions[static_cast<std::size_t>(pass.logit_rows[row])]) +
                      " is not a finite number");
  }
  return logits;
}

Result<std::vector<float>> ProbeSession::compute(std::span<const TokenId> tokens, Position first,
                                                 std::span<const Position> context, std::int64_t num_logit_rows,
                                                 std::span<const std::int32_t> documents) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::vector<Position> positions = position_run(first, count);
  const std::vector<std::int32_t> logit_rows =
      position_run(static_cast<Position>(count - num_logit_rows), num_logit_rows);
  return run(
      {.tokens = tokens, .positions = positions, .context = context, .documents = documents, .logit_rows = logit_rows});
}

Result<ChunkHandle> ProbeSession::encode(std::span<const TokenId> tokens, Position first) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::vector<Position> positions = position_run(first, count);
  PIKV_TRY(begin_sequence(first + count));

  // A chunk that was kept before, from another place, must not stand for this one.
  const ChunkKey key = keyer_->key(ChunkRecipe::alone(), tokens);
  (void)store_->erase(key);
  const bool from_projections = model_.hands_out_projections;
  const CaptureItem item{.key = key,
                         .tokens = tokens,
                         .source_slots = from_projections ? SlotMap::consecutive(0, count) : slots_of(first, count),
                         .positions = PositionMap::consecutive(first)};
  Result<Capture> capture = Capture::begin(*store_, backend_, {&item, 1}, stream_);
  if (!capture.ok()) return capture.status();
  CapturingObserver observer(*capture, stream_);
  Result<std::vector<float>> logits = run({.tokens = tokens,
                                           .positions = positions,
                                           .context = {},
                                           .documents = {},
                                           .logit_rows = {},
                                           .observer = from_projections ? &observer : nullptr});
  if (!logits.ok()) return logits.status();
  for (std::int32_t layer = 0; !from_projections && layer < model_.geometry.num_layers; ++layer) {
    PIKV_TRY(capture->take_rotated_layer_async(layer, pikv::as_const(cache_), reachable_table_->view(), stream_));
  }
  PIKV_TRY(backend_.synchronize(stream_));
  Result<std::vector<CapturedChunk>> stored = capture->commit();
  if (!stored.ok()) return stored.status();
  if (stored->front().chunk == nullptr) return out_of_memory("the check's store has no room for a chunk");
  return stored->front().chunk;
}

Status ProbeSession::place(const ChunkHandle& chunk, Position first, std::span<const Position> anchors) {
  const auto count = static_cast<std::int64_t>(anchors.size());
  Buffer memory;
  Result<const Position*> positions = reachable(anchors, memory);
  if (!positions.ok()) return positions.status();
  const KvRun run{.source = chunk->view(),
                  .source_slots = SlotMap::consecutive(0, count),
                  .target_slots = slots_of(first, count),
                  .positions = PositionMap::per_token(*positions)};
  PIKV_TRY(backend_.reanchor_async(transfer(run, cache_, reachable_table_->view()), stream_));
  return backend_.synchronize(stream_);
}

Status ProbeSession::compose(std::span<const std::vector<TokenId>> chunks, std::span<const TokenId> question) {
  Prompt prompt;
  for (const std::vector<TokenId>& chunk : chunks) prompt.add_chunk(chunk, ChunkRecipe::alone());
  prompt.add_fresh(question);
  Result<Composition> composition = composer_->compose(prompt);
  if (!composition.ok()) return composition.status();
  const std::size_t num_computed = composition->plan().rows_to_compute().size();
  if (num_computed != question.size()) {
    return Status(ErrorCode::kInternal, "the composer leaves " + std::to_string(num_computed) +
                                            " rows to compute, the question has " + std::to_string(question.size()));
  }
  PIKV_TRY(composition->place_async(cache_, slots_of(0, prompt.num_rows()), stream_));
  return backend_.synchronize(stream_);
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
