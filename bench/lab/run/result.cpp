#include "lab/run/result.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

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

json place_on(const std::variant<double, std::string>& axis) {
  return std::visit([](const auto& place) { return json(place); }, axis);
}

}  // namespace

LineFile::LineFile(const std::filesystem::path& path, std::vector<std::string> key_fields, const std::string& what)
    : path_(path), key_fields_(std::move(key_fields)) {
  if (std::filesystem::exists(path)) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw mini_engine::Error(path.string() + ": cannot be read");
    std::uintmax_t end = 0;  // of the last line that is whole
    std::string text;
    for (int line = 1; std::getline(file, text); ++line) {
      if (file.eof()) break;  // without a line break: cut off
      end += text.size() + 1;
      if (text.empty()) continue;
      const json object = json::parse(text, nullptr, false);
      std::vector<std::string> key;
      for (const std::string& field : key_fields_) {
        if (!object.is_object() || !object.contains(field) || !object[field].is_string()) {
          throw mini_engine::Error(path.string() + ":" + std::to_string(line) + ": is no " + what);
        }
        key.push_back(object[field]);
      }
      done_.insert(std::move(key));
    }
    file.close();
    std::filesystem::resize_file(path, end);
  }
  file_.open(path, std::ios::binary | std::ios::app);
  if (!file_) throw mini_engine::Error(path.string() + ": cannot be written");
}

void LineFile::add(const std::string& line, const std::vector<std::string>& key) {
  const std::lock_guard lock(mutex_);
  file_ << line << '\n' << std::flush;
  if (!file_) throw mini_engine::Error(path_.string() + ": cannot be written; is the disk full?");
  done_.insert(key);
}

double mean_kl(const ArmResult& result) {
  return std::accumulate(result.kl.begin(), result.kl.end(), 0.0) / static_cast<double>(result.kl.size());
}

ResultFile::ResultFile(const std::filesystem::path& path)
    : file_(path, {"case", "arm"}, "result of a case and an arm") {}

void ResultFile::add(const std::string& set, const std::string& case_id, const std::string& cluster, const ArmSpec& arm,
                     const ArmResult& result) {
  json line = {{"kind", "run"},
               {"set", set},
               {"case", case_id},
               {"cluster", cluster},
               {"arm", arm.name},
               {"group", arm.group},
               {"kl", rounded(mean_kl(result))},
               {"kl_tokens", rounded(result.kl)},
               {"top1", rounded(result.top1)},
               {"rms_dp", rounded(result.rms_dp)},
               {"nll", result.nll ? rounded(*result.nll) : json(nullptr)},
               {"rows", rounded(result.rows)},
               {"approx_rows", result.approx_rows},
               {"prompt_rows", result.prompt_rows},
               {"passes", result.passes}};
  if (result.ms) line["ms"] = rounded(*result.ms);
  if (!result.k_err.empty()) line["k_err"] = rounded(result.k_err);
  if (!result.v_err.empty()) line["v_err"] = rounded(result.v_err);
  if (result.attention_cos) line["attention_cos"] = rounded(*result.attention_cos);
  if (result.attention_js) line["attention_js"] = rounded(*result.attention_js);
  if (result.generated) line["generated"] = *result.generated;
  file_.add(line.dump(), {case_id, arm.name});
}

std::string MapPlace::name() const {
  std::string text = axis + "=" + place_on(x).dump();
  if (!y_axis.empty()) text += " " + y_axis + "=" + place_on(y).dump();
  return text;
}

MapFile::MapFile(const std::filesystem::path& path) : file_(path, {"case", "place"}, "point of a map") {}

void MapFile::add(const std::string& set, const std::string& case_id, const MapPlace& place, const ArmResult& result,
                  std::optional<double> floor) {
  json line = {{"kind", "map"},
               {"set", set},
               {"case", case_id},
               {"place", place.name()},
               {"axis", place.axis},
               {"x", place_on(place.x)},
               {"kl", rounded(mean_kl(result))}};
  if (!place.y_axis.empty()) {
    line["y_axis"] = place.y_axis;
    line["y"] = place_on(place.y);
  }
  if (!result.v_err.empty()) {
    line["v_err"] = rounded(std::accumulate(result.v_err.begin(), result.v_err.end(), 0.0) /
                            static_cast<double>(result.v_err.size()));
  }
  if (floor) line["floor"] = rounded(*floor);
  file_.add(line.dump(), {case_id, place.name()});
}

}  // namespace lab
