#include "support/broken_probe.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace test_support {
namespace {

using pikv::ConstKvView;
using pikv::Position;
using pikv::Status;

/// Hands on something else than it is given; fp32 rows alone.
class FaultyObserver final : public pikv::ProbeObserver {
 public:
  FaultyObserver(pikv::ProbeObserver& to, Fault fault, const pikv::ProbedModel& model,
                 std::span<const Position> positions, pikv::Backend& backend)
      : to_(to), fault_(fault), model_(model), positions_(positions), backend_(backend) {}

  Status on_projected(std::int32_t layer, const ConstKvView& rows) override {
    ConstKvView view = rows;
    if (fault_ == Fault::kSwapped) {
      std::swap(view.k_base, view.v_base);
      return to_.on_projected(layer, view);
    }
    const auto count = static_cast<std::int64_t>(positions_.size());
    pikv::KvGeometry geometry = model_.geometry;
    geometry.num_layers = 1;
    geometry.dtype = pikv::DType::kFloat32;
    std::vector<float> copy(static_cast<std::size_t>(geometry.elements_per_token() * count));
    const std::int64_t value_offset = pikv::slab_value_offset(geometry, count);
    const pikv::KvView target{.layout = pikv::slab_layout(geometry, count),
                              .k_base = reinterpret_cast<std::byte*>(copy.data()),
                              .v_base = reinterpret_cast<std::byte*>(copy.data() + value_offset),
                              .num_slots = count};
    const pikv::KvRun run{.source = rows,
                          .source_slots = pikv::SlotMap::consecutive(0, count),
                          .target_slots = pikv::SlotMap::consecutive(0, count),
                          .positions = pikv::PositionMap::consecutive(positions_.front())};
    const bool turns = fault_ == Fault::kCapturedAfterTurn;
    PIKV_TRY(backend_.reanchor_async({.geometry = geometry,
                                      .runs = {&run, 1},
                                      .target = target,
                                      .rope = turns ? model_.table->view() : pikv::RopeTableView{},
                                      .layer_begin = 0,
                                      .layer_end = 1},
                                     pikv::StreamRef::legacy_default()));
    for (std::int64_t i = 0; i < value_offset; ++i) {
      float& key = copy[static_cast<std::size_t>(i)];
      if (fault_ == Fault::kCapturedBeforeNorm) key *= 1.0F + 0.1F * static_cast<float>(i % geometry.head_dim);
      if (fault_ == Fault::kUniformlyScaledKeys) key *= 0.5F;
      if (fault_ == Fault::kWrongValues) copy[static_cast<std::size_t>(value_offset + i)] *= 1.5F;
    }
    return to_.on_projected(layer, pikv::as_const(target));
  }

 private:
  pikv::ProbeObserver& to_;
  Fault fault_;
  const pikv::ProbedModel& model_;
  std::span<const Position> positions_;
  pikv::Backend& backend_;
};

bool breaks_capture(Fault fault) {
  return fault == Fault::kCapturedAfterTurn || fault == Fault::kCapturedBeforeNorm || fault == Fault::kSwapped ||
         fault == Fault::kUniformlyScaledKeys || fault == Fault::kWrongValues;
}

std::vector<Position> moved_on(std::span<const Position> positions) {
  std::vector<Position> moved(positions.begin(), positions.end());
  for (Position& position : moved) ++position;
  return moved;
}

}  // namespace

BrokenProbe::BrokenProbe(mini_engine::Model& model, mini_engine::PagedCache& cache,
                         const mini_engine::CheckProbeOptions& options, Fault fault, ProbeAbilities abilities)
    : CheckProbe(model, cache, options), fault_(fault), abilities_(abilities) {}

