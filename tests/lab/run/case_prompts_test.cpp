// Cases as prompts: orders, tokens, documents of the mask, and chunks where they stand.
#include "lab/run/case_prompts.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include "lab/run/lab_cases.hpp"
#include "mini_engine/model.hpp"

namespace {

using Kind = lab::ArmSpec::Kind;
using Order = std::vector<std::size_t>;

lab::Case small_case() {
  lab::Case one;
  one.system = {1, 2};
  one.passages = {{.id = "b", .gold = false, .tokens = {10, 11}},
                  {.id = "c", .gold = true, .tokens = {20}},
                  {.id = "a", .gold = false, .tokens = {30, 31}}};
  one.question = {9};
  one.served = {2, 1, 0};
  one.earlier = {0, 2, 1};
  return one;
}

TEST_CASE("the order of each arm") {
  const lab::Case one = small_case();
  CHECK(lab::order_of(one, Kind::kFull) == Order{2, 1, 0});
  CHECK(lab::order_of(one, Kind::kReanchored) == Order{2, 1, 0});
  CHECK(lab::order_of(one, Kind::kShuffledFull) == Order{0, 2, 1});
  CHECK(lab::order_of(one, Kind::kSortedFull) == Order{2, 0, 1});
  CHECK(lab::order_of(one, Kind::kNoContext).empty());
  CHECK(lab::order_of(one, Kind::kGoldOnly) == Order{1});
}

TEST_CASE("tokens, documents and gold rows") {
  const lab::Case one = small_case();
  CHECK(lab::tokens_of(one, one.served) == std::vector<mini_engine::TokenId>{1, 2, 30, 31, 20, 10, 11, 9});
  CHECK(lab::tokens_of(one, {}) == std::vector<mini_engine::TokenId>{1, 2, 9});
  CHECK(lab::block_documents(one) == std::vector<std::int32_t>{0, 0, 1, 1, 2, 3, 3, mini_engine::Pass::kSeesAll});
  CHECK(lab::gold_rows(one) == std::vector<std::int32_t>{4});
}

TEST_CASE("a prompt of chunks has the tokens of the served prompt") {
  const lab::Case one = small_case();
  Order asked;
  const pikv::Prompt prompt = lab::chunk_prompt(one, lab::parse_arm("reanchored"), [&](std::size_t passage) {
    asked.push_back(passage);
    return pikv::ChunkRecipe::alone();
  });
  CHECK(asked == one.served);
  const auto tokens = prompt.tokens();
  CHECK(std::vector<mini_engine::TokenId>(tokens.begin(), tokens.end()) == lab::tokens_of(one, one.served));
}

}  // namespace
