#include "mini_engine/engine/check_command.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "mini_engine/check_probe.hpp"

namespace mini_engine {
namespace {

constexpr int kPageSize = 16;

}  // namespace

void declare_check(CLI::App& command, CheckSettings& settings) {
  declare_model(command, settings.model);
  command.add_option("--rows", settings.num_rows, "how far out positions are looked at, and rows of the KV cache")
      ->check(CLI::Range(64, 1 << 20))
      ->capture_default_str();
}

bool check_chosen_model(const CheckSettings& settings) {
  const ChosenModel chosen = load_model(settings.model);
  Engine& engine = *chosen.engine;
  const int num_rows = std::min(settings.num_rows, engine.model().config().max_positions);
  PagedCache cache = engine.make_cache((num_rows + kPageSize - 1) / kPageSize, kPageSize);
  CheckProbe probe(engine.model(), cache,
                   {.store_dtype = engine.store_dtype(), .device = engine.reuse_device(ChunkPlace::kDevice)});
  const pikv::CheckReport report = pikv::check_model(probe);
  std::printf("%s\n", to_text(report).c_str());
  return report.vouched;
}

}  // namespace mini_engine
