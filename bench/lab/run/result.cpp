#include "lab/run/result.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "mini_engine/error.hpp"

namespace lab {
namespace {

using nlohmann::json;

/// Six digits are beyond what any of it repeats to, and a quarter of the file.
json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  if (value == 0) return 0.0;
  const double scale = std::pow(10.0, 5 - std::floor(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}
json rounded(const std::vector<double>& values) {
  json list = json::array();
  for (const double value : values) list.push_back(rounded(value));
  return list;
}

/// The end of the last line that is whole.
std::uintmax_t read_done(const std::filesystem::path& path, std::set<std::pair<std::string, std::string>>& done) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw mini_engine::Error(path.string() + ": cannot be read");
  std::uintmax_t end = 0;
  std::string text;
  for (int line = 1; std::getline(file, text); ++line) {
    if (file.eof()) break;  // without a line break: cut off
    end += text.size() + 1;
    if (text.empty()) continue;
    const json object = json::parse(text, nullptr, false);
    if (!object.is_object() || !object.contains("case") || !object["case"].is_string() || !object.contains("arm") ||
        !object["arm"].is_string()) {
      throw mini_engine::Error(path.string() + ":" + std::to_string(line) + ": is no result of a case and an arm");
    }
    done.emplace(object["case"], object["arm"]);
  }
  return end;
}

}  // namespace

ResultFile::ResultFile(const std::filesystem::path& path) : path_(path) {
  if (std::filesystem::exists(path)) std::filesystem::resize_file(path, read_done(path, done_));
  file_.open(path, std::ios::binary | std::ios::app);
  if (!file_) throw mini_engine::Error(path.string() + ": cannot be written");
}

void ResultFile::add(const std::string& set, const std::string& case_id, const std::string& cluster, const ArmSpec& arm,
                     const ArmResult& result) {
  const double kl = std::accumulate(result.kl.begin(), result.kl.end(), 0.0) / static_cast<double>(result.kl.size());
  json line = {{"kind", "run"},
               {"set", set},
               {"case", case_id},
               {"cluster", cluster},
               {"arm", arm.name},
               {"group", arm.group},
               {"kl", rounded(kl)},
               {"kl_tokens", rounded(result.kl)},
               {"top1", rounded(result.top1)},
               {"rms_dp", rounded(result.rms_dp)},
               {"nll", result.nll ? rounded(*result.nll) : json(nullptr)},
               {"rows", rounded(result.rows)},
               {"approx_rows", result.approx_rows},
               {"prompt_rows", result.prompt_rows},
               {"passes", result.passes},
               {"ms", rounded(result.ms)}};
  if (!result.k_err.empty()) line["k_err"] = rounded(result.k_err);
  if (!result.v_err.empty()) line["v_err"] = rounded(result.v_err);
  if (result.attention_cos) line["attention_cos"] = rounded(*result.attention_cos);
  if (result.attention_js) line["attention_js"] = rounded(*result.attention_js);
  if (result.generated) line["generated"] = *result.generated;
  file_ << line.dump() << '\n' << std::flush;
  if (!file_) throw mini_engine::Error(path_.string() + ": cannot be written; is the disk full?");
  done_.emplace(case_id, arm.name);
}

}  // namespace lab
