#include "check/row_difference.hpp"

#include <algorithm>
#include <cmath>

#include "check/channel_pairs.hpp"
#include "pikv/detail/rotate.hpp"

namespace pikv {
inline namespace v0 {
namespace check {

RowDifference row_difference(const HostRows& got, const HostRows& expected, Side side, Pairing pairing,
                             std::int32_t num_layers, double bound) {
  const KvGeometry& geometry = expected.geometry;
  const std::int32_t rotary_dim = side == Side::kKey ? geometry.rotary_dim : 0;
  RowDifference found;
  const auto note = [&](double difference, double length, std::int32_t layer, std::int64_t token, std::int32_t head,
                        std::int32_t pair) {
    if (difference == 0) return;
    const double error = difference / length;
    if (!(error <= bound) && (found.first_token < 0 || token < found.first_token)) found.first_token = token;
    if (std::isnan(found.worst) || error <= found.worst) return;
    found.worst = error;
    found.layer = layer, found.token = token, found.head = head, found.pair = pair;
  };
  for (std::int32_t layer = 0; layer < num_layers; ++layer) {
    for (std::int64_t token = 0; token < expected.num_tokens; ++token) {
      for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
        const float* const a = got.head(layer, side, token, head);
        const float* const b = expected.head(layer, side, token, head);
        for (std::int32_t d = 0; d < geometry.head_dim; ++d) found.num_differing += a[d] == b[d] ? 0 : 1;
        for (std::int32_t pair = 0; pair < rotary_dim / 2; ++pair) {
          const auto [i, j] = channels_of(pair, rotary_dim, pairing);
          note(std::hypot(double{a[i]} - b[i], double{a[j]} - b[j]), std::hypot(double{b[i]}, double{b[j]}), layer,
               token, head, pair);
        }
        for (std::int32_t d = rotary_dim; d < geometry.head_dim; ++d) {
          note(std::abs(double{a[d]} - b[d]), std::abs(double{b[d]}), layer, token, head, d);
        }
      }
    }
  }
  return found;
}

HostRows turned_on_host(const HostRows& semantic, const RopeTableView& table, Position first) {
  HostRows turned = semantic;
  const KvGeometry& geometry = semantic.geometry;
  for (std::int64_t token = 0; token < semantic.num_tokens; ++token) {
    const Position position = first + static_cast<Position>(token);
    for (std::int32_t head = 0; head < geometry.num_kv_heads; ++head) {
      float* const key = turned.values.data() + (semantic.head(0, Side::kKey, token, head) - semantic.values.data());
      for (std::int32_t pair = 0; pair < table.half_dim; ++pair) {
        const auto [i, j] = channels_of(pair, 2 * table.half_dim, table.pairing);
        const detail::RotatedPair to =
            detail::rotate(key[i], key[j], table.cos(position)[pair], table.sin(position)[pair]);
        key[i] = to.first;
        key[j] = to.second;
      }
    }
  }
  return turned;
}

}  // namespace check
}  // namespace v0
}  // namespace pikv
