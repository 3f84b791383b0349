#include "lab/run/case_runner.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "lab/ape_attention.hpp"
#include "lab/attention_similarity.hpp"
#include "lab/layer_errors.hpp"
#include "lab/observer_chain.hpp"
#include "lab/query_capture.hpp"
#include "lab/run/case_prompts.hpp"
#include "lab/run/forced_reply.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/pikv_bridge.hpp"
#include "mini_engine/thread_pool.hpp"

namespace lab {
namespace {

using mini_engine::ChunkServer;
using mini_engine::PagedCache;
using mini_engine::Sequence;
using mini_engine::TokenId;
using Kind = ArmSpec::Kind;
using Tokens = std::vector<TokenId>;

constexpr int kPageSize = 16;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Tokens joined(const Tokens& first, std::span<const Tokens* const> others) {
  Tokens all = first;
  for (const Tokens* const other : others) all.insert(all.end(), other->begin(), other->end());
  return all;
}

std::vector<std::int32_t> iota(std::int32_t begin, std::size_t count) {
  std::vector<std::int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), begin);
  return rows;
}

int pages_for(std::size_t rows) { return static_cast<int>(rows / kPageSize + 2); }

std::size_t longest_prompt(const CaseFile& file) {
  std::size_t longest = 0;
  for (const Case& one : file.cases) longest = std::max(longest, one.num_tokens());
  return longest;
}

}  // namespace

/// A prompt that an arm has put into a sequence, and how passes behind it are to be run.
struct Served {
  explicit Served(PagedCache& cache) : sequence(cache) {}

  Sequence sequence;
  std::vector<float> logits;  // of the last row
  std::vector<std::int32_t> documents{};
  std::unique_ptr<mini_engine::PassObserver> attention{};
};

struct CaseRunner::Impl {
  Impl(mini_engine::Engine& with, const std::array<std::byte, 32>& of, const CaseFile& file,
       const CaseRunnerOptions& chosen)
      : engine(with),
        fingerprint(of),
        options(chosen),
        neighbours(file.cases, chosen.num_neighbours),
        longest(longest_prompt(file)),
        cache(engine.make_cache(2 * pages_for(longest + 256), kPageSize)),
        scratch(
            engine.make_cache(pages_for(static_cast<std::size_t>(engine.model().config().max_positions)), kPageSize)),
        pool(0) {}

  mini_engine::Engine& engine;
  std::array<std::byte, 32> fingerprint;
  CaseRunnerOptions options;
  Neighbours neighbours;
  std::size_t longest;
  PagedCache cache;
  PagedCache scratch;  // where chunks are encoded
  mini_engine::ThreadPool pool;
  std::map<pikv::SlabFormat, std::unique_ptr<ChunkServer>> servers;

  const Case* one = nullptr;
  std::optional<Served> full;
  double full_ms = 0;
  std::optional<ForcedReply> reference;
  std::optional<QueryCapture> full_queries;

  [[nodiscard]] std::vector<float> compute(Served& served, std::span<const TokenId> tokens, std::size_t first_logit);
  [[nodiscard]] ChunkServer& server(pikv::SlabFormat format);
  [[nodiscard]] Tokens context_of(const ArmSpec& arm, std::size_t passage) const;
  void encode(const ArmSpec& arm, ChunkServer& with);

  void serve_whole(Kind kind, Served& served, ArmResult& result);
  void serve_exact_prefix(Served& served, ArmResult& result);
  void serve_chunks(const ArmSpec& arm, Served& served, ArmResult& result);
  void serve_ape(const ArmSpec& arm, Served& served, ArmResult& result);
  void compare(Served& served, ArmResult& result);
  void measure_mechanism(Served& served, ArmResult& result);
  void capture_question(Served& served, QueryCapture& queries);
};

/// Appends the tokens; logits of the first_logit-th of them and all behind it.
std::vector<float> CaseRunner::Impl::compute(Served& served, std::span<const TokenId> tokens, std::size_t first_logit) {
  const std::vector<std::int32_t> rows = iota(served.sequence.size(), tokens.size());
  const std::vector<std::int32_t> wanted = iota(static_cast<std::int32_t>(first_logit), tokens.size() - first_logit);
  served.sequence.grow(static_cast<int>(tokens.size()));
  if (!served.documents.empty()) {
    served.documents.resize(static_cast<std::size_t>(served.sequence.size()), mini_engine::Pass::kSeesAll);
  }
  return engine.model().forward(mini_engine::Pass{.tokens = tokens,
                                                  .rows = rows,
                                                  .logit_rows = wanted,
                                                  .documents = served.documents,
                                                  .observer = served.attention.get()},
                                served.sequence);
}

ChunkServer& CaseRunner::Impl::server(pikv::SlabFormat format) {
  std::unique_ptr<ChunkServer>& made = servers[format];
  if (made == nullptr) {
    made = std::make_unique<ChunkServer>(
        engine.model(), scratch, fingerprint,
        mini_engine::ChunkServerOptions{.capacity_bytes = options.store_bytes,
                                        .store_dtype = engine.store_dtype(),
                                        .encoding = {.format = format},
                                        .name_space = "private:lab",
                                        .device = engine.reuse_device(mini_engine::ChunkPlace::kDevice)});
  }
  return *made;
}

