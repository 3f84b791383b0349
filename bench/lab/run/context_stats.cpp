#include "lab/run/context_stats.hpp"

#include <cstddef>
#include <cstdint>
#include <numeric>

#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/pikv_views.hpp"
#include "mini_engine/probe_memory.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;

std::vector<std::int32_t> first_rows(std::size_t count) {
  std::vector<std::int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

/// Adds up, over the layers of a pass over all rows in order, what each row gives to each segment.
class SegmentWatcher final : public mini_engine::PassObserver {
 public:
  SegmentWatcher(const mini_engine::ModelConfig& config, mini_engine::Sequence& sequence, pikv::Backend& backend,
                 pikv::RowScorer& scorer, pikv::StreamRef stream, const std::vector<std::int32_t>& segments)
      : config_(config),
        sequence_(sequence),
        scorer_(scorer),
        stream_(stream),
        memory_(backend, stream),
        num_rows_(segments.size()),
        num_segments_(static_cast<std::size_t>(segments.back()) + 1),
        rows_(memory_.upload(first_rows(num_rows_))),
        slots_(memory_.upload(sequence.slots())),
        segments_(memory_.upload(segments)),
        sums_(memory_.upload(std::vector<float>(num_rows_ * num_segments_))) {}

  void on_queries(int layer, const mini_engine::TurnedQueries& queries) override {
    const auto first = static_cast<std::size_t>(queries.rows.front());
    mini_engine::check(scorer_.add_attention_async(
        {.geometry = mini_engine::kv_geometry(config_, mini_engine::dtype_of(sequence_.cache().precision())),
         .num_query_heads = config_.num_heads,
         .layer = layer,
         .keys = pikv::as_const(mini_engine::cache_view(sequence_.cache())),
         .key_slots = mini_engine::slots_of(slots_, num_rows_),
         .queries = queries.data,
         .query_dtype = mini_engine::dtype_of(queries.precision),
         .query_stride = queries.row_stride,
         .query_rows = mini_engine::elements<std::int32_t>(rows_, num_rows_).subspan(first, queries.rows.size()),
         .key_segments = mini_engine::elements<std::int32_t>(segments_, num_rows_),
         .num_segments = static_cast<std::int32_t>(num_segments_),
         .segment_scores = mini_engine::scores_of(sums_, num_rows_ * num_segments_)
                               .subspan(first * num_segments_, queries.rows.size() * num_segments_)},
        stream_));
  }

  /// [rows][segments], sums over layers of means over heads.
  [[nodiscard]] std::vector<float> sums() const { return memory_.download(sums_, num_rows_ * num_segments_); }

 private:
  const mini_engine::ModelConfig& config_;
  mini_engine::Sequence& sequence_;
  pikv::RowScorer& scorer_;
  pikv::StreamRef stream_;
  mini_engine::ProbeMemory memory_;
  std::size_t num_rows_, num_segments_;
  pikv::Buffer rows_, slots_, segments_, sums_;
};

}  // namespace

ContextStatsMeter::ContextStatsMeter(mini_engine::Model& model, mini_engine::PagedCache& cache,
                                     const mini_engine::ReuseDevice& device)
    : model_(model),
      cache_(cache),
      own_backend_(device.backend == nullptr ? pikv::make_cpu_backend() : nullptr),
      backend_(own_backend_ ? *own_backend_ : *device.backend),
      own_scorer_(device.scorer == nullptr ? pikv::make_cpu_row_scorer() : nullptr),
      scorer_(own_scorer_ ? *own_scorer_ : *device.scorer),
      stream_(device.stream) {}

std::vector<pikv::ChunkContextStats> ContextStatsMeter::measure(std::span<const TokenId> system,
                                                                std::span<const NamedPassage> passages) {
  // Segment 0 is the system prompt, segment 1 + i passage i. Nothing behind the passages changes what they attend to.
  std::vector<TokenId> tokens(system.begin(), system.end());
  std::vector<std::int32_t> segments(system.size(), 0);
  for (std::size_t i = 0; i < passages.size(); ++i) {
    tokens.insert(tokens.end(), passages[i].tokens.begin(), passages[i].tokens.end());
    segments.insert(segments.end(), passages[i].tokens.size(), static_cast<std::int32_t>(i) + 1);
  }
  if (passages.empty()) return {};
  mini_engine::Sequence sequence(cache_);
  sequence.grow(static_cast<int>(tokens.size()));
  SegmentWatcher watcher(model_.config(), sequence, backend_, scorer_, stream_, segments);
  const std::vector<std::int32_t> rows = first_rows(tokens.size());
  const auto last = static_cast<std::int32_t>(rows.size() - 1);
  (void)model_.forward(
      mini_engine::Pass{
          .tokens = tokens, .rows = rows, .logit_rows = {&last, 1}, .documents = {}, .observer = &watcher},
      sequence);

  const std::vector<float> sums = watcher.sums();
  const std::size_t num_segments = passages.size() + 1;
  const auto num_layers = static_cast<double>(model_.config().num_layers);
  std::vector<pikv::ChunkContextStats> all;
  std::size_t row = system.size();
  for (std::size_t i = 0; i < passages.size(); ++i) {
    pikv::ChunkContextStats& stats = all.emplace_back();
    stats.num_tokens = static_cast<std::int64_t>(passages[i].tokens.size());
    for (const NamedPassage& before : passages.first(i)) {
      stats.preceding.push_back({.key = before.key, .num_tokens = static_cast<std::int64_t>(before.tokens.size())});
    }
    for (const std::size_t end = row + passages[i].tokens.size(); row < end; ++row) {
      const std::span<const float> of_row = std::span(sums).subspan(row * num_segments + 1, passages.size());
      double inter = 0;
      for (std::size_t j = 0; j < i; ++j) {
        stats.preceding[j].inter_attention += double{of_row[j]} / num_layers;
        inter += double{of_row[j]} / num_layers;
      }
      stats.intra_attention += double{of_row[i]} / num_layers;
      stats.token_inter_attention.push_back(static_cast<float>(inter));
    }
  }
  return all;
}

}  // namespace lab
