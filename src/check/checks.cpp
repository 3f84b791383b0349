#include "check/checks.hpp"

#include <algorithm>
#include <cmath>

namespace pikv {
inline namespace v0 {
namespace check {
namespace {

constexpr std::size_t kNumChunks = 3;
constexpr double kOtherOrderOfSums = 1e-3;      // relative, of a pair of fp32 that nearly cancels
constexpr std::int64_t kFewestChunkTokens = 4;  // fewer show no frequency

/// Relative error of rounding to nearest.
double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
    case DType::kFloat8E4M3:
      break;
  }
  return 0x1p-4;
}

/// Tokens by chance, the same everywhere (splitmix64).
class TokenSource {
 public:
  TokenSource(std::uint64_t seed, std::int32_t vocab_size) : state_(seed), vocab_size_(vocab_size) {}
  std::vector<TokenId> take(std::int64_t count) {
    std::vector<TokenId> tokens(static_cast<std::size_t>(count));
    for (TokenId& token : tokens) token = static_cast<TokenId>(next() % static_cast<std::uint64_t>(vocab_size_));
    return tokens;
  }

 private:
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  std::uint64_t state_;
  std::int32_t vocab_size_;
};

void judge(ModelCheck& check, double measured, double bound) {
  check.measured = measured;
  check.bound = bound;
  check.outcome = measured <= bound ? CheckOutcome::kPassed : CheckOutcome::kFailed;
}

std::string at(Position position) { return "position " + std::to_string(position); }

}  // namespace

std::span<const Checks::Entry> Checks::all() {
  static constexpr std::array kAll = {
      Entry{"probe", "what the probe says of the model holds together", true, &Checks::probe},
      Entry{"frequencies", "rotary frequencies do not depend on the length", true, &Checks::frequencies},
      Entry{"cache type", "pages hold what pikv writes without loss", true, &Checks::cache_type},
      Entry{"keys", "semantic keys turned by pikv are the engine's keys", true, &Checks::keys},
      Entry{"capture", "semantic keys come out of the engine's projections", false, &Checks::capture},
      Entry{"round trip", "keys turned back out of the pages turn into themselves", true, &Checks::round_trip},
      Entry{"free position", "the engine gives one answer wherever a chunk stands", true, &Checks::free_position},
      Entry{"placed", "a re-anchored chunk is the chunk computed there", true, &Checks::placed},
      Entry{"block-diagonal", "composed chunks equal a block-diagonal pass", true, &Checks::block_diagonal},
      Entry{"control", "keys turned to wrong positions show (more is right)", true, &Checks::control},
  };
  return kAll;
}

double Checks::rounding() const {
  return std::max(unit_roundoff(session_->model().geometry.dtype), unit_roundoff(session_->cache().layout.dtype));
}

double Checks::logit_bound() const { return std::max(1e-3, 24 * rounding()); }

double Checks::placed_bound() const {
  const double least = std::max(1e-4, 4 * rounding());
  return std::min(std::max(least, 8 * engine_error_), logit_bound());
}

Status Checks::make_material() {
  const ProbedModel& model = session_->model();
  const std::int64_t page_size = session_->cache().layout.page_size;
  const std::int64_t question_tokens = std::max(options_.question_tokens, 1);
  const auto whole_pages = [&](std::int64_t tokens) { return tokens / page_size * page_size; };
  const std::int64_t wanted = std::max<std::int64_t>(options_.chunk_tokens, kFewestChunkTokens);
  const std::int64_t room = (model.max_rows - question_tokens) / std::int64_t{kNumChunks};
  chunk_tokens_ = std::min(whole_pages(wanted + page_size - 1), whole_pages(std::max<std::int64_t>(room, 0)));
  if (chunk_tokens_ < kFewestChunkTokens) {
    return invalid_argument("max_rows is " + std::to_string(model.max_rows) + ", too few for " +
                            std::to_string(kNumChunks) + " chunks of whole pages of " + std::to_string(page_size) +
                            " and a question");
  }
  TokenSource source(options_.seed, model.vocab_size);
  for (std::size_t i = 0; i < kNumChunks; ++i) chunks_.push_back(source.take(chunk_tokens_));
  question_ = source.take(question_tokens);
  return {};
}

std::array<Position, 3> Checks::offsets() const {
  const std::int64_t page_size = session_->cache().layout.page_size;
  const std::int64_t last = session_->model().max_rows - chunk_tokens_ - static_cast<std::int64_t>(question_.size());
  const auto page_begin = [&](std::int64_t row) { return static_cast<Position>(row / page_size * page_size); };
  return {0, page_begin(last / 2), page_begin(last)};
}

Status Checks::probe(ModelCheck& check) {
  Result<std::unique_ptr<ProbeSession>> session = ProbeSession::open(probe_);
  if (!session.ok()) return session.status();
  std::unique_ptr<ProbeSession> opened = std::move(*session);
  PIKV_TRY(opened->begin_sequence(1));
  session_ = std::move(opened);
  const Status status = make_material();
  if (!status.ok()) session_.reset();  // the other checks have nothing to work with
  PIKV_TRY(status);
  check.outcome = CheckOutcome::kPassed;
  check.detail = "chunks of " + std::to_string(chunk_tokens_) + " tokens, positions up to " +
                 std::to_string(session_->model().max_rows - 1);
  return {};
}

Status Checks::frequencies(ModelCheck& check) {
  const bool depends = session_->model().rope.depends_on_length();
  check.outcome = depends ? CheckOutcome::kFailed : CheckOutcome::kPassed;
  if (depends) {
    check.detail =
        "the RopeConfig's scaling (dynamic NTK or LongRoPE) changes frequencies with the length: semantic "
        "keys still re-anchor, but no reuse is exact";
  }
  return {};
}

Status Checks::cache_type(ModelCheck& check) {
  const DType cache = session_->cache().layout.dtype;
  const DType store = session_->model().geometry.dtype;
  check.outcome = cache == DType::kFloat8E4M3 ? CheckOutcome::kFailed : CheckOutcome::kPassed;
  if (cache == DType::kFloat8E4M3) {
    check.detail = "pages of fp8 hold rounded keys and values: reuse works as for the engine's own, but is not exact";
  } else if (unit_roundoff(store) > unit_roundoff(cache)) {
    check.detail = std::string("chunks are stored in ") + dtype_name(store) + ", pages hold " + dtype_name(cache) +
                   ": equal within rounding, not bit for bit";
  }
  return {};
}

Result<HostRows> Checks::first_layer_at_position_0() {
  HostRows all{.geometry = session_->model().geometry, .num_tokens = chunk_tokens_, .values = {}};
  all.geometry.num_layers = 1;
  const std::int64_t row = std::int64_t{all.geometry.num_kv_heads} * all.geometry.head_dim;
  all.values.resize(static_cast<std::size_t>(2 * chunk_tokens_ * row));
  for (std::int64_t token = 0; token < chunk_tokens_; ++token) {
    PIKV_TRY(session_->begin_sequence(1));
    const std::span<const TokenId> alone(&chunks_[0][static_cast<std::size_t>(token)], 1);
    PIKV_TRY(session_->compute(alone, 0, {}, 0).status());
    const Result<HostRows> read = session_->read_pages(0, 1);
    if (!read.ok()) return read;
    std::copy_n(read->head(0, Side::kKey, 0, 0), row, all.values.begin() + token * row);
    std::copy_n(read->head(0, Side::kValue, 0, 0), row, all.values.begin() + (chunk_tokens_ + token) * row);
  }
  return all;
}

Status Checks::keys(ModelCheck& check) {
  const ProbedModel& model = session_->model();
  const bool from_projections = model.hands_out_projections;
  const std::int32_t num_layers = from_projections ? model.geometry.num_layers : 1;
  std::optional<HostRows> at_0;
  if (!from_projections) {
    Result<HostRows> rows = first_layer_at_position_0();
    if (!rows.ok()) return rows.status();
    at_0 = std::move(*rows);
  }
  std::int64_t num_differing = 0;
  judge(check, 0, 16 * rounding());
  for (const Position first : offsets()) {
    const Result<ChunkHandle> chunk = session_->encode(chunks_[0], first);
    if (!chunk.ok()) return chunk.status();
    const Result<HostRows> written = session_->read_pages(first, chunk_tokens_);
    if (!written.ok()) return written.status();
    const Result<HostRows> semantic = at_0 ? Result<HostRows>(*at_0) : session_->read_chunk(*chunk);
    if (!semantic.ok()) return semantic.status();
    const Result<HostRows> turned = at_0 ? Result<HostRows>(turned_on_host(*at_0, session_->table().view(), first))
                                         : session_->turned((*chunk)->view(), chunk_tokens_, first);
    if (!turned.ok()) return turned.status();

    // An engine may find angles in fp32 of its own, which are off by a few ulps of the position; and sums of one row
    // are rounded in another order than those of many.
    const double bound = (from_projections ? 16 * rounding() : std::max(16 * rounding(), kOtherOrderOfSums)) +
                         static_cast<double>(first + chunk_tokens_) * 0x1p-22;
    const RowDifference keys = row_difference(*turned, *written, Side::kKey, model.rope.pairing, num_layers, bound);
    const RowDifference values = row_difference(*turned, *written, Side::kValue, model.rope.pairing, num_layers, bound);
    num_differing += keys.num_differing + values.num_differing;
    if (keys.worst <= bound && values.worst <= bound) {
      const double worst = std::max(keys.worst, values.worst);
      if (worst >= *check.measured) judge(check, worst, bound);
      continue;
    }
    const bool is_keys = !(keys.worst <= bound);
    const RowDifference& worst = is_keys ? keys : values;
    judge(check, worst.worst, bound);
    const std::string because = explain_keys({.semantic = *semantic,
                                              .written = *written,
                                              .first = first,
                                              .rope = model.rope,
                                              .table = session_->table(),
                                              .bound = bound});
    check.detail = std::string(is_keys ? "keys" : "values") + " part from " +
                   at(first + static_cast<Position>(std::max<std::int64_t>(worst.first_token, 0))) +
                   " on, most in layer " + std::to_string(worst.layer) + ", head " + std::to_string(worst.head) +
                   (is_keys ? ", pair " : ", channel ") + std::to_string(worst.pair) +
                   (because.empty() ? "" : ": " + because);
    return {};
  }
  check.detail = num_differing == 0 ? "bit for bit" : std::to_string(num_differing) + " elements differ by rounding";
  check.detail += from_projections ? ", in all layers" : ", in layer 0, by each token computed alone at position 0";
  return {};
}

Status Checks::capture(ModelCheck& check) {
  if (!session_->model().hands_out_projections) {
    return unsupported("the engine hands out no projections: chunks have to be turned back out of its pages");
  }
  check.outcome = CheckOutcome::kPassed;
  check.detail = "held to the pages by the check of keys";
  return {};
}

Status Checks::round_trip(ModelCheck& check) {
  const Position first = offsets()[1];
  PIKV_TRY(session_->encode(chunks_[0], first).status());
  const Result<HostRows> written = session_->read_pages(first, chunk_tokens_);
  if (!written.ok()) return written.status();
  const Result<HostRows> again = session_->round_trip(first, chunk_tokens_);
  if (!again.ok()) return again.status();
  const ProbedModel& model = session_->model();
  const double bound = 16 * rounding();
  double worst = 0;
  for (const Side side : {Side::kKey, Side::kValue}) {
    const RowDifference difference =
        row_difference(*again, *written, side, model.rope.pairing, model.geometry.num_layers, bound);
    worst = std::isnan(difference.worst) ? difference.worst : std::max(worst, difference.worst);
  }
  judge(check, worst, bound);
  check.detail = at(first);
  return {};
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
