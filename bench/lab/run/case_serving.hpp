// Putting one case into a sequence in the way of an arm.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "lab/data/cases.hpp"
#include "lab/run/arm_spec.hpp"
#include "lab/run/craft_variants.hpp"
#include "lab/run/neighbours.hpp"
#include "lab/run/result.hpp"
#include "mini_engine/engine/engine.hpp"
#include "mini_engine/thread_pool.hpp"

namespace lab {

/// A prompt that an arm has put into a sequence, and how passes behind it are to be run.
struct Served {
  explicit Served(mini_engine::PagedCache& cache) : sequence(cache) {}

  mini_engine::Sequence sequence;
  std::vector<float> logits;  ///< of the last row
  std::vector<std::int32_t> documents{};
  std::unique_ptr<mini_engine::PassObserver> attention{};
};

struct CaseServingOptions {
  std::int64_t store_bytes = 0;  ///< of each store of chunks
  std::size_t num_neighbours = 0;
  int num_threads = 0;  ///< 0: all cores
};

/// Not thread-safe. Engine and file must outlive it.
class CaseServing {
 public:
  CaseServing(mini_engine::Engine& engine, const std::array<std::byte, 32>& fingerprint, const CaseFile& file,
              const CaseServingOptions& options);

  /// Serves this case, which is of the file, from now on.
  void begin(const Case& one) { one_ = &one; }
  /// Requires: begin(); an empty sequence. The result's part that is about serving is filled in.
  void serve(const ArmSpec& arm, Served& served, ArmResult& result);
  /// Appends the tokens; logits of the first_logit-th of them and all behind it.
  [[nodiscard]] std::vector<float> compute(Served& served, std::span<const mini_engine::TokenId> tokens,
                                           std::size_t first_logit);

  /// With room for two sequences of the longest case and what is appended to them.
  [[nodiscard]] mini_engine::PagedCache& cache() { return cache_; }
  [[nodiscard]] mini_engine::ThreadPool& pool() { return pool_; }

 private:
  [[nodiscard]] std::unique_ptr<mini_engine::ChunkServer> make_server(pikv::SlabFormat format);
  [[nodiscard]] mini_engine::ChunkServer& server(const ArmSpec& arm);
  [[nodiscard]] CraftVariants& craft_variants();
  [[nodiscard]] std::vector<mini_engine::TokenId> context_of(const ArmSpec& arm, std::size_t passage) const;
  void encode(const ArmSpec& arm, mini_engine::ChunkServer& with);
  void require_reuse(const pikv::CompositionPlan& plan) const;

  void serve_whole(ArmSpec::Kind kind, Served& served, ArmResult& result);
  void serve_exact_prefix(Served& served, ArmResult& result);
  void serve_chunks(const ArmSpec& arm, Served& served, ArmResult& result);
  void serve_variants(const ArmSpec& arm, Served& served, ArmResult& result);
  void prefill(mini_engine::ChunkServer& with, const pikv::Prompt& prompt, const mini_engine::ReuseOptions& reuse,
               Served& served, ArmResult& result);
  void serve_ape(const ArmSpec& arm, Served& served, ArmResult& result);

  mini_engine::Engine& engine_;
  std::array<std::byte, 32> fingerprint_;
  const CaseFile& file_;
  CaseServingOptions options_;
  Neighbours neighbours_;
  mini_engine::PagedCache cache_;
  mini_engine::PagedCache scratch_;  // where chunks are encoded
  mini_engine::ThreadPool pool_;
  std::map<std::pair<pikv::SlabFormat, ArmSpec::Context>, std::unique_ptr<mini_engine::ChunkServer>> servers_;
  std::unique_ptr<mini_engine::ChunkServer> craft_server_;
  std::optional<CraftVariants> craft_variants_;
  const Case* one_ = nullptr;
};

/// begin, begin + 1, ...
[[nodiscard]] std::vector<std::int32_t> consecutive_rows(std::int32_t begin, std::size_t count);

}  // namespace lab
