#include "rag_bench/mode.hpp"

#include <algorithm>
#include <utility>

#include "mini_engine/error.hpp"
#include "mini_engine/pikv_errors.hpp"
#include "mini_engine/pikv_repair.hpp"

namespace rag_bench {
namespace {

/// Throws Error for a policy that there is not, or that a batch cannot follow.
std::shared_ptr<const pikv::RepairPolicy> parse_repair(const std::string& text) {
  const bool is_number = !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
  std::shared_ptr<const pikv::RepairPolicy> policy =
      mini_engine::take(pikv::make_repair_policy(is_number ? "first:" + text : text));
  mini_engine::check_knows_rows_ahead(*policy);
  return policy;
}

}  // namespace

Mode parse_mode(const std::string& text) {
  const std::size_t plus = text.find('+');
  const std::string base = text.substr(0, plus);
  Mode mode{.name = text};
  if (base == "device" || base == "pinned-bf16" || base == "pinned-fp8") {
    mode.kind = Mode::Kind::kChunks;
    if (base != "device") mode.place = mini_engine::ChunkPlace::kPinned;
    if (base == "pinned-fp8") mode.format = pikv::SlabFormat::kFloat8;
    if (plus != std::string::npos) mode.repair = parse_repair(text.substr(plus + 1));
    return mode;
  }
  if (plus == std::string::npos) {
    if (base == "full") return mode;
    mode.kind = Mode::Kind::kExactPrefix;
    if (base == "prefix") return mode;
  }
  throw mini_engine::Error("no mode '" + text +
                           "'; there are full, prefix, device, pinned-bf16 and pinned-fp8, the last three also with "
                           "+SPEC for a repair policy or +N for N repaired rows of every chunk");
}

std::vector<Mode> parse_modes(std::span<const std::string> parts) {
  std::vector<std::string> texts;
  for (const std::string& part : parts) {
    // No mode's name has a '=' before its '+'.
    const bool is_option = part.substr(0, part.find('+')).find('=') != std::string::npos;
    if (is_option && !texts.empty()) {
      texts.back() += "," + part;
    } else {
      texts.push_back(part);
    }
  }
  std::vector<Mode> modes;
  modes.reserve(texts.size());
  for (const std::string& text : texts) modes.push_back(parse_mode(text));
  return modes;
}

}  // namespace rag_bench
