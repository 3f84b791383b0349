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

}  // namespace

DriftWorld::DriftWorld(const DriftCase& c)
    : case_(c),
      num_rows_(c.num_samples + c.num_targets + c.num_other_rows),
      fresh_geometry_(c.geometry),
      table_(table_of(c, std::max(num_rows_, 1))) {
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
  std::vector<std::int32_t> rows(static_cast<std::size_t>(num_rows_));
  std::iota(rows.begin(), rows.end(), 0);
  // The last row is the last target.
  std::shuffle(rows.begin(), rows.end() - (case_.num_targets > 0 ? 1 : 0), random);
  target_rows_.assign(rows.end() - case_.num_targets, rows.end());
  sample_rows_.assign(rows.begin(), rows.begin() + case_.num_samples);
  for (std::size_t i = 0; i < sample_rows_.size(); ++i) fresh_slots_.push_back(static_cast<pikv::Slot>(i) + 1);
  std::shuffle(fresh_slots_.begin(), fresh_slots_.end(), random);
  for (std::size_t i = 0; i < sample_rows_.size(); ++i) sample_chunks_.push_back(random() % 3 == 0 ? 7 : -1);
  for (std::size_t i = 0; i < target_rows_.size(); ++i) target_chunks_.push_back(random() % 3 == 0 ? 8 : -1);
  std::normal_distribution<float> normal(0, 0.3F);
  weights_.resize((target_rows_.size() + sample_rows_.size()) * sample_rows_.size());
  for (float& weight : weights_) weight = normal(random);
  // What samples predict of each other is partly right, or there would be nothing to move.
  const float right = random() % 4 == 0 ? -1.0F : 1.5F;
  for (std::size_t i = 0; i < sample_rows_.size(); ++i) {
    float* const row = weights_.data() + (target_rows_.size() + i) * sample_rows_.size();
    for (std::size_t j = 0; j < sample_rows_.size(); ++j) {
      row[j] /= std::sqrt(static_cast<float>(sample_rows_.size()));
    }
    row[i] += right;
  }
}

std::int64_t DriftWorld::address(Side side, std::int32_t row, std::int32_t head, std::int32_t d) const {
  return oracle_address(placement_, side, case_.layer, slots_.slot(row), head, d);
}

void DriftWorld::fill(std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (const Side side : kSides) {
    for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
      for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
        // Channels differ in size and in where they lie, as a model's do.
        const float size = std::exp(normal(random));
        const float middle = normal(random);
        const auto number = [&] { return middle + size * normal(random); };
        for (const auto* rows : {&sample_rows_, &target_rows_}) {
          for (const std::int32_t row : *rows) {
            write_number(cache_.data() + address(side, row, head, d), case_.geometry.dtype, number());
          }
        }
        for (const pikv::Slot slot : fresh_slots_) {
          write_number(fresh_.data() + oracle_address(fresh_placement_, side, 0, slot, head, d), case_.fresh_dtype,
                       number());
        }
      }
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
      .target_rows = target_rows_,
      .weights = weights_,
      .key_gain = case_.key_gain,
      .value_gain = case_.value_gain};
  if (case_.turns) correction.rope = table_.view();
  // One of a single layer is named by its bases alone.
  correction.fresh.k_base = fresh_view_->view().k_layer(0);
  correction.fresh.v_base = fresh_view_->view().v_layer(0);
  correction.fresh.k_layers = correction.fresh.v_layers = nullptr;
  return correction;
}

