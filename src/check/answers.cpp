// The checks that look at answers: the same question behind a chunk computed in place, placed, and composed.
#include <algorithm>
#include <cmath>

#include "check/checks.hpp"

namespace pikv {
inline namespace v0 {
namespace check {
namespace {

/// The larger one; not a number when either is none.
double worse(double a, double b) { return std::isnan(a) || a > b ? a : b; }

}  // namespace

Result<std::vector<float>> Checks::ask(Position first, std::span<const Position> context) {
  return session_->compute(question_, first, context, static_cast<std::int64_t>(question_.size()));
}

Status Checks::free_position(ModelCheck& check) {
  const auto end = static_cast<Position>(chunk_tokens_);
  const auto question_tokens = static_cast<std::int64_t>(question_.size());
  for (const Position first : offsets()) {
    PIKV_TRY(session_->begin_sequence(first + end + question_tokens));
    PIKV_TRY(session_->compute(chunks_[0], first, {}, 0).status());
    Result<std::vector<float>> logits = ask(first + end, position_run(first, end));
    if (!logits.ok()) return logits.status();
    const std::vector<float>& kept = alone_[first] = std::move(*logits);
    engine_error_ = worse(relative_difference(kept, alone_[0]), engine_error_);
  }
  check.measured = engine_error_;
  check.bound = logit_bound();
  check.outcome = engine_error_ <= check.bound ? CheckOutcome::kPassed : CheckOutcome::kFailed;
  check.detail = check.outcome == CheckOutcome::kPassed
                     ? "no pikv involved: what the engine's own rounding makes of position"
                     : "no pikv involved: rows out of `context` are seen, or rotation is not relative";
  return {};
}

Result<std::vector<float>> Checks::ask_behind_placed(Position first, std::span<const Position> anchors) {
  const auto end = static_cast<Position>(chunk_tokens_);
  const Result<ChunkHandle> chunk = session_->encode(chunks_[0], 0);
  if (!chunk.ok()) return chunk.status();
  PIKV_TRY(session_->begin_sequence(first + end + static_cast<std::int64_t>(question_.size())));
  PIKV_TRY(session_->place(*chunk, first, anchors));
  return ask(first + end, position_run(first, end));
}

Status Checks::placed(ModelCheck& check) {
  if (alone_.size() < 2) return unsupported("there are no answers to compare with, see \"free position\"");
  double worst = 0;
  for (const auto& [first, expected] : alone_) {
    const Result<std::vector<float>> got = ask_behind_placed(first, position_run(first, chunk_tokens_));
    if (!got.ok()) return got.status();
    worst = worse(relative_difference(*got, expected), worst);
  }
  placed_error_ = worst;
  check.measured = worst;
  check.bound = placed_bound();
  check.outcome = worst <= check.bound ? CheckOutcome::kPassed : CheckOutcome::kFailed;
  check.detail = "at positions";
  for (const auto& [first, logits] : alone_) check.detail += " " + std::to_string(first);
  if (check.outcome == CheckOutcome::kFailed) check.detail += ": other answers than behind the chunk computed there";
  return {};
}

Status Checks::block_diagonal(ModelCheck& check) {
  const auto question_first = static_cast<Position>(chunk_tokens_ * static_cast<std::int64_t>(chunks_.size()));
  const std::vector<Position> before = position_run(0, question_first);
  const std::int64_t num_rows = question_first + static_cast<std::int64_t>(question_.size());
  for (const std::vector<TokenId>& chunk : chunks_) PIKV_TRY(session_->encode(chunk, 0).status());
  PIKV_TRY(session_->begin_sequence(num_rows));
  PIKV_TRY(session_->compose(chunks_, question_));
  const Result<std::vector<float>> composed = ask(question_first, before);
  if (!composed.ok()) return composed.status();

  PIKV_TRY(session_->begin_sequence(num_rows));
  Result<std::vector<float>> expected = std::vector<float>();
  if (session_->model().masks_documents) {
    std::vector<TokenId> tokens;
    std::vector<std::int32_t> documents;
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      tokens.insert(tokens.end(), chunks_[i].begin(), chunks_[i].end());
      documents.resize(tokens.size(), static_cast<std::int32_t>(i));
    }
    tokens.insert(tokens.end(), question_.begin(), question_.end());
    documents.resize(tokens.size(), ProbePass::kSeesAll);
    expected = session_->compute(tokens, 0, {}, static_cast<std::int64_t>(question_.size()), documents);
  } else {
    Position first = 0;
    for (const std::vector<TokenId>& chunk : chunks_) {
      PIKV_TRY(session_->compute(chunk, first, {}, 0).status());
      first += static_cast<Position>(chunk_tokens_);
    }
    expected = ask(question_first, before);
  }
  if (!expected.ok()) return expected.status();
  const double error = relative_difference(*composed, *expected);
  check.measured = error;
  check.bound = placed_bound();
  check.outcome = error <= check.bound ? CheckOutcome::kPassed : CheckOutcome::kFailed;
  check.detail = std::to_string(chunks_.size()) + " chunks, against " +
                 (session_->model().masks_documents ? "one pass with a document mask"
                                                    : "each computed at its place, with nothing before it");
  return {};
}

Status Checks::control(ModelCheck& check) {
  const Position first = offsets()[1];
  const auto expected = alone_.find(first);
  if (expected == alone_.end()) return unsupported("there is no answer to compare with, see \"free position\"");
  std::vector<Position> reversed = position_run(first, chunk_tokens_);
  std::reverse(reversed.begin(), reversed.end());
  const Result<std::vector<float>> got = ask_behind_placed(first, reversed);
  if (!got.ok()) return got.status();
  const double difference = relative_difference(*got, expected->second);
  check.measured = difference;
  // In 16 bits the error itself is too large for a thousand times as much to fit into any answer.
  check.bound = std::min(std::max(1000 * placed_error_, 1e-4), 0.05);
  check.outcome = difference >= check.bound ? CheckOutcome::kPassed : CheckOutcome::kFailed;
  if (check.outcome == CheckOutcome::kFailed) {
    check.detail = "placed keys hardly matter: the engine computes them itself, or reads other slots";
  }
  return {};
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