pikv::ProbedModel BrokenProbe::model() {
  pikv::ProbedModel model = CheckProbe::model();
  model.hands_out_projections = abilities_.hands_out_projections;
  model.masks_documents = abilities_.masks_documents;
  const auto replace_table = [&] { model.table.reset(); };  // by one of the (wrong) configuration
  switch (fault_) {
    case Fault::kWrongPairing:
      model.rope.pairing = pikv::Pairing::kInterleaved;
      replace_table();
      break;
    case Fault::kWrongBase:
      model.rope.theta *= 50;
      replace_table();
      break;
    case Fault::kScalingLeftOut:
      model.rope.scaling = pikv::NoScaling{};
      replace_table();
      break;
    case Fault::kWrongRotarySize:
      model.geometry.rotary_dim /= 2;
      replace_table();
      break;
    case Fault::kWrongMagnitude: {
      const pikv::RopeTableView table = model.table->view();
      std::vector<float> cos;
      std::vector<float> sin;
      for (Position position = 0; position < table.num_positions; ++position) {
        cos.insert(cos.end(), table.cos(position), table.cos(position) + table.half_dim);
        sin.insert(sin.end(), table.sin(position), table.sin(position) + table.half_dim);
      }
      model.table = pikv::RopeTable::adopt(cos, sin, 2 * table.half_dim, table.pairing, 2.0).value();
      break;
    }
    case Fault::kOffByOne:
      --model.max_rows;
      break;
    case Fault::kDynamicNtk:
      model.rope.scaling = pikv::DynamicNtkScaling{.factor = 2, .original_max_positions = 512};
      break;
    case Fault::kTooFewRows:
      model.max_rows = 40;
      break;
    default:
      break;
  }
  return model;
}

pikv::Result<pikv::ProbedSequence> BrokenProbe::begin_sequence(std::int32_t num_rows) {
  computed_.clear();
  if (fault_ == Fault::kReturnsError) return pikv::out_of_memory("no pages left");
  pikv::Result<pikv::ProbedSequence> sequence =
      CheckProbe::begin_sequence(fault_ == Fault::kOffByOne ? num_rows + 1 : num_rows);
  std::vector<pikv::Slot>& slots = sequence->slots;
  if (fault_ == Fault::kOffByOne) slots.erase(slots.begin());
  if (fault_ == Fault::kSlotsMixedUp) std::reverse(slots.begin(), slots.end());
  if (fault_ == Fault::kSlotOutside) slots.back() = sequence->cache.num_slots;
  if (fault_ == Fault::kFloat8Pages) {  // in one byte of each fp32
    sequence->cache.layout.dtype = pikv::DType::kFloat8E4M3;
    for (pikv::AxisStrides* strides : {&sequence->cache.layout.k, &sequence->cache.layout.v}) {
      for (std::int64_t* stride : {&strides->layer, &strides->page, &strides->token, &strides->head, &strides->dim}) {
        *stride *= 4;
      }
    }
  }
  return sequence;
}

pikv::Result<std::vector<float>> BrokenProbe::compute(const pikv::ProbePass& pass) {
  const pikv::ProbedModel said = CheckProbe::model();
  std::optional<FaultyObserver> observer;
  pikv::ProbePass changed = pass;
  if (pass.observer != nullptr && breaks_capture(fault_)) {
    changed.observer = &observer.emplace(*pass.observer, fault_, said, pass.positions, backend());
  }
  std::vector<Position> positions(pass.positions.begin(), pass.positions.end());
  std::vector<Position> context(pass.context.begin(), pass.context.end());
  switch (fault_) {
    case Fault::kOffByOne:
      positions = moved_on(positions);
      context = moved_on(context);
      break;
    case Fault::kCacheIgnored:
      context.clear();
      break;
    case Fault::kForeignRowsIgnored:
      std::erase_if(context, [&](Position position) { return !computed_.contains(position); });
      break;
    case Fault::kDocumentsIgnored:
      changed.documents = {};
      break;
    case Fault::kHolesSeen:
      context.resize(static_cast<std::size_t>(pass.positions.front()));
      std::iota(context.begin(), context.end(), 0);
      break;
    case Fault::kThrows:
      throw std::runtime_error("the engine is on fire");
    case Fault::kNoContext:
      if (context.size() == static_cast<std::size_t>(pass.positions.front())) break;
      return pikv::unsupported("this engine cannot leave rows out");
    default:
      break;
  }
  computed_.insert(pass.positions.begin(), pass.positions.end());
  changed.positions = positions;
  changed.context = context;
  pikv::Result<std::vector<float>> logits = CheckProbe::compute(changed);
  if (logits.ok() && !logits->empty()) {
    if (fault_ == Fault::kNanLogits) logits->back() = std::nanf("");
    if (fault_ == Fault::kTooFewLogits) logits->pop_back();
  }
  return logits;
}

}  // namespace test_support