pikv::DriftWeighing DriftWorld::weighing(std::span<float> weights) const {
  return {.geometry = case_.geometry,
          .layer = case_.layer,
          .cached = as_const(view_->view()),
          .row_slots = slots_.map(),
          .sample_rows = sample_rows_,
          .target_rows = target_rows_,
          .sample_chunks = sample_chunks_,
          .target_chunks = target_chunks_,
          .rope = case_.turns ? table_.view() : pikv::RopeTableView{},
          .other_chunks = case_.other_chunks,
          .noise = case_.noise,
          .weights = weights};
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

std::vector<double> DriftWorld::difference(std::size_t sample, Side side, std::int32_t head, double& error) const {
  std::vector<double> difference = semantic_head(side, sample_rows_[sample], head, error);
  for (std::size_t d = 0; d < difference.size(); ++d) {
    const std::int64_t at =
        oracle_address(fresh_placement_, side, 0, fresh_slots_[sample], head, static_cast<std::int32_t>(d));
    const double fresh = oracle_decode(fresh_.data() + at, case_.fresh_dtype);
    error = std::max(error, (std::abs(fresh) + std::abs(difference[d])) * 0x1p-23);
    difference[d] = fresh - difference[d];
  }
  return difference;
}

DriftWorld::Prediction DriftWorld::predict(std::size_t row, const std::vector<std::vector<double>>& differences,
                                           double difference_error, double factor_error) const {
  Prediction prediction{.channels = std::vector<double>(static_cast<std::size_t>(case_.geometry.head_dim)), .error = 0};
  std::vector<double> sizes(prediction.channels.size());
  double weight_sum = 0;
  for (std::size_t i = 0; i < differences.size(); ++i) {
    const double weight = weights_[row * differences.size() + i];
    weight_sum += std::abs(weight);
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      prediction.channels[d] += weight * differences[i][d];
      sizes[d] += std::abs(weight * differences[i][d]);
    }
  }
  // A sum of n terms is rounded after each, and each term when it is formed.
  const double sum_error = 2 * factor_error + static_cast<double>(differences.size() + 4) * 0x1p-24;
  prediction.error = weight_sum * difference_error + *std::max_element(sizes.begin(), sizes.end()) * sum_error;
  return prediction;
}

DriftWorld::Share DriftWorld::share_of(const std::vector<std::vector<double>>& differences, double difference_error,
                                       double factor_error) const {
  double with_drift = 0;
  double with_itself = 0;
  double error = 0;  // of either sum
  for (std::size_t i = 0; i < differences.size(); ++i) {
    const Prediction p = predict(target_rows_.size() + i, differences, difference_error, factor_error);
    for (std::size_t d = 0; d < differences[i].size(); ++d) {
      with_drift += p.channels[d] * differences[i][d];
      with_itself += p.channels[d] * p.channels[d];
      error += p.error * (std::abs(differences[i][d]) + 2 * std::abs(p.channels[d]));
      error += difference_error * std::abs(p.channels[d]) + 0x1p-20 * (p.channels[d] * p.channels[d]);
    }
  }
  if (with_itself == 0) return {0, 0};
  const double share = with_drift / with_itself;
  return {std::clamp(share, 0.0, 1.0), (1 + std::abs(share)) * error / with_itself};
}

