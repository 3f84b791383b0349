#include "mini_engine/engine/progress_bar.hpp"

#include <unistd.h>

#include <algorithm>

namespace mini_engine {

std::string progress_line(std::int64_t num_bytes, std::int64_t num_bytes_in_all, double seconds) {
  constexpr int kWidth = 30;
  constexpr double kGiga = 1e9;
  const double share = num_bytes_in_all > 0 ? static_cast<double>(num_bytes) / static_cast<double>(num_bytes_in_all) : 1;
  const auto filled = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * kWidth);
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, ' ');
  const double done = static_cast<double>(num_bytes) / kGiga;
  char text[128];
  std::snprintf(text, sizeof text, "loading [%s] %3d%%  %.1f of %.1f GB, %.1f GB/s", bar.c_str(),
                static_cast<int>(share * 100), done, static_cast<double>(num_bytes_in_all) / kGiga,
                seconds > 0 ? done / seconds : 0.0);
  return text;
}

ProgressBar::ProgressBar(std::FILE* out) : out_(out), is_terminal_(::isatty(::fileno(out)) == 1) {}

ProgressBar::~ProgressBar() {
  if (last_drawn_ != Clock::time_point{}) std::fputc('\n', out_);
}

void ProgressBar::show(std::int64_t num_bytes, std::int64_t num_bytes_in_all) {
  if (!is_terminal_) return;
  const Clock::time_point now = Clock::now();
  if (num_bytes < num_bytes_in_all && now - last_drawn_ < std::chrono::milliseconds(100)) return;
  last_drawn_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::fprintf(out_, "\r%s\x1b[K", progress_line(num_bytes, num_bytes_in_all, seconds).c_str());
  std::fflush(out_);
}

}  // namespace mini_engine
