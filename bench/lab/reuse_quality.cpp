#include "lab/reuse_quality.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <span>
#include <utility>

#include "lab/format_storage.hpp"
#include "lab/kv_errors.hpp"
#include "mini_engine/error.hpp"
#include "rag_demo/bm25.hpp"
#include "rag_demo/distribution_metrics.hpp"
#include "rag_demo/request.hpp"

namespace lab {
namespace {

using mini_engine::PagedCache;
using mini_engine::Sequence;
using mini_engine::TokenId;
using Tokens = std::vector<TokenId>;

constexpr int kPageSize = 16;

std::vector<rag_demo::Request> choose_requests(const rag_demo::Corpus& corpus, const ReuseOptions& options) {
  std::vector<std::string> texts;
  for (const rag_demo::Document& document : corpus.documents) texts.push_back(document.text);
  std::vector<rag_demo::Request> requests =
      rag_demo::make_requests(corpus.questions, rag_demo::Bm25Index(texts), options.top_k, options.seed);
  std::erase_if(requests, [&](const auto& request) { return request.documents.size() < options.min_passages; });
  if (requests.empty()) {
    throw mini_engine::Error("format quality: no question of the corpus has " + std::to_string(options.min_passages) +
                             " passages");
  }
  if (requests.size() > options.num_questions) {
    requests.erase(requests.begin() + static_cast<std::ptrdiff_t>(options.num_questions), requests.end());
  }
  return requests;
}

class Experiment {
 public:
  Experiment(mini_engine::Model& model, const mini_engine::Tokenizer& tokenizer, const rag_demo::Corpus& corpus,
             const ReuseOptions& options)
      : model_(model),
        options_(options),
        builder_(tokenizer),
        passages_(rag_demo::encode_passages(builder_, corpus)),
        requests_(choose_requests(corpus, options)),
        storage_(model, options.num_threads),
        cache_(model.config(), mini_engine::Precision::kFloat32, num_pages(), kPageSize) {}

  ReuseReport run(const std::function<void(std::size_t, std::size_t)>& progress) {
    encode_passages();
    for (const Arm& arm : kArms) report_.arms.push_back(describe(arm));
    for (const rag_demo::Request& request : requests_) {
      serve(request);
      progress(report_.questions.size(), requests_.size());
    }
    return std::move(report_);
  }

 private:
  [[nodiscard]] Tokens prompt_of(const rag_demo::Request& request) const {
    Tokens prompt = builder_.system();
    for (const std::size_t document : request.documents) {
      prompt.insert(prompt.end(), passages_[document].begin(), passages_[document].end());
    }
    const Tokens question = builder_.question(request.question, request.reply_begins);
    prompt.insert(prompt.end(), question.begin(), question.end());
    return prompt;
  }

  [[nodiscard]] int num_pages() const {
    std::size_t rows = 0;
    for (const rag_demo::Request& request : requests_) rows = std::max(rows, prompt_of(request).size());
    return static_cast<int>((rows + options_.num_forced) / kPageSize + 1);
  }

  /// K and V of every passage that some prompt uses, behind the system prompt.
  void encode_passages() {
    Sequence sequence(cache_);
    (void)append_rows(model_, sequence, builder_.system(), builder_.system().size() - 1, nullptr);
    const int prefix_rows = sequence.size();
    for (const rag_demo::Request& request : requests_) {
      for (const std::size_t document : request.documents) {
        if (encoded_.contains(document)) continue;
        const Tokens& tokens = passages_[document];
        KvRows rows(storage_.geometry(), static_cast<std::int64_t>(tokens.size()));
        (void)append_rows(model_, sequence, tokens, tokens.size() - 1, &rows);
        sequence.truncate(prefix_rows);
        encoded_.emplace(document, std::move(rows));
        report_.num_passage_tokens += tokens.size();
      }
    }
    report_.num_passages = encoded_.size();
    for (const auto& [document, rows] : encoded_) {
      const auto share = 1.0 / static_cast<double>(encoded_.size());
      report_.unevenness_before += share * key_channel_unevenness(storage_.geometry(), rows);
      report_.unevenness_after += share * key_channel_unevenness(storage_.geometry(), storage_.turned(rows, 0));
    }
  }

