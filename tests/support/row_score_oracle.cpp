// What scorings have to give, in double.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/oracle.hpp"
#include "support/row_score_cases.hpp"

namespace test_support {

ExpectedScores RowScoreWorld::expected_deviation() const {
  const pikv::KvGeometry& g = case_.geometry;
  OracleRope rope;
  rope.interleaved = case_.pairing == pikv::Pairing::kInterleaved;
  for (std::int32_t i = 0; i < g.rotary_dim / 2; ++i) {
    rope.frequencies.push_back(std::pow(kScoreTheta, -2.0 * i / g.rotary_dim));
  }
  ExpectedScores expected;
  for (std::size_t row = 0; row < positions_.size(); ++row) {
    double score = 0;
    double tolerance = 0;
    for (const Side side : {Side::kKey, Side::kValue}) {
      const double weight = side == Side::kKey ? case_.key_weight : case_.value_weight;
      for (std::int32_t head = 0; head < g.num_kv_heads; ++head) {
        std::vector<double> fresh;
        for (std::int32_t d = 0; d < g.head_dim; ++d) {
          fresh.push_back(
              oracle_decode(fresh_.data() + oracle_address(fresh_placement_, side, 0, fresh_slots_[row], head, d),
                            case_.fresh_dtype));
        }
        for (std::int32_t d = 0; d < g.head_dim; ++d) {
          OracleValue turned{fresh[static_cast<std::size_t>(d)], 0};
          if (side == Side::kKey && weight != 0) turned = oracle_turn(fresh, d, rope, positions_[row], false);
          const double difference =
              turned.value -
              oracle_decode(cache_.data() + oracle_address(placement_, side, case_.layer,
                                                           slots_.slot(static_cast<std::int64_t>(row)), head, d),
                            g.dtype);
          score += weight * difference * difference;
          tolerance += weight * 2 * std::abs(difference) * turned.arithmetic_error;
        }
      }
    }
    expected.values.push_back(score);
    // Squares are positive, so each rounding counts relative to the sum, and few of them agree in sign.
    expected.tolerances.push_back(tolerance + score * 0x1p-19);
  }
  return expected;
}

std::vector<double> RowScoreWorld::key_at(std::int64_t row, std::int32_t head) const {
  std::vector<double> key;
  for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
    const std::int64_t address = oracle_address(placement_, Side::kKey, case_.layer, slots_.slot(row), head, d);
    key.push_back(oracle_decode(cache_.data() + address, case_.geometry.dtype));
  }
  return key;
}

std::vector<ExpectedScores> RowScoreWorld::expected_attention() const {
  const pikv::KvGeometry& g = case_.geometry;
  const auto num_keys = static_cast<std::size_t>(case_.num_rows);
  const auto head_dim = static_cast<std::size_t>(g.head_dim);
  const std::size_t num_rows = case_.query_rows.size();
  const auto num_segments = static_cast<std::size_t>(case_.num_segments);
  std::vector<double> by_key(num_keys);
  std::vector<double> by_segment(num_rows * num_segments);
  const std::int32_t group = case_.num_query_heads / g.num_kv_heads;
  const double scale = case_.scale != 0 ? case_.scale : 1 / std::sqrt(g.head_dim);
  const std::int64_t element_bytes = dtype_bytes(case_.query_dtype);
  const std::int64_t stride = std::int64_t{case_.num_query_heads} * g.head_dim + case_.query_padding;
  for (std::int32_t head = 0; head < g.num_kv_heads; ++head) {
    std::vector<std::vector<double>> keys;
    for (std::int32_t row = 0; num_rows != 0 && row <= case_.query_rows.back(); ++row)
      keys.push_back(key_at(row, head));
    for (std::size_t r = 0; r < num_rows; ++r) {
      for (std::int32_t q = head * group; q < (head + 1) * group; ++q) {
        std::vector<double> query(head_dim);
        for (std::size_t d = 0; d < head_dim; ++d) {
          const std::int64_t element =
              static_cast<std::int64_t>(r) * stride + std::int64_t{q} * g.head_dim + static_cast<std::int64_t>(d);
          query[d] = oracle_decode(queries_.data() + element * element_bytes, case_.query_dtype);
        }
        const auto num_seen = static_cast<std::size_t>(case_.query_rows[r]) + 1;
        std::vector<double> weights(num_seen);
        for (std::size_t n = 0; n < num_seen; ++n) {
          weights[n] = scale * std::inner_product(query.begin(), query.end(), keys[n].begin(), 0.0);
        }
        const double maximum = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - maximum);
        for (std::size_t n = 0; n < num_seen; ++n) {
          const double share = weights[n] / sum / case_.num_query_heads;
          by_key[n] += share;
          if (num_segments != 0) by_segment[r * num_segments + static_cast<std::size_t>(key_segments_[n])] += share;
        }
      }
    }
  }
  std::vector<ExpectedScores> expected;
  for (std::vector<double>* const values : {&by_key, &by_segment}) {
    std::vector<double> tolerances;
    // fp32 gives logits of a few dozen to 2^-19 and their powers to the same relative error.
    for (const double value : *values) tolerances.push_back(value * 0x1p-16 + 0x1p-40);
    expected.push_back({std::move(*values), std::move(tolerances)});
  }
  return expected;
}

}  // namespace test_support
