// The memory of a drift correction, and what has to become of it.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>

#include "support/drift_cases.hpp"

namespace test_support {
namespace {

constexpr double kTheta = 10'000;
constexpr Side kSides[] = {Side::kKey, Side::kValue};

/// Tables live as long as the program: copies of them on a device are found by their address.
const pikv::RopeTable& table_of(const DriftCase& c, std::int32_t num_positions) {
  static std::map<std::tuple<pikv::Pairing, std::int32_t, std::int32_t>, pikv::RopeTable> tables;
  const std::tuple key{c.pairing, c.geometry.rotary_dim, num_positions};
  if (const auto found = tables.find(key); found != tables.end()) return found->second;
  const pikv::RopeConfig config(kTheta, c.pairing, pikv::AngleRule::kExact);
  return tables.emplace(key, pikv::RopeTable::build(config, c.geometry.rotary_dim, num_positions).value())
      .first->second;
}

std::int32_t count_rows(const DriftCase& c) {
  return std::accumulate(c.chunks.begin(), c.chunks.end(), c.num_other_rows,
                         [](std::int32_t sum, const DriftChunk& k) { return sum + k.num_samples + k.num_targets; });
}

std::size_t head_index(const DriftCase& c, std::size_t chunk, Side side, std::int32_t head) {
  return (chunk * 2 + static_cast<std::size_t>(side)) * static_cast<std::size_t>(c.geometry.num_kv_heads) +
         static_cast<std::size_t>(head);
}

}  // namespace

DriftWorld::DriftWorld(const DriftCase& c)
    : case_(c), num_rows_(count_rows(c)), fresh_geometry_(c.geometry), table_(table_of(c, std::max(num_rows_, 1))) {
  std::mt19937 random(c.seed);
  fresh_geometry_.num_layers = 1;
  fresh_geometry_.dtype = c.fresh_dtype;
  rope_.interleaved = c.pairing == pikv::Pairing::kInterleaved;
  for (std::int32_t i = 0; c.turns && i < c.geometry.rotary_dim / 2; ++i) {
    rope_.frequencies.push_back(std::pow(kTheta, -2.0 * i / c.geometry.rotary_dim));
  }
  placement_ = place(c.layout, c.geometry, c.page_size, num_rows_ + RowSlots::kFirst + 3 * c.page_size, random);
  slots_ = RowSlots(c.slots, num_rows_, c.page_size, placement_.num_slots, random);
  choose_rows(random);
  const auto num_samples = static_cast<std::int64_t>(sample_rows_.size());
  fresh_placement_ = place(random() % 2 == 0 ? LayoutKind::kNhd : LayoutKind::kRandomStrides, fresh_geometry_, 1,
                           num_samples + 2, random);
  cache_.assign(static_cast<std::size_t>(placement_.num_elements * dtype_bytes(c.geometry.dtype)), std::byte{0xFF});
  fresh_.assign(static_cast<std::size_t>(fresh_placement_.num_elements * dtype_bytes(c.fresh_dtype)), std::byte{0xFF});
  view_.emplace(placement_, c.geometry.num_layers, cache_.data());
  fresh_view_.emplace(fresh_placement_, 1, fresh_.data());
  fill(random);
  before_ = cache_;
}

void DriftWorld::choose_rows(std::mt19937& random) {
  const bool has_targets = std::any_of(case_.chunks.begin(), case_.chunks.end(),
                                       [](const DriftChunk& chunk) { return chunk.num_targets > 0; });
  std::vector<std::int32_t> rows(static_cast<std::size_t>(has_targets ? num_rows_ - 1 : num_rows_));
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), random);
  const auto take = [&](std::int32_t count, std::vector<std::int32_t>& taken, std::vector<std::int32_t>& offsets) {
    taken.insert(taken.end(), rows.end() - count, rows.end());
    rows.resize(rows.size() - static_cast<std::size_t>(count));
    offsets.push_back(static_cast<std::int32_t>(taken.size()));
  };
  // Without chunks there may be no offsets at all.
  if (random() % 2 == 0 || !case_.chunks.empty()) sample_offsets_ = target_offsets_ = {0};
  for (const DriftChunk& chunk : case_.chunks) {
    take(chunk.num_samples, sample_rows_, sample_offsets_);
    if (chunk.num_targets > 0 && target_rows_.empty()) rows.push_back(num_rows_ - 1);
    take(chunk.num_targets, target_rows_, target_offsets_);
  }
  for (std::size_t i = 0; i < sample_rows_.size(); ++i) fresh_slots_.push_back(static_cast<pikv::Slot>(i) + 1);
  std::shuffle(fresh_slots_.begin(), fresh_slots_.end(), random);
}