void DriftWorld::compare(std::span<const std::byte> got, double factor_error, Comparison& comparison) const {
  const pikv::DType dtype = case_.geometry.dtype;
  std::vector<std::byte> rest(got.begin(), got.end());
  for (const Side side : kSides) {
    const double gain = side == Side::kKey ? case_.key_gain : case_.value_gain;
    if (gain == 0 || sample_rows_.empty()) continue;
    for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
      std::vector<std::vector<double>> differences;
      double difference_error = 0;
      for (std::size_t i = 0; i < sample_rows_.size(); ++i) {
        differences.push_back(difference(i, side, head, difference_error));
      }
      const Share share = share_of(differences, difference_error, factor_error);
      for (std::size_t target = 0; target < target_rows_.size(); ++target) {
        Prediction shift = predict(target, differences, difference_error, factor_error);
        double largest = 0;
        for (double& channel : shift.channels) {
          largest = std::max(largest, std::abs(channel));
          channel *= gain * share.value;
        }
        shift.error = gain * (share.value * shift.error + share.error * largest);
        const std::int32_t row = target_rows_[target];
        const std::vector<double> before = cached_head(side, row, head);
        for (std::int32_t d = 0; d < case_.geometry.head_dim; ++d) {
          OracleValue turned{shift.channels[static_cast<std::size_t>(d)], 0};
          if (side == Side::kKey) turned = oracle_turn(shift.channels, d, rope_, row, false);
          const double expected = before[static_cast<std::size_t>(d)] + turned.value;
          const double arithmetic = 2 * shift.error + turned.arithmetic_error + std::abs(expected) * 0x1p-23;
          const std::int64_t at = address(side, row, head, d);
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
  for (std::size_t i = 0; i < rest.size(); ++i) {
    comparison.expect_same_bits(static_cast<std::uint64_t>(rest[i]), static_cast<std::uint64_t>(before_[i]),
                                [&] { return "byte " + std::to_string(i) + " of the cache, which may not change"; });
  }
}

std::vector<double> DriftWorld::features(std::int32_t row) const {
  std::vector<double> all;
  for (const Side side : kSides) {
    for (std::int32_t head = 0; head < case_.geometry.num_kv_heads; ++head) {
      double error = 0;
      const std::vector<double> own = semantic_head(side, row, head, error);
      all.insert(all.end(), own.begin(), own.end());
    }
  }
  return all;
}

void DriftWorld::compare_weights(std::span<const float> got, Comparison& comparison) const {
  const std::size_t num_samples = sample_rows_.size();
  if (num_samples == 0) return;
  std::vector<std::vector<double>> samples;
  for (const std::int32_t row : sample_rows_) samples.push_back(features(row));
  const std::size_t num_channels = samples[0].size();
  std::vector<double> variances(num_channels);
  for (std::size_t c = 0; c < num_channels; ++c) {
    double mean = 0;
    for (const auto& sample : samples) mean += sample[c] / static_cast<double>(num_samples);
    for (const auto& sample : samples) variances[c] += std::pow(sample[c] - mean, 2) / static_cast<double>(num_samples);
    if (num_samples == 1) variances[c] = 0;  // whatever rounding says
  }
  const auto covariance = [&](const std::vector<double>& a, std::int32_t chunk_of_a, const std::vector<double>& b,
                              std::int32_t chunk_of_b) {
    double distance = 0;
    for (std::size_t c = 0; c < num_channels; ++c) {
      if (variances[c] > 0) distance += std::pow(a[c] - b[c], 2) / variances[c];
    }
    return (chunk_of_a == chunk_of_b ? 1 : double{case_.other_chunks}) *
           std::exp(-distance / static_cast<double>(num_channels));
  };
  // Gauss and Jordan: [k(R, R) + noise | k(R, T) | 1] to [1 | weights^T | inverse].
  const std::size_t width = 2 * num_samples + target_rows_.size();
  std::vector<std::vector<double>> system(num_samples, std::vector<double>(width));
  for (std::size_t i = 0; i < num_samples; ++i) {
    for (std::size_t j = 0; j < num_samples; ++j) {
      system[i][j] = covariance(samples[i], sample_chunks_[i], samples[j], sample_chunks_[j]);
    }
    system[i][i] += double{case_.noise};
  }
  const std::size_t num_targets = target_rows_.size();
  for (std::size_t t = 0; t < num_targets; ++t) {
    const std::vector<double> target = features(target_rows_[t]);
    for (std::size_t i = 0; i < num_samples; ++i) {
      system[i][num_samples + t] = covariance(samples[i], sample_chunks_[i], target, target_chunks_[t]);
    }
  }
  for (std::size_t i = 0; i < num_samples; ++i) system[i][num_samples + num_targets + i] = 1;
  for (std::size_t pivot = 0; pivot < num_samples; ++pivot) {
    const double scale = 1 / system[pivot][pivot];
    for (double& element : system[pivot]) element *= scale;
    for (std::size_t i = 0; i < num_samples; ++i) {
      const double factor = system[i][pivot];
      if (i == pivot) continue;
      for (std::size_t j = pivot; j < width; ++j) system[i][j] -= factor * system[pivot][j];
    }
  }
  // Covariances are fp32, of features that are; the inverse makes their errors larger by 1 / noise at most.
  const double error = 2e-5 / double{case_.noise};
  for (std::size_t i = 0; i < num_samples; ++i) {
    const double diagonal = system[i][num_samples + num_targets + i];
    for (std::size_t j = 0; j < num_samples; ++j) {
      double& element = system[j][num_samples + num_targets + i];
      element = i == j ? 0 : -element / diagonal;
    }
  }
  for (std::size_t t = 0; t < num_targets + num_samples; ++t) {
    for (std::size_t i = 0; i < num_samples; ++i) {
      comparison.expect_near(double{got[t * num_samples + i]}, system[i][num_samples + t], error,
                             [&] { return "weight of sample " + std::to_string(i) + " in row " + std::to_string(t); });
    }
  }
}

}  // namespace test_support
