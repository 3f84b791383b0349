#include "rag_demo/session.hpp"

#include <algorithm>
#include <chrono>
#include <limits>

#include "mini_engine/generate.hpp"
#include "mini_engine/text_stream.hpp"
#include "rag_demo/answer_metrics.hpp"
#include "rag_demo/distribution_metrics.hpp"
#include "rag_demo/reply.hpp"

namespace rag_demo {
namespace {

using mini_engine::Prefill;
using mini_engine::ReuseOptions;
using mini_engine::Sequence;

constexpr int kPageSize = 16;

double milliseconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

TokenId best_token(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

ReuseOptions reuse_of(Mode mode) {
  switch (mode) {
    case Mode::kFull:
      return {.use_exact_prefix = false, .use_chunks = false, .store_exact_prefix = false};
    case Mode::kExactPrefix:
      return {.use_exact_prefix = true, .use_chunks = false, .store_exact_prefix = true};
    default:
      return {.use_exact_prefix = true, .use_chunks = true, .store_exact_prefix = false};
  }
}

/// Pages for the longest prompt the model takes, with room for a reply.
int num_pages(const mini_engine::ModelConfig& config, std::span<const std::vector<TokenId>> passages, int reply) {
  std::size_t tokens = 2048 + static_cast<std::size_t>(reply);
  for (const std::vector<TokenId>& passage : passages) tokens += passage.size();
  tokens = std::min(tokens, static_cast<std::size_t>(config.max_positions));
  return static_cast<int>(tokens / kPageSize + 1);
}

mini_engine::ChunkServerOptions server_options(const SessionOptions& options) {
  return {.capacity_bytes = options.store_bytes,
          .store_dtype = options.store_dtype,
          .name_space = "private:rag_demo",
          .secret = {},
          .num_threads = options.num_threads};
}

}  // namespace

Session::Session(mini_engine::Model& model, const mini_engine::Tokenizer& tokenizer, const PromptBuilder& builder,
                 std::span<const std::vector<TokenId>> passages, const std::array<std::byte, 32>& fingerprint,
                 const SessionOptions& options)
    : model_(model),
      tokenizer_(tokenizer),
      builder_(builder),
      passages_(passages),
      options_(options),
      cache_(model.config(), mini_engine::Precision::kFloat32,
             num_pages(model.config(), passages, std::max(options.max_answer_tokens, options.num_forced_tokens)),
             kPageSize),
      chunk_server_(model, cache_, fingerprint, server_options(options)),
      prefix_server_(model, cache_, fingerprint, server_options(options)) {}

std::span<const TokenId> Session::chunk_prefix() const {
  if (options_.chunk_context == ChunkContext::kAlone) return {};
  return builder_.system();
}

IngestReport Session::ingest(std::span<const Request> requests, const std::function<void(std::int64_t)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  IngestReport report;
  for (const Request& request : requests) {
    for (const std::size_t document : request.documents) {
      if (!chunk_server_.encode_chunk(passages_[document], chunk_prefix())) continue;
      ++report.num_documents;
      report.num_tokens += static_cast<std::int64_t>(passages_[document].size());
      progress(report.num_documents);
    }
  }
  report.num_bytes = report.num_tokens * chunk_server_.store().geometry().bytes_per_token();
  report.seconds = milliseconds_since(begin) / 1000.0;
  return report;
}

std::vector<ModeRun> Session::serve(const Request& request, const std::function<void(Mode)>& begin,
                                    const std::function<void(const std::string&)>& piece) {
  {
    Sequence earlier(cache_);
    (void)prefix_server_.prefill(make_earlier_prompt(request, builder_, passages_), earlier,
                                 reuse_of(Mode::kExactPrefix));
  }
  std::vector<ModeRun> runs;
  Reference reference;
  for (const Mode mode : kModes) {
    ModeRun run;
    run.mode = mode;
    Sequence sequence(cache_);
    const Prefill prefill = measure(request, mode, sequence, run);
    run.rows = prefill.plan.stats();
    if (mode == Mode::kFull) reference = make_reference(prefill.logits, sequence);
    compare(reference, prefill.logits, sequence, run);
    begin(mode);
    run.answer = answer(prefill.logits, sequence, piece);
    if (!request.answers.empty()) run.f1 = token_f1(first_phrase(run.answer), request.answers);
    runs.push_back(std::move(run));
  }
  return runs;
}

Prefill Session::measure(const Request& request, Mode mode, Sequence& sequence, ModeRun& run) {
  mini_engine::ChunkServer& server = mode == Mode::kExactPrefix ? prefix_server_ : chunk_server_;
  const pikv::Prompt prompt = make_prompt(request, mode, builder_, passages_, chunk_server_.recipe(chunk_prefix()));
  const bool repeatable = mode != Mode::kFull && mode != Mode::kExactPrefix;  // the latter two are long, and the
  std::vector<double> times;                                                  // second one learns from a first try
  while (true) {
    const auto begin = std::chrono::steady_clock::now();
    Prefill prefill = server.prefill(prompt, sequence, reuse_of(mode));
    (void)best_token(prefill.logits);
    times.push_back(milliseconds_since(begin));
    if (!repeatable || static_cast<int>(times.size()) >= options_.num_repeats) {
      std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
      run.ttft_ms = times[times.size() / 2];
      return prefill;
    }
    sequence.truncate(0);
  }
}

Session::Reference Session::make_reference(const std::vector<float>& first_logits, Sequence& sequence) {
  const int prompt_rows = sequence.size();
  const auto vocab = static_cast<std::size_t>(model_.config().vocab_size);
  Reference reference;
  std::vector<float> logits = first_logits;
  while (true) {
    reference.logits.insert(reference.logits.end(), logits.begin(), logits.end());
    // An early end of the reply would leave nothing to compare: the end is left out of the choice.
    for (const TokenId eos : model_.config().eos_ids) {
      if (eos < vocab) logits[eos] = -std::numeric_limits<float>::infinity();
    }
    reference.tokens.push_back(best_token(logits));
    if (static_cast<int>(reference.tokens.size()) == options_.num_forced_tokens) break;
    const auto row = static_cast<std::int32_t>(sequence.size());
    const std::int32_t first = 0;
    sequence.grow(1);
    logits = model_.forward({.tokens = {&reference.tokens.back(), 1},
                             .rows = {&row, 1},
                             .logit_rows = {&first, 1},
                             .documents = {},
                             .observer = nullptr},
                            sequence);
  }
  sequence.truncate(prompt_rows);
  return reference;
}

void Session::compare(const Reference& reference, const std::vector<float>& first_logits, Sequence& sequence,
                      ModeRun& run) {
  const int prompt_rows = sequence.size();
  const std::size_t num_rows = reference.tokens.size() - 1;
  std::vector<std::int32_t> rows, logit_rows;
  for (std::size_t i = 0; i < num_rows; ++i) {
    rows.push_back(prompt_rows + static_cast<std::int32_t>(i));
    logit_rows.push_back(static_cast<std::int32_t>(i));
  }
  std::vector<float> logits = first_logits;
  if (num_rows > 0) {
    sequence.grow(static_cast<int>(num_rows));
    const std::vector<float> forced = model_.forward({.tokens = {reference.tokens.data(), num_rows},
                                                      .rows = rows,
                                                      .logit_rows = logit_rows,
                                                      .documents = {},
                                                      .observer = nullptr},
                                                     sequence);
    logits.insert(logits.end(), forced.begin(), forced.end());
    sequence.truncate(prompt_rows);
  }
  const DistributionComparison comparison =
      compare_rows(reference.logits, logits, static_cast<std::size_t>(model_.config().vocab_size));
  run.kl = comparison.mean_kl;
  run.top1 = comparison.top1_agreement;
}

std::string Session::answer(const std::vector<float>& first_logits, Sequence& sequence,
                            const std::function<void(const std::string&)>& piece) {
  mini_engine::TextStream text(tokenizer_);
  std::string reply;
  const auto emit = [&](const std::string& next) {
    reply += next;
    if (!next.empty()) piece(next);
  };
  mini_engine::Sampler greedy({});
  (void)mini_engine::decode(model_, sequence, first_logits, greedy, options_.max_answer_tokens, [&](TokenId token) {
    emit(text.push(token));
    return true;
  });
  emit(text.finish());
  return reply;
}

}  // namespace rag_demo