std::int64_t DriftWorld::address(Side side, std::int32_t row, std::int32_t head, std::int32_t d) const {
  return oracle_address(placement_, side, case_.layer, slots_.slot(row), head, d);
}

void DriftWorld::fill(std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (const auto* rows : {&sample_rows_, &target_rows_}) {
    for (const std::int32_t row : *rows) {
      for (const Side side : kSides) {
        for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
          for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
            write_number(cache_.data() + address(side, row, head, d), case_.geometry.dtype, normal(random));
          }
        }
      }
    }
  }
  for (std::size_t chunk = 0; chunk < case_.chunks.size(); ++chunk) {
    for (const Side side : kSides) {
      for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) fill_samples(chunk, side, head, random);
    }
  }
}

void DriftWorld::fill_samples(std::size_t chunk, Side side, std::int32_t head, std::mt19937& random) {
  const DriftKind kind = case_.chunks[chunk].kind;
  const auto head_dim = static_cast<std::size_t>(case_.geometry.head_dim);
  std::normal_distribution<double> normal;
  std::vector<double> common(head_dim);
  for (double& c : common) c = kind == DriftKind::kNoise ? 0 : 0.5 * normal(random);
  planted_.push_back(common);
  std::vector<double> noise(head_dim);
  const std::int32_t begin = sample_offsets_[chunk];
  const std::int32_t end = sample_offsets_[chunk + 1];
  for (std::int32_t i = begin; i < end; ++i) {
    const auto sample = static_cast<std::size_t>(i);
    // Noise alone comes in pairs that cancel, so that its mean is none; the last of an odd number has none.
    for (double& n : noise) {
      n = kind == DriftKind::kCommon ? 0 : kind == DriftKind::kMixed || (i - begin) % 2 == 0 ? normal(random) : -n;
    }
    if (kind == DriftKind::kNoise && i + 1 == end && (i - begin) % 2 == 0) std::fill(noise.begin(), noise.end(), 0);
    double error = 0;
    const std::vector<double> cached = semantic_head(side, sample_rows_[sample], head, error);
    for (std::size_t d = 0; d < head_dim; ++d) {
      const std::int64_t at =
          oracle_address(fresh_placement_, side, 0, fresh_slots_[sample], head, static_cast<std::int32_t>(d));
      write_number(fresh_.data() + at, case_.fresh_dtype, static_cast<float>(cached[d] + common[d] + noise[d]));
    }
  }
}

pikv::DriftCorrection DriftWorld::correction() const {
  pikv::DriftCorrection correction{
      .geometry = case_.geometry,
      .layer = case_.layer,
      .fresh = as_const(fresh_view_->view()),
      .fresh_slots = pikv::SlotMap::per_token(fresh_slots_.data(), static_cast<std::int64_t>(fresh_slots_.size())),
      .cached = view_->view(),
      .row_slots = slots_.map(),
      .sample_rows = sample_rows_,
      .sample_offsets = sample_offsets_,
      .target_rows = target_rows_,
      .target_offsets = target_offsets_,
      .key_gain = case_.key_gain,
      .value_gain = case_.value_gain};
  if (case_.turns) correction.rope = table_.view();
  // One of a single layer is named by its bases alone.
  correction.fresh.k_base = fresh_view_->view().k_layer(0);
  correction.fresh.v_base = fresh_view_->view().v_layer(0);
  correction.fresh.k_layers = correction.fresh.v_layers = nullptr;
  return correction;
}

std::vector<std::byte> DriftWorld::take() {
  std::vector<std::byte> now = cache_;
  std::copy(before_.begin(), before_.end(), cache_.begin());  // views point into it
  return now;
}

double DriftWorld::target_value(std::span<const std::byte> image, std::size_t target, Side side, std::int32_t head,
                                std::int32_t d) const {
  return oracle_decode(image.data() + address(side, target_rows_[target], head, d), case_.geometry.dtype);
}

const std::vector<double>& DriftWorld::planted(std::size_t chunk, Side side, std::int32_t head) const {
  return planted_[head_index(case_, chunk, side, head)];
}

std::vector<double> DriftWorld::cached_head(Side side, std::int32_t row, std::int32_t head) const {
  std::vector<double> values;
  for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
    values.push_back(oracle_decode(cache_.data() + address(side, row, head, d), case_.geometry.dtype));
  }
  return values;
}

std::vector<double> DriftWorld::semantic_head(Side side, std::int32_t row, std::int32_t head, double& error) const {
  std::vector<double> values = cached_head(side, row, head);
  if (side == Side::kValue) return values;
  const std::vector<double> turned = values;
  for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
    const OracleValue value = oracle_turn(turned, d, rope_, row, true);
    values[static_cast<std::size_t>(d)] = value.value;
    error = std::max(error, value.arithmetic_error);
  }
  return values;
}

