// What one arm did with one case, and the file of such lines that a run goes on with where it stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "lab/run/arm_spec.hpp"
#include "mini_engine/types.hpp"

namespace lab {

struct ArmResult {
  std::vector<double> kl;     ///< KL(full || arm) at each forced token, in nats
  double top1 = 0;            ///< share of forced tokens at which both put the same token first
  double rms_dp = 0;          ///< of the probabilities of the forced tokens
  std::optional<double> nll;  ///< of the gold answer's tokens, mean, in nats
  double rows = 0;            ///< computed beyond the plan's own, as rows of the whole model
  std::int64_t approx_rows = 0;
  std::int64_t prompt_rows = 0;
  int passes = 1;
  std::optional<double> ms;                           ///< to the first token: look-up, plan, re-anchoring, computation
  std::vector<double> k_err, v_err;                   ///< by layer; empty: not measured
  std::optional<double> attention_cos, attention_js;  ///< of the question's rows
  std::optional<std::vector<mini_engine::TokenId>> generated;
};

/// Where a point of the map stands: on one axis or two, by number or by name.
struct MapPlace {
  std::string axis;
  std::variant<double, std::string> x;
  std::string y_axis{};  ///< empty: none
  std::variant<double, std::string> y{};

  [[nodiscard]] std::string name() const;
};

/// JSON objects, one a line. Lines are added and never changed; each is on disk when add() returns.
/// Members may be called from several threads.
class LineFile {
 public:
  /// Reads what is there. A last line that was cut off is dropped. key_fields: texts that every line has, which tell
  /// lines apart. Throws mini_engine::Error for a file that cannot be read or written, and for lines without them,
  /// naming the line and `what` it should be.
  LineFile(const std::filesystem::path& path, std::vector<std::string> key_fields, const std::string& what);

  /// key: a text for each of key_fields.
  [[nodiscard]] bool contains(const std::vector<std::string>& key) const {
    const std::lock_guard lock(mutex_);
    return done_.contains(key);
  }
  /// line: an object in one line of JSON, with those texts.
  void add(const std::string& line, const std::vector<std::string>& key);

 private:
  std::filesystem::path path_;
  std::vector<std::string> key_fields_;
  mutable std::mutex mutex_;
  std::set<std::vector<std::string>> done_;
  std::ofstream file_;
};

/// What arms did with cases.
class ResultFile {
 public:
  explicit ResultFile(const std::filesystem::path& path);

  [[nodiscard]] bool contains(const std::string& case_id, const std::string& arm) const {
    return file_.contains({case_id, arm});
  }
  void add(const std::string& set, const std::string& case_id, const std::string& cluster, const ArmSpec& arm,
           const ArmResult& result);

 private:
  LineFile file_;
};

/// Points of the map of when reuse holds.
class MapFile {
 public:
  explicit MapFile(const std::filesystem::path& path);

  /// place: the axes and where on them, as one text.
  [[nodiscard]] bool contains(const std::string& case_id, const std::string& place) const {
    return file_.contains({case_id, place});
  }
  /// floor: empty where there is none, as it is where one passage has no other order.
  void add(const std::string& set, const std::string& case_id, const MapPlace& place, const ArmResult& result,
           std::optional<double> floor);

 private:
  LineFile file_;
};

/// Of all forced tokens.
[[nodiscard]] double mean_kl(const ArmResult& result);

}  // namespace lab
