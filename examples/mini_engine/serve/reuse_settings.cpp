#include "mini_engine/serve/reuse_settings.hpp"

#include <CLI/CLI.hpp>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/serve/chunk_placer.hpp"

namespace mini_engine::serve {
namespace {

constexpr std::int32_t kPrefixBlockTokens = 64;
constexpr std::int64_t kKnownTokens = std::int64_t{16} << 20;

/// Why a batch cannot be repaired so; empty: it can. Asked before a model is loaded, which may take long.
std::string fault_of_repair(const std::string& spec) {
  try {
    check_knows_rows_ahead(*take(pikv::make_repair_policy(spec)));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

void declare_reuse(CLI::App& command, ReuseSettings& settings) {
  command
      .add_option("--reuse", settings.reuse, "none, prefix (exact prefixes) or chunks (documents wherever they stand)")
      ->check(CLI::IsMember({"none", "prefix", "chunks"}))
      ->capture_default_str();
  command.add_option("--store-mib", settings.store_mib, "room for what is reused")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command.add_option("--store-tier", settings.tier, "device, or pinned: page-locked host memory beside a GPU")
      ->check(CLI::IsMember({"device", "pinned"}))
      ->capture_default_str();
  command.add_option("--store-format", settings.format, "plain, or fp8 in about half the room of bf16")
      ->check(CLI::IsMember({"plain", "fp8"}))
      ->capture_default_str();
  command
      .add_option("--repair", settings.repair,
                  "rows of reused documents to compute anew: none, first:ROWS, ends:ROWS, random:FRACTION or all")
      ->check(fault_of_repair)
      ->capture_default_str();
  command.add_option("--max-document-tokens", settings.max_document_tokens, "longer documents are not reused")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_flag("--find-documents", settings.finds_documents,
                   "reuse documents that were sent before also where they stand in a message's text");
}

ReuseSetup::ReuseSetup(const ReuseSettings& settings, Engine& engine, const std::array<std::byte, 32>& fingerprint,
                       int page_size, ServeMetrics& metrics) {
  const std::shared_ptr<const pikv::RepairPolicy> repair = take(pikv::make_repair_policy(settings.repair));
  const bool uses_chunks = settings.reuse == "chunks";
  if (!uses_chunks && repair->name() != "none") {
    throw Error("--reuse " + settings.reuse + " with --repair " + settings.repair +
                ": only documents that --reuse chunks brings have something to repair");
  }
  if (settings.reuse == "none") {
    placer_ = std::make_unique<ComputingPlacer>();
    return;
  }
  if (!uses_chunks && settings.format != "plain") {
    throw Error("--reuse prefix with --store-format " + settings.format + ": what comes back would not be exact");
  }
  scratch_.emplace(engine.make_cache((settings.max_document_tokens + page_size - 1) / page_size, page_size));
  server_.emplace(
      engine.model(), *scratch_, fingerprint,
      ChunkServerOptions{
          .capacity_bytes = std::int64_t{settings.store_mib} << 20,
          .store_dtype = engine.store_dtype(),
          .encoding = {.format = settings.format == "fp8" ? pikv::SlabFormat::kFloat8 : pikv::SlabFormat::kPlain},
          .name_space = "private:mini_engine serve",
          .prefix_block_tokens = kPrefixBlockTokens,
          .device = engine.reuse_device(settings.tier == "pinned" ? ChunkPlace::kPinned : ChunkPlace::kDevice)});
  placer_ = std::make_unique<ChunkPlacer>(
      *server_, metrics,
      ChunkPlacerOptions{.use_chunks = uses_chunks,
                         .repair = repair,
                         .max_document_tokens = settings.max_document_tokens,
                         .max_known_tokens = settings.finds_documents ? kKnownTokens : 0});
}

}  // namespace mini_engine::serve