/// What the passage is encoded behind.
Tokens CaseRunner::Impl::context_of(const ArmSpec& arm, std::size_t passage) const {
  switch (arm.context) {
    case ArmSpec::Context::kNothing:
      return {};
    case ArmSpec::Context::kSystem:
      return one->system;
    case ArmSpec::Context::kNeighbours:
      break;
  }
  // As many of the nearest as the model has positions for, the nearest next to the passage.
  std::vector<const Tokens*> others = neighbours.of(one->passages[passage].id);
  std::size_t rows = one->system.size() + one->passages[passage].tokens.size();
  const auto most = static_cast<std::size_t>(engine.model().config().max_positions);
  std::size_t fitting = 0;
  while (fitting < others.size() && rows + others[fitting]->size() <= most) rows += others[fitting++]->size();
  others.resize(fitting);
  std::reverse(others.begin(), others.end());
  return joined(one->system, others);
}

void CaseRunner::Impl::encode(const ArmSpec& arm, ChunkServer& with) {
  for (std::size_t i = 0; i < one->passages.size(); ++i) {
    (void)with.encode_chunk(one->passages[i].tokens, context_of(arm, i));
  }
}

void CaseRunner::Impl::serve_whole(Kind kind, Served& served, ArmResult& result) {
  const Tokens tokens = tokens_of(*one, order_of(*one, kind));
  if (kind == Kind::kBlockMask) served.documents = block_documents(*one);
  const double start = now();
  served.logits = compute(served, tokens, tokens.size() - 1);
  result.ms = (now() - start) * 1e3;
}

void CaseRunner::Impl::serve_exact_prefix(Served& served, ArmResult& result) {
  ChunkServer with(engine.model(), scratch, fingerprint,
                   mini_engine::ChunkServerOptions{.capacity_bytes = options.store_bytes,
                                                   .store_dtype = engine.store_dtype(),
                                                   .name_space = "private:lab",
                                                   .device = engine.reuse_device(mini_engine::ChunkPlace::kDevice)});
  const mini_engine::ReuseOptions prefixes{.use_chunks = false};
  for (const bool earlier : {true, false}) {
    pikv::Prompt prompt;
    prompt.add_fresh(tokens_of(*one, earlier ? one->earlier : one->served));
    served.sequence.truncate(0);
    const double start = now();
    served.logits = with.prefill(prompt, served.sequence, prefixes).logits;
    result.ms = (now() - start) * 1e3;
  }
}

void CaseRunner::Impl::serve_chunks(const ArmSpec& arm, Served& served, ArmResult& result) {
  ChunkServer& with = server(arm.format);
  encode(arm, with);
  const pikv::Prompt prompt =
      chunk_prompt(*one, arm.kind, [&](std::size_t passage) { return with.recipe(context_of(arm, passage)); });
  const double start = now();
  mini_engine::Prefill prefill =
      with.prefill(prompt, served.sequence, {.store_exact_prefix = false, .repair = arm.repair.get()});
  result.ms = (now() - start) * 1e3;
  served.logits = std::move(prefill.logits);
  const pikv::PlanStats& stats = prefill.plan.stats();
  result.rows = prefill.repair.rows(engine.model().config().num_layers);
  result.passes = prefill.repair.num_passes;
  result.approx_rows = stats.approximate_tokens + stats.repaired_tokens;
}

void CaseRunner::Impl::serve_ape(const ArmSpec& arm, Served& served, ArmResult& result) {
  ChunkServer& with = server(arm.format);
  encode(arm, with);
  const pikv::Prompt prompt =
      chunk_prompt(*one, arm.kind, [&](std::size_t passage) { return with.recipe(context_of(arm, passage)); });
  ApeRows rows{.prefix = static_cast<std::int32_t>(one->system.size())};
  for (const std::size_t index : one->served) {
    rows.contexts.push_back(static_cast<std::int32_t>(one->passages[index].tokens.size()));
  }
  served.attention = std::make_unique<ApeAttention>(engine.model(), served.sequence, rows, ApeOptions{}, pool);
  const double start = now();
  served.sequence.grow(static_cast<int>(prompt.num_rows()));
  const auto placement = with.place(prompt, served.sequence, {.store_exact_prefix = false});
  ObserverChain observers({placement->observer(), served.attention.get()});
  const std::span<const std::int32_t> computed = placement->plan().rows_to_compute();
  Tokens tokens;
  for (const std::int32_t row : computed) tokens.push_back(prompt.tokens()[static_cast<std::size_t>(row)]);
  const auto last = static_cast<std::int32_t>(tokens.size() - 1);
  served.logits = engine.model().forward(
      mini_engine::Pass{.tokens = tokens, .rows = computed, .logit_rows = {&last, 1}, .observer = &observers},
      served.sequence);
  placement->finish();
  result.ms = (now() - start) * 1e3;
  result.approx_rows = placement->plan().stats().approximate_tokens;
}

