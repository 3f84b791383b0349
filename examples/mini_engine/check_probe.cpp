#include "mini_engine/check_probe.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"

namespace mini_engine {
namespace {

/// Projections on their way out of a pass.
class Projections final : public PassObserver {
 public:
  Projections(pikv::ProbeObserver& to, int head_dim, pikv::MemorySpace space)
      : to_(to), head_dim_(head_dim), space_(space) {}
  void on_projected(int layer, const ProjectedRows& rows) override {
    check(to_.on_projected(layer, projected_view(rows, head_dim_, space_)));
  }

 private:
  pikv::ProbeObserver& to_;
  int head_dim_;
  pikv::MemorySpace space_;
};

/// The pass's own documents; for a context with holes, two: what the pass sees, and all that it must not see. Empty
/// where plain causal attention does.
std::vector<std::int32_t> documents_of(const pikv::ProbePass& pass, int num_rows) {
  static_assert(pikv::ProbePass::kSeesAll == Pass::kSeesAll);
  constexpr std::int32_t kSeen = 0;
  constexpr std::int32_t kUnseen = 1;
  std::vector<std::int32_t> documents;
  if (!pass.documents.empty()) {
    documents.assign(pass.documents.begin(), pass.documents.end());
    documents.resize(static_cast<std::size_t>(num_rows), kUnseen);
    return documents;
  }
  if (pass.context.size() == static_cast<std::size_t>(pass.positions.front())) return documents;
  documents.resize(static_cast<std::size_t>(num_rows), kUnseen);
  for (const std::span<const pikv::Position> seen : {pass.context, pass.positions}) {
    for (const pikv::Position position : seen) documents[static_cast<std::size_t>(position)] = kSeen;
  }
  return documents;
}

}  // namespace

CheckProbe::CheckProbe(Model& model, PagedCache& cache, const CheckProbeOptions& options)
    : model_(model),
      cache_(cache),
      store_dtype_(options.store_dtype),
      device_(options.device),
      own_backend_(device_.backend == nullptr ? pikv::make_cpu_backend() : nullptr) {
  if (own_backend_) device_.backend = own_backend_.get();
}

pikv::ProbedModel CheckProbe::model() {
  const ModelConfig& config = model_.config();
  return {.geometry = kv_geometry(config, store_dtype_),
          .rope = rope_config(config),
          .table = rope_table(model_),
          .vocab_size = config.vocab_size,
          .max_rows = static_cast<std::int32_t>(std::min<std::int64_t>(config.max_positions, cache_.num_slots())),
          .hands_out_projections = true,
          .masks_documents = true};
}

pikv::Backend& CheckProbe::backend() { return *device_.backend; }
pikv::StreamRef CheckProbe::stream() { return device_.stream; }

pikv::Result<pikv::ProbedSequence> CheckProbe::begin_sequence(std::int32_t num_rows) {
  sequence_.reset();  // gives its pages back first
  sequence_.emplace(cache_);
  sequence_->grow(num_rows);
  return pikv::ProbedSequence{.cache = cache_view(cache_), .slots = sequence_->slots()};
}

pikv::Result<std::vector<float>> CheckProbe::compute(const pikv::ProbePass& pass) {
  if (!sequence_) throw Error("no sequence has been begun");
  const std::vector<std::int32_t> documents = documents_of(pass, sequence_->size());
  std::optional<Projections> projections;
  if (pass.observer != nullptr) {
    projections.emplace(*pass.observer, model_.config().head_dim, backend().caps().space);
  }
  return model_.forward(Pass{.tokens = pass.tokens,
                             .rows = pass.positions,
                             .logit_rows = pass.logit_rows,
                             .documents = documents,
                             .observer = projections ? &*projections : nullptr},
                        *sequence_);
}

}  // namespace mini_engine
