// What one arm did with one case, and the file of such lines that a run goes on with where it stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <utility>
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
  double ms = 0;                                      ///< to the first token: look-up, plan, re-anchoring, computation
  std::vector<double> k_err, v_err;                   ///< by layer; empty: not measured
  std::optional<double> attention_cos, attention_js;  ///< of the question's rows
  std::optional<std::vector<mini_engine::TokenId>> generated;
};

/// Lines are added and never changed; each is on disk when add() returns. Not thread-safe.
class ResultFile {
 public:
  /// Reads what is there. A last line that was cut off is dropped. Throws mini_engine::Error for a file that cannot be
  /// read or written, and for lines of something else, naming them.
  explicit ResultFile(const std::filesystem::path& path);

  [[nodiscard]] bool contains(const std::string& case_id, const std::string& arm) const {
    return done_.contains({case_id, arm});
  }
  void add(const std::string& set, const std::string& case_id, const std::string& cluster, const ArmSpec& arm,
           const ArmResult& result);

 private:
  std::filesystem::path path_;
  std::set<std::pair<std::string, std::string>> done_;
  std::ofstream file_;
};

}  // namespace lab
