#include "lab/run/case_prompts.hpp"

#include <algorithm>
#include <numeric>

#include "mini_engine/model.hpp"

namespace lab {
namespace {

/// The row at which each passage stood in the earlier request.
std::vector<pikv::Position> earlier_rows(const Case& one) {
  std::vector<pikv::Position> rows(one.passages.size());
  auto row = static_cast<pikv::Position>(one.system.size());
  for (const std::size_t index : one.earlier) {
    rows[index] = row;
    row += static_cast<pikv::Position>(one.passages[index].tokens.size());
  }
  return rows;
}

}  // namespace

std::vector<std::size_t> order_of(const Case& one, ArmSpec::Kind kind) {
  std::vector<std::size_t> order = one.served;
  switch (kind) {
    case ArmSpec::Kind::kShuffledFull:
      return one.earlier;
    case ArmSpec::Kind::kSortedFull:
      std::sort(order.begin(), order.end(),
                [&](std::size_t a, std::size_t b) { return one.passages[a].id < one.passages[b].id; });
      return order;
    case ArmSpec::Kind::kNoContext:
      return {};
    case ArmSpec::Kind::kGoldOnly:
      std::erase_if(order, [&](std::size_t index) { return !one.passages[index].gold; });
      return order;
    default:
      return order;
  }
}

std::vector<mini_engine::TokenId> tokens_of(const Case& one, std::span<const std::size_t> order) {
  std::vector<mini_engine::TokenId> tokens = one.system;
  for (const std::size_t index : order) {
    tokens.insert(tokens.end(), one.passages[index].tokens.begin(), one.passages[index].tokens.end());
  }
  tokens.insert(tokens.end(), one.question.begin(), one.question.end());
  return tokens;
}

std::vector<std::int32_t> gold_rows(const Case& one) {
  std::vector<std::int32_t> rows;
  auto row = static_cast<std::int32_t>(one.system.size());
  for (const std::size_t index : one.served) {
    const CasePassage& passage = one.passages[index];
    for (std::size_t i = 0; i < passage.tokens.size(); ++i, ++row) {
      if (passage.gold) rows.push_back(row);
    }
  }
  return rows;
}

std::vector<std::int32_t> block_documents(const Case& one) {
  std::vector<std::int32_t> documents(one.system.size(), 0);
  std::int32_t document = 0;
  for (const std::size_t index : one.served) {
    documents.insert(documents.end(), one.passages[index].tokens.size(), ++document);
  }
  documents.insert(documents.end(), one.question.size(), mini_engine::Pass::kSeesAll);
  return documents;
}

pikv::Prompt chunk_prompt(const Case& one, const ArmSpec& arm,
                          const std::function<pikv::ChunkRecipe(std::size_t)>& recipe_of) {
  const std::vector<pikv::Position> earlier = earlier_rows(one);
  pikv::Prompt prompt;
  if (arm.uses_exact_prefix()) {
    prompt.add_fresh(one.system);
  } else {
    prompt.add_chunk(one.system, pikv::ChunkRecipe::alone());
  }
  for (const std::size_t index : one.served) {
    pikv::Anchor anchor = pikv::Anchor::in_place();
    if (arm.kind == ArmSpec::Kind::kReuseLocal) anchor = pikv::Anchor::at(0);
    if (arm.kind == ArmSpec::Kind::kReuseStale) anchor = pikv::Anchor::at(earlier[index]);
    if (arm.kind == ArmSpec::Kind::kApe) anchor = pikv::Anchor::at(static_cast<pikv::Position>(one.system.size()));
    prompt.add_chunk(one.passages[index].tokens, recipe_of(index), anchor);
  }
  prompt.add_fresh(one.question);
  return prompt;
}

}  // namespace lab
