#include "lab/run/case_runner.hpp"

#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "lab/attention_similarity.hpp"
#include "lab/layer_errors.hpp"
#include "lab/observer_chain.hpp"
#include "lab/query_capture.hpp"
#include "lab/run/case_prompts.hpp"
#include "lab/run/case_serving.hpp"
#include "lab/run/forced_reply.hpp"

namespace lab {
namespace {

using mini_engine::TokenId;
using Kind = ArmSpec::Kind;

/// Whether an arm's rows are those of full recomputation, one by one.
bool serves_same_prompt(Kind kind) {
  return kind == Kind::kReuseLocal || kind == Kind::kReuseStale || kind == Kind::kReanchored ||
         kind == Kind::kCacheCraft || kind == Kind::kExactPrefix;
}

}  // namespace

struct CaseRunner::Impl {
  Impl(mini_engine::Engine& with, const std::array<std::byte, 32>& fingerprint, const CaseFile& file,
       const CaseRunnerOptions& chosen)
      : engine(with),
        options(chosen),
        serving(with, fingerprint, file,
                {.store_bytes = chosen.store_bytes,
                 .num_neighbours = chosen.num_neighbours,
                 .num_threads = chosen.num_threads}) {}

  mini_engine::Engine& engine;
  CaseRunnerOptions options;
  CaseServing serving;

  const Case* one = nullptr;
  std::optional<Served> full;
  std::optional<double> full_ms;
  std::optional<ForcedReply> reference;
  std::optional<QueryCapture> full_queries;

  void compare(Served& served, ArmResult& result);
  void measure_rows(Served& served, std::span<const std::int32_t> rows, ArmResult& result);
  void measure_mechanism(Served& served, ArmResult& result);
  void capture_question(Served& served, QueryCapture& queries);
};

void CaseRunner::Impl::compare(Served& served, ArmResult& result) {
  const int rows = served.sequence.size();
  const auto extend = [&](std::span<const TokenId> tokens, std::size_t first_logit) {
    return serving.compute(served, tokens, first_logit);
  };
  const auto back_to_prompt = [&] { served.sequence.truncate(rows); };
  const ReplyComparison comparison = reference->compare(
      served.logits, extend, [&](std::size_t kept) { served.sequence.truncate(rows + static_cast<int>(kept)); },
      options.generates);
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

void CaseRunner::Impl::measure_rows(Served& served, std::span<const std::int32_t> rows, ArmResult& result) {
  for (const LayerError& error :
       layer_errors(engine.model().config(), full->sequence, served.sequence, rows, serving.pool())) {
    result.k_err.push_back(error.keys);
    result.v_err.push_back(error.values);
  }
}

/// Computes the question's rows once more; in the arm's own sequence that changes nothing.
void CaseRunner::Impl::capture_question(Served& served, QueryCapture& queries) {
  const auto first = served.sequence.size() - static_cast<std::int32_t>(one->question.size());
  const std::vector<std::int32_t> rows = consecutive_rows(first, one->question.size());
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
  const std::vector<std::int32_t> question_rows = consecutive_rows(question, one->question.size());
  if (!full_queries) {
    full_queries.emplace(config, serving.cache().memory(), question_rows);
    capture_question(*full, *full_queries);
  }
  QueryCapture queries(config, serving.cache().memory(), question_rows);
  capture_question(served, queries);

  const auto system = static_cast<std::int32_t>(one->system.size());
  const std::vector<std::int32_t> context = consecutive_rows(system, static_cast<std::size_t>(question - system));
  measure_rows(served, context, result);
  const AttentionSimilarity similarity =
      compare_attention(config, {.sequence = &full->sequence, .queries = &*full_queries},
                        {.sequence = &served.sequence, .queries = &queries}, {}, serving.pool());
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

void CaseRunner::begin(const Case& one, ArmSpec::Kind reference) {
  Impl& impl = *impl_;
  impl.one = &one;
  impl.serving.begin(one);
  impl.full_queries.reset();
  impl.full.reset();
  impl.full.emplace(impl.serving.cache());
  ArmResult result;
  impl.serving.serve({.name = "reference", .group = "reference", .kind = reference}, *impl.full, result);
  impl.full_ms = result.ms;
  const int rows = impl.full->sequence.size();
  impl.reference.emplace(impl.full->logits, impl.engine.model().config().eos_ids, impl.options.num_forced,
                         [&](std::span<const TokenId> tokens, std::size_t first_logit) {
                           return impl.serving.compute(*impl.full, tokens, first_logit);
                         });
  impl.full->sequence.truncate(rows);
}

ArmResult CaseRunner::run(const ArmSpec& arm) {
  Impl& impl = *impl_;
  ArmResult result;
  if (arm.kind == Kind::kFull) {
    impl.compare(*impl.full, result);
    if (impl.options.measures_time) result.ms = impl.full_ms;
    result.prompt_rows = impl.full->sequence.size();
    return result;
  }
  Served served(impl.serving.cache());
  impl.serving.serve(arm, served, result);
  impl.compare(served, result);
  if (!impl.options.measures_time) result.ms.reset();
  if (serves_same_prompt(arm.kind) && impl.options.measures_gold_alone) {
    impl.measure_rows(served, gold_rows(*impl.one), result);
  } else if (serves_same_prompt(arm.kind) && impl.options.measures_mechanism) {
    impl.measure_mechanism(served, result);
  }
  return result;
}

}  // namespace lab