void CaseRunner::Impl::compare(Served& served, ArmResult& result) {
  const int rows = served.sequence.size();
  const auto extend = [&](std::span<const TokenId> tokens, std::size_t first_logit) {
    return compute(served, tokens, first_logit);
  };
  const auto back_to_prompt = [&] { served.sequence.truncate(rows); };
  const ReplyComparison comparison = reference->compare(
      served.logits, extend, [&](std::size_t kept) { served.sequence.truncate(rows + static_cast<int>(kept)); },
      options.num_generated > 0);
  result.kl = comparison.kl;
  result.top1 = comparison.top1;
  result.rms_dp = comparison.rms_dp;
  result.generated = comparison.generated;
  back_to_prompt();
  if (!one->answer_tokens.empty()) {
    result.nll = mean_nll(served.logits, one->answer_tokens, extend);
    back_to_prompt();
  }
}

/// Computes the question's rows once more; in the arm's own sequence that changes nothing.
void CaseRunner::Impl::capture_question(Served& served, QueryCapture& queries) {
  const auto first = served.sequence.size() - static_cast<std::int32_t>(one->question.size());
  const std::vector<std::int32_t> rows = iota(first, one->question.size());
  const auto last = static_cast<std::int32_t>(rows.size() - 1);
  ObserverChain observers({&queries, served.attention.get()});
  (void)engine.model().forward(mini_engine::Pass{.tokens = one->question,
                                                 .rows = rows,
                                                 .logit_rows = {&last, 1},
                                                 .documents = served.documents,
                                                 .observer = &observers},
                               served.sequence);
}

void CaseRunner::Impl::measure_mechanism(Served& served, ArmResult& result) {
  const mini_engine::ModelConfig& config = engine.model().config();
  const int num_rows = served.sequence.size();
  const auto question = num_rows - static_cast<std::int32_t>(one->question.size());
  const std::vector<std::int32_t> question_rows = iota(question, one->question.size());
  if (!full_queries) {
    full_queries.emplace(config, cache.memory(), question_rows);
    capture_question(*full, *full_queries);
  }
  QueryCapture queries(config, cache.memory(), question_rows);
  capture_question(served, queries);

  const auto system = static_cast<std::int32_t>(one->system.size());
  const std::vector<std::int32_t> context = iota(system, static_cast<std::size_t>(question - system));
  for (const LayerError& error : layer_errors(config, full->sequence, served.sequence, context, pool)) {
    result.k_err.push_back(error.keys);
    result.v_err.push_back(error.values);
  }
  const AttentionSimilarity similarity =
      compare_attention(config, {.sequence = &full->sequence, .queries = &*full_queries},
                        {.sequence = &served.sequence, .queries = &queries}, {}, pool);
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  result.attention_cos = mean(similarity.cosine);
  result.attention_js = mean(similarity.divergence);
}

CaseRunner::CaseRunner(mini_engine::Engine& engine, const std::array<std::byte, 32>& fingerprint, const CaseFile& file,
                       const CaseRunnerOptions& options)
    : impl_(std::make_unique<Impl>(engine, fingerprint, file, options)) {}
CaseRunner::~CaseRunner() = default;

void CaseRunner::begin(const Case& one) {
  Impl& impl = *impl_;
  impl.one = &one;
  impl.full_queries.reset();
  impl.full.reset();
  impl.full.emplace(impl.cache);
  ArmResult result;
  impl.serve_whole(Kind::kFull, *impl.full, result);
  impl.full_ms = result.ms;
  const int rows = impl.full->sequence.size();
  impl.reference.emplace(impl.full->logits, impl.engine.model().config().eos_ids, impl.options.num_forced,
                         [&](std::span<const TokenId> tokens, std::size_t first_logit) {
                           return impl.compute(*impl.full, tokens, first_logit);
                         });
  impl.full->sequence.truncate(rows);
}

ArmResult CaseRunner::run(const ArmSpec& arm) {
  Impl& impl = *impl_;
  ArmResult result;
  if (arm.kind == Kind::kFull) {
    impl.compare(*impl.full, result);
    result.ms = impl.full_ms;
    result.prompt_rows = impl.full->sequence.size();
    return result;
  }
  Served served(impl.cache);
  switch (arm.kind) {
    case Kind::kExactPrefix:
      impl.serve_exact_prefix(served, result);
      break;
    case Kind::kReuseLocal:
    case Kind::kReuseStale:
    case Kind::kReanchored:
      impl.serve_chunks(arm, served, result);
      break;
    case Kind::kApe:
      impl.serve_ape(arm, served, result);
      break;
    default:
      impl.serve_whole(arm.kind, served, result);
  }
  result.prompt_rows = served.sequence.size();
  impl.compare(served, result);
  const bool is_same_prompt = arm.kind == Kind::kReuseLocal || arm.kind == Kind::kReuseStale ||
                              arm.kind == Kind::kReanchored || arm.kind == Kind::kExactPrefix;
  if (impl.options.measures_mechanism && is_same_prompt) impl.measure_mechanism(served, result);
  return result;
}

}  // namespace lab
