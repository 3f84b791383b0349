#include "rag_bench/mode.hpp"

#include <charconv>

#include "mini_engine/error.hpp"

namespace rag_bench {

Mode parse_mode(const std::string& text) {
  const std::size_t plus = text.find('+');
  const std::string base = text.substr(0, plus);
  Mode mode{.name = text};
  if (base == "device" || base == "pinned-bf16" || base == "pinned-fp8") {
    mode.kind = Mode::Kind::kChunks;
    if (base != "device") mode.place = mini_engine::ChunkPlace::kPinned;
    if (base == "pinned-fp8") mode.format = pikv::SlabFormat::kFloat8;
    if (plus == std::string::npos) return mode;
    const char* const begin = text.data() + plus + 1;
    const char* const end = text.data() + text.size();
    const auto [last, error] = std::from_chars(begin, end, mode.repaired_rows_per_chunk);
    if (error == std::errc() && last == end && mode.repaired_rows_per_chunk > 0) return mode;
  } else if (plus == std::string::npos) {
    if (base == "full") return mode;
    mode.kind = Mode::Kind::kExactPrefix;
    if (base == "prefix") return mode;
  }
  throw mini_engine::Error("no mode '" + text +
                           "'; there are full, prefix, device, pinned-bf16 and pinned-fp8, the last three also with "
                           "+N for N repaired rows of every chunk");
}

}  // namespace rag_bench
