// How far decoded keys and values lie from what was stored, and how uneven the channels of keys are.
#pragma once

#include <cstdint>
#include <vector>

#include "lab/kv_rows.hpp"
#include "lab/relative_error.hpp"

namespace lab {

/// Relative errors |decoded - exact| / |exact| (Euclidean, over all tokens added) of each layer and head.
class KvErrors {
 public:
  explicit KvErrors(const pikv::KvGeometry& geometry);

  /// Both in the same frame; which one does not matter, since turning keeps lengths.
  void add(const KvRows& exact, const KvRows& decoded);

  [[nodiscard]] std::vector<double> keys() const { return relative(keys_); }      ///< [L * H]
  [[nodiscard]] std::vector<double> values() const { return relative(values_); }  ///< [L * H]

 private:
  [[nodiscard]] static std::vector<double> relative(const std::vector<RelativeError>& errors);

  pikv::KvGeometry geometry_;
  std::vector<RelativeError> keys_, values_;
};

/// For each layer and head, largest magnitude in a channel over the run's tokens: the highest of all channels divided
/// by their median. Returns the mean over layers and heads.
[[nodiscard]] double key_channel_unevenness(const pikv::KvGeometry& geometry, const KvRows& rows);

}  // namespace lab
