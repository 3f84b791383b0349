// A case as the prompts that arms compute.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/arm_spec.hpp"
#include "mini_engine/types.hpp"
#include "pikv/plan.hpp"

namespace lab {

/// The passages that an arm shows, in its order, as indices into the case's.
[[nodiscard]] std::vector<std::size_t> order_of(const Case& one, ArmSpec::Kind kind);

/// System, those passages, question.
[[nodiscard]] std::vector<mini_engine::TokenId> tokens_of(const Case& one, std::span<const std::size_t> order);

/// Rows of the gold passages in the served prompt.
[[nodiscard]] std::vector<std::int32_t> gold_rows(const Case& one);

/// For a pass over the prompt in which each passage sees itself alone and the question everything: [rows].
[[nodiscard]] std::vector<std::int32_t> block_documents(const Case& one);

/// The prompt with its passages as chunks, served order; its system part is a chunk encoded alone where the arm uses no
/// exact prefix. recipe_of: of a passage by its index.
[[nodiscard]] pikv::Prompt chunk_prompt(const Case& one, const ArmSpec& arm,
                                        const std::function<pikv::ChunkRecipe(std::size_t)>& recipe_of);

}  // namespace lab