DriftWorld::Samples DriftWorld::samples(std::int32_t begin, std::int32_t end, Side side, std::int32_t head) const {
  const auto head_dim = static_cast<std::size_t>(case_.geometry.head_dim);
  Samples samples{.mean = std::vector<double>(head_dim)};
  std::vector<std::vector<double>> differences;
  double largest = 0;
  for (std::int32_t i = begin; i < end; ++i) {
    const auto sample = static_cast<std::size_t>(i);
    std::vector<double> difference = semantic_head(side, sample_rows_[sample], head, samples.error);
    for (std::size_t d = 0; d < head_dim; ++d) {
      const std::int64_t at =
          oracle_address(fresh_placement_, side, 0, fresh_slots_[sample], head, static_cast<std::int32_t>(d));
      difference[d] = oracle_decode(fresh_.data() + at, case_.fresh_dtype) - difference[d];
      largest = std::max(largest, std::abs(difference[d]));
    }
    differences.push_back(difference);
  }
  samples.error += largest * 0x1p-17;
  samples.count = end - begin;
  for (const auto& difference : differences) {
    for (std::size_t d = 0; d < head_dim; ++d) samples.mean[d] += difference[d] / samples.count;
  }
  for (const auto& difference : differences) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const double beside = difference[d] - samples.mean[d];
      samples.variance += beside * beside / (samples.count - 1);
    }
  }
  return samples;
}

std::vector<double> DriftWorld::shrunk(const Samples& samples, const std::vector<double>& towards) {
  std::vector<double> result = towards;
  if (samples.count < 2) return result;
  double distance = 0;
  for (std::size_t d = 0; d < towards.size(); ++d) distance += std::pow(samples.mean[d] - towards[d], 2);
  // Where the two are equal but for rounding, there is nothing beyond.
  if (samples.variance >= samples.count * distance * (1 - 1e-4)) return result;
  const double share = 1 - samples.variance / (samples.count * distance);
  for (std::size_t d = 0; d < towards.size(); ++d) result[d] += share * (samples.mean[d] - towards[d]);
  return result;
}

DriftWorld::Drift DriftWorld::find_drift(std::size_t chunk, Side side, std::int32_t head) const {
  const double gain = side == Side::kKey ? case_.key_gain : case_.value_gain;
  if (gain == 0) return {};
  const std::vector<double> nothing(static_cast<std::size_t>(case_.geometry.head_dim));
  const Samples all = samples(0, static_cast<std::int32_t>(sample_rows_.size()), side, head);
  const Samples own = samples(sample_offsets_[chunk], sample_offsets_[chunk + 1], side, head);
  Drift drift{.shift = shrunk(own, shrunk(all, nothing)), .error = all.error + own.error};
  if (drift.shift == nothing) return {};
  for (double& d : drift.shift) d *= gain;
  return drift;
}

void DriftWorld::compare(std::span<const std::byte> got, Comparison& comparison) const {
  const pikv::DType dtype = case_.geometry.dtype;
  std::vector<std::byte> rest(got.begin(), got.end());
  for (std::size_t chunk = 0; chunk < case_.chunks.size(); ++chunk) {
    for (const Side side : kSides) {
      for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
        const Drift drift = find_drift(chunk, side, head);
        if (drift.shift.empty()) continue;
        for (std::int32_t i = target_offsets_[chunk]; i < target_offsets_[chunk + 1]; ++i) {
          const std::int32_t row = target_rows_[static_cast<std::size_t>(i)];
          const std::vector<double> before = cached_head(side, row, head);
          for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
            const std::int64_t at = address(side, row, head, d);
            OracleValue shift{drift.shift[static_cast<std::size_t>(d)], 0};
            if (side == Side::kKey) shift = oracle_turn(drift.shift, d, rope_, row, false);
            const double expected = before[static_cast<std::size_t>(d)] + shift.value;
            const double arithmetic = 2 * drift.error + shift.arithmetic_error + std::abs(expected) * 0x1p-23;
            comparison.expect_near(oracle_decode(got.data() + at, dtype), expected,
                                   oracle_half_ulp(std::abs(expected) + arithmetic, dtype) + arithmetic, [&] {
                                     return std::string(side == Side::kKey ? "key" : "value") + " of row " +
                                            std::to_string(row) + ", head " + std::to_string(head) + ", channel " +
                                            std::to_string(d);
                                   });
            std::copy_n(before_.begin() + at, dtype_bytes(dtype), rest.begin() + at);
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < rest.size(); ++i) {
    comparison.expect_same_bits(static_cast<std::uint64_t>(rest[i]), static_cast<std::uint64_t>(before_[i]),
                                [&] { return "byte " + std::to_string(i) + " of the cache, which may not change"; });
  }
}

}  // namespace test_support
