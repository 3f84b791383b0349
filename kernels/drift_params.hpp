// What the kernels of drift are told. No CUDA here: host code builds it.
#pragma once

#include <cstdint>

#include "score_params.hpp"

namespace pikv::kernels {

/// Threads of a block: no head has more units than this, see RowAccess.
inline constexpr int kDriftThreads = 256;

/// Rows and columns of a tile of covariances.
inline constexpr std::int32_t kCovarianceTile = 64;
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t covariance_tiles(std::int32_t num_rows) noexcept {
  return (num_rows + kCovarianceTile - 1) / kCovarianceTile;
}

/// Rows of a prompt in the engine's cache, and how a head of one is shared out among threads.
struct RowAccess {
  ScoredRows cached;          ///< row i: of row i of the prompt
  RopeTableView rope{};       ///< half_dim 0: keys stand as they are; else for all rows
  std::int32_t num_rows = 0;  ///< of the prompt
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;
  Divisor key_units{};    ///< a head of keys: units_per_head(), or pairs that turn and then channels
  Divisor value_units{};  ///< a head of values
  bool is_vectorizable = false;

  /// All heads of keys and values of a row.
  [[nodiscard]] PIKV_HOST_DEVICE constexpr std::int64_t row_floats() const noexcept {
    return 2 * std::int64_t{num_kv_heads} * head_dim;
  }
};

/// Rows as fp32: all heads of semantic keys, then of values.
struct ReadRowsParams {
  RowAccess access;
  ScoredRows fresh{};  ///< row i: of rows[i]
  /// Whether the cached row is subtracted from the fresh one; else the fresh one is not read.
  bool is_difference = false;
  bool reads_keys = true;  ///< else their part of `out` is left as it is
  bool reads_values = true;
  const std::int32_t* rows = nullptr;  ///< [count]
  std::int32_t count = 0;
  float* out = nullptr;  ///< [count][2 H D]; zeros for rows that do not exist
};

struct WeighRowsParams {
  const float* rows = nullptr;  ///< [R + T][F], samples first
  std::int32_t num_samples = 0;
  std::int32_t num_targets = 0;
  std::int32_t num_channels = 0;                ///< F
  const std::int32_t* sample_chunks = nullptr;  ///< [R]
  const std::int32_t* target_chunks = nullptr;  ///< [T]
  float other_chunks = 0;                       ///< what covariances of rows of two chunks are multiplied by
  float noise = 0;
  float* factors = nullptr;     ///< [F], scratch
  float* covariance = nullptr;  ///< [n][n], n of covariance_tiles(R) tiles, scratch
  float* weights = nullptr;     ///< [T + R][R]
};

/// Of predictions with what they are of, and with themselves.
struct Agreement {
  float with_drift;
  float with_itself;
};

struct MoveRowsParams {
  RowAccess access;
  const std::int32_t* target_rows = nullptr;  ///< [num_targets]
  std::int32_t num_targets = 0;
  std::int32_t num_samples = 0;
  const float* weights = nullptr;      ///< [T + R][R]
  const float* differences = nullptr;  ///< [R][2 H D], as rows are read
  Agreement* agreements = nullptr;     ///< [agreement_tiles(R)][2 H], scratch: of predictions of samples
  float key_gain = 0;                  ///< 0: keys stay
  float value_gain = 0;                ///< 0: values stay
};

/// Rows that a block predicts.
inline constexpr std::int32_t kPredictedRows = 32;
[[nodiscard]] PIKV_HOST_DEVICE constexpr std::int32_t agreement_tiles(std::int32_t num_samples) noexcept {
  return (num_samples + kPredictedRows - 1) / kPredictedRows;
}

}  // namespace pikv::kernels