  /// What an arm does to the passages themselves.
  [[nodiscard]] ReuseArm describe(const Arm& arm) const {
    KvErrors errors(storage_.geometry());
    std::size_t num_bytes = 0;
    for (const auto& [document, rows] : encoded_) {
      const StoredChunk chunk = storage_.store(rows, arm, 0);
      errors.add(rows, storage_.decode(chunk));
      num_bytes += chunk.slab.size_bytes();
    }
    ReuseArm result{.arm = arm,
                    .kl = {},
                    .top1 = {},
                    .key_errors = errors.keys(),
                    .value_errors = errors.values(),
                    .bytes_per_token = 0};
    result.bytes_per_token = static_cast<double>(num_bytes) / static_cast<double>(report_.num_passage_tokens);
    return result;
  }

  /// The first tokens of the answer that full recomputation gives. Leaves the prompt's rows in the sequence.
  [[nodiscard]] Tokens full_answer(std::span<const TokenId> prompt, Sequence& sequence) {
    Tokens answer;
    std::vector<float> logits = append_rows(model_, sequence, prompt, prompt.size() - 1, nullptr);
    while (true) {
      // An early end would leave nothing to compare: the end is left out of the choice.
      for (const TokenId eos : model_.config().eos_ids) {
        if (eos < logits.size()) logits[eos] = -std::numeric_limits<float>::infinity();
      }
      answer.push_back(static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      if (answer.size() == options_.num_forced) break;
      logits = append_rows(model_, sequence, {&answer.back(), 1}, 0, nullptr);
    }
    return answer;
  }

  /// Logits at the prompt's last row and at all forced tokens but the last, with the passages from the arm's chunks.
  [[nodiscard]] std::vector<float> reuse(const rag_demo::Request& request, const Arm& arm,
                                         std::span<const TokenId> computed, std::size_t first_logit,
                                         Sequence& sequence) {
    auto row = static_cast<std::int32_t>(builder_.system().size());
    for (const std::size_t document : request.documents) {
      const StoredChunk chunk = storage_.store(encoded_.at(document), arm, 0);
      storage_.place(chunk, sequence, row);
      row += static_cast<std::int32_t>(chunk.num_tokens);
    }
    return compute_rows(model_, sequence, row, computed, first_logit, nullptr);
  }

  void serve(const rag_demo::Request& request) {
    const Tokens prompt = prompt_of(request);
    Sequence sequence(cache_);
    // The rows of the system prompt stay as this pass wrote them; every arm overwrites all others.
    const Tokens answer = full_answer(prompt, sequence);
    Tokens computed = builder_.question(request.question, request.reply_begins);
    const std::size_t first_logit = computed.size() - 1;
    computed.insert(computed.end(), answer.begin(), answer.end() - 1);

    const std::vector<float> reference = reuse(request, kArms[kReferenceArm], computed, first_logit, sequence);
    for (ReuseArm& arm : report_.arms) {
      const rag_demo::DistributionComparison comparison =
          rag_demo::compare_rows(reference, reuse(request, arm.arm, computed, first_logit, sequence),
                                 static_cast<std::size_t>(model_.config().vocab_size));
      arm.kl.push_back(comparison.mean_kl);
      arm.top1.push_back(comparison.top1_agreement);
    }
    report_.questions.push_back(request.question);
    report_.num_prompt_tokens += prompt.size();
  }

  mini_engine::Model& model_;
  ReuseOptions options_;
  rag_demo::PromptBuilder builder_;
  std::vector<Tokens> passages_;
  std::vector<rag_demo::Request> requests_;
  FormatStorage storage_;
  PagedCache cache_;
  std::map<std::size_t, KvRows> encoded_;  // by document
  ReuseReport report_;
};

}  // namespace

ReuseReport measure_reuse(mini_engine::Model& model, const mini_engine::Tokenizer& tokenizer,
                          const rag_demo::Corpus& corpus, const ReuseOptions& options,
                          const std::function<void(std::size_t, std::size_t)>& progress) {
  return Experiment(model, tokenizer, corpus, options).run(progress);
}

}  // namespace lab
