// What the server reuses, and where it keeps it: options of the command, and the placer that they ask for.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "mini_engine/engine/engine.hpp"
#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/prompt_placer.hpp"

namespace CLI {
class App;
}

namespace mini_engine::serve {

struct ReuseSettings {
  std::string reuse = "none";    ///< "prefix": exact prefixes; "chunks": documents too
  std::string tier = "device";   ///< or "pinned"
  std::string format = "plain";  ///< or "fp8"
  int store_mib = 1024;
  std::string repair = "none";  ///< as pikv::make_repair_policy() takes it
  int max_document_tokens = 4096;
  bool finds_documents = false;
};

/// Adds --reuse, --store-mib, --store-tier, --store-format, --repair, --max-document-tokens and --find-documents.
void declare_reuse(CLI::App& command, ReuseSettings& settings);

/// The placer and what it works with; must not outlive engine and metrics.
class ReuseSetup {
 public:
  /// Throws Error for settings that contradict each other, a tier that the engine has not, and a repair policy that
  /// there is not or that a batch cannot follow.
  ReuseSetup(const ReuseSettings& settings, Engine& engine, const std::array<std::byte, 32>& fingerprint, int page_size,
             ServeMetrics& metrics);
  [[nodiscard]] PromptPlacer& placer() { return *placer_; }

 private:
  std::optional<PagedCache> scratch_;
  std::optional<ChunkServer> server_;
  std::unique_ptr<PromptPlacer> placer_;
};

}  // namespace mini_engine::serve
