// Any geometry, tokens, pieces and repaired rows: CompositionPlan::create() accepts exactly what a slow model of the
// documented rules accepts, and an accepted plan says of every row what that model says, also after without() and
// with_repaired_rows().
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "support/plan_model.hpp"

namespace {

/// Reads numbers off the input; zeros when it has ended.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }

  /// Small numbers and the ends of the range in one byte; anything in nine.
  template <class Int>
  Int number() {
    using Limits = std::numeric_limits<Int>;
    const std::uint8_t first = byte();
    if (first < 0xE0) return static_cast<Int>(first);
    switch (first) {
      case 0xE0:
        return Limits::max();
      case 0xE1:
        return static_cast<Int>(Limits::max() - byte());
      case 0xE2:
        return Limits::min();
      case 0xE3:
        return static_cast<Int>(Limits::min() + byte());
      case 0xE4:
        return static_cast<Int>(-1 - byte());
      default: {
        std::uint64_t bits = 0;
        for (int i = 0; i < 8; ++i) bits = bits << 8 | byte();
        return static_cast<Int>(bits);
      }
    }
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

constexpr int kMaxTokens = 64;
constexpr int kMaxPieces = 24;

test_support::PlanDraft read_draft(Input& input) {
  test_support::PlanDraft draft;
  draft.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .rotary_dim = 8};
  if (input.byte() % 8 == 7) {  // rarely, so that most inputs get past it
    draft.geometry.num_layers = input.number<std::int32_t>();
    draft.geometry.num_kv_heads = input.number<std::int32_t>();
    draft.geometry.head_dim = input.number<std::int32_t>();
    draft.geometry.rotary_dim = input.number<std::int32_t>();
    draft.geometry.dtype = static_cast<pikv::DType>(input.byte());
  }
  draft.max_positions = input.number<std::int32_t>();
  draft.tokens.assign(input.byte() % (kMaxTokens + 1), 7);
  const int num_pieces = input.byte() % (kMaxPieces + 1);
  std::int64_t row = 0;
  for (int i = 0; i < num_pieces; ++i) {
    pikv::PlanPiece piece;
    const std::uint8_t shape = input.byte();
    piece.source = static_cast<pikv::PlanPiece::Source>(input.byte() % 5);
    piece.provenance = static_cast<pikv::Provenance>(input.byte() % 8);
    // Mostly one piece behind the other, with a chunk that fits.
    piece.row_begin = shape % 16 == 0 ? input.number<std::int64_t>() : row;
    const auto length = static_cast<std::int64_t>(input.byte() % 16);
    piece.row_end = shape % 16 == 1 ? input.number<std::int64_t>()
                                    : static_cast<std::int64_t>(static_cast<std::uint64_t>(piece.row_begin) +
                                                                static_cast<std::uint64_t>(length));
    piece.chunk_num_tokens = shape % 16 < 8 ? input.number<std::int64_t>() : length;
    piece.chunk_first_token = shape % 16 < 8 ? input.number<std::int64_t>() : 0;
    piece.first_position =
        shape % 4 == 0 ? input.number<pikv::Position>() : static_cast<pikv::Position>(piece.row_begin);
    piece.miss = static_cast<pikv::MissReason>(input.byte() % 8);
    draft.pieces.push_back(piece);
    row = piece.row_end;
  }
  const int num_repaired = input.byte() % 16;
  for (int i = 0; i < num_repaired; ++i) draft.repaired_rows.push_back(input.number<std::int32_t>());
  return draft;
}

[[noreturn]] void fail(const std::string& what) {
  std::cerr << "fuzz_plan: " << what << '\n';
  std::abort();
}

void compare(const pikv::Result<pikv::CompositionPlan>& plan, const test_support::PlanDraft& draft, const char* what) {
  const std::string rule = test_support::broken_rule(draft);
  if (plan.ok() != rule.empty()) {
    fail(std::string(what) + (plan.ok() ? ": accepted, though " + rule : ": " + plan.status().to_string()));
  }
  if (!plan.ok()) {
    if (plan.status().code() != pikv::ErrorCode::kInvalidArgument || plan.status().message().empty()) {
      fail(std::string(what) + ": refused with " + plan.status().to_string());
    }
    return;
  }
  if (const std::string difference = test_support::difference(*plan, draft); !difference.empty()) {
    fail(std::string(what) + ": " + difference);
  }
}

/// without() with any indices.
void take_pieces_away(Input& input, const pikv::CompositionPlan& plan, const test_support::PlanDraft& draft) {
  std::vector<std::size_t> indices(input.byte() % 8U);
  std::vector<pikv::MissReason> reasons(indices.size());
  bool valid = true;
  std::vector<bool> taken(draft.pieces.size(), false);
  for (std::size_t i = 0; i < indices.size(); ++i) {
    indices[i] = input.number<std::size_t>();
    reasons[i] = static_cast<pikv::MissReason>(input.byte() % 8);
    valid = valid && indices[i] < draft.pieces.size() && draft.pieces[indices[i]].cached() && !taken[indices[i]];
    if (valid) taken[indices[i]] = true;
  }
  const pikv::Result<pikv::CompositionPlan> rest = plan.without(indices, reasons);
  if (rest.ok() != valid) fail("without(): " + rest.status().to_string());
  if (rest.ok()) compare(rest, test_support::draft_without(draft, indices, reasons), "without()");
  reasons.emplace_back();
  if (plan.without(indices, reasons).ok()) fail("without(): accepted a reason for no piece");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input({data, size});
  test_support::PlanDraft draft = read_draft(input);
  const pikv::Result<pikv::CompositionPlan> plan = draft.create();
  compare(plan, draft, "create()");
  if (!plan.ok()) return 0;

  take_pieces_away(input, *plan, draft);
  draft.repaired_rows.resize(input.byte() % 16U);
  for (std::int32_t& row : draft.repaired_rows) row = input.number<std::int32_t>();
  compare(plan->with_repaired_rows(draft.repaired_rows), draft, "with_repaired_rows()");
  return 0;
}
