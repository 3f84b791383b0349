// What the passages of a prompt attend to while it is computed: the statistics of Cache-Craft's repair.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "mini_engine/pikv_bridge.hpp"
#include "pikv/cache_craft.hpp"

namespace lab {

/// A passage, and the key under which it stands among what others were encoded behind.
struct NamedPassage {
  pikv::ChunkKey key;
  std::span<const mini_engine::TokenId> tokens;
};

/// Computes prompts to measure them. One call at a time. All arguments, and what `device` names, must outlive it.
class ContextStatsMeter {
 public:
  /// cache: where prompts are computed. device: where the model's cache is measured.
  ContextStatsMeter(mini_engine::Model& model, mini_engine::PagedCache& cache, const mini_engine::ReuseDevice& device);

  /// Of every passage, behind the system prompt and the passages before it. The system prompt is none of the chunks
  /// that precede: it stands before every passage of every prompt, so that what a passage owes to it is never lost.
  [[nodiscard]] std::vector<pikv::ChunkContextStats> measure(std::span<const mini_engine::TokenId> system,
                                                             std::span<const NamedPassage> passages);

 private:
  mini_engine::Model& model_;
  mini_engine::PagedCache& cache_;
  std::unique_ptr<pikv::Backend> own_backend_;
  pikv::Backend& backend_;
  std::unique_ptr<pikv::RowScorer> own_scorer_;
  pikv::RowScorer& scorer_;
  pikv::StreamRef stream_;
};

}  // namespace lab
