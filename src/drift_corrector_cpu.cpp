#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

#include "cpu/head_reader.hpp"
#include "cpu/select_row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "cpu/transpose.hpp"
#include "drift_checks.hpp"
#include "pikv/drift.hpp"
#include "row_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

constexpr std::int64_t kBlockRows = cpu::HeadReader::kMaxTokens;
constexpr std::size_t kMaxChannels = detail::kMaxHeadDim;
/// Work smaller than this is done before another thread would have woken up.
constexpr std::int64_t kParallelFromElements = std::int64_t{32} << 10;

using Channels = std::array<float, kMaxChannels>;
using Rows = std::array<float, static_cast<std::size_t>(kBlockRows) * kMaxChannels>;

/// Some rows of the prompt as readers take them: calls on several threads share nothing that could hold them.
struct RowBlock {
  std::array<Slot, static_cast<std::size_t>(kBlockRows)> slots;
  std::array<Position, static_cast<std::size_t>(kBlockRows)> positions;
  std::int64_t count = 0;

  RowBlock(const SlotMap& row_slots, std::span<const std::int32_t> rows) noexcept
      : count(static_cast<std::int64_t>(rows.size())) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      slots[i] = row_slots.slot(rows[i]);
      positions[i] = rows[i];
    }
  }
};

/// One head of one chunk's keys or values.
class HeadDrift {
 public:
  HeadDrift(const DriftCorrection& correction, const cpu::RowKernels& kernels, cpu::Side side,
            std::int32_t head) noexcept
      : correction_(correction),
        kernels_(kernels),
        side_(side),
        head_(head),
        head_dim_(correction.geometry.head_dim),
        turns_(side == cpu::Side::kKey && correction.rope.turns()) {}

  void correct(std::size_t chunk) noexcept {
    const float gain = side_ == cpu::Side::kKey ? correction_.key_gain : correction_.value_gain;
    if (gain == 0) return;
    const auto first_target = static_cast<std::size_t>(correction_.target_offsets[chunk]);
    const auto num_targets = static_cast<std::size_t>(correction_.target_offsets[chunk + 1]) - first_target;
    if (num_targets == 0 || !find_shift(chunk, gain)) return;
    std::span<const std::int32_t> targets = correction_.target_rows.subspan(first_target, num_targets);
    while (!targets.empty()) {
      const std::size_t count = std::min(targets.size(), static_cast<std::size_t>(kBlockRows));
      move(RowBlock(correction_.row_slots, targets.first(count)));
      targets = targets.subspan(count);
    }
  }

 private:
  /// Sets shift_; false: nothing of the chunk moves.
  bool find_shift(std::size_t chunk, float gain) noexcept {
    const std::int32_t begin = correction_.sample_offsets[chunk];
    const std::int32_t end = correction_.sample_offsets[chunk + 1];
    const auto num_samples = static_cast<double>(end - begin);
    if (end - begin < 2) return false;
    // Differences are fp32. In double their squares are exact, and the difference of two sums below loses nothing.
    std::array<double, kMaxChannels> sums{};
    std::array<double, kMaxChannels> squares{};
    for (std::int32_t i = begin; i < end; i += kBlockRows) {
      const std::int64_t count = std::min<std::int64_t>(kBlockRows, end - i);
      read_samples(i, count);
      for (std::int64_t row = 0; row < count; ++row) {
        const float* const fresh = fresh_.data() + row * head_dim_;
        const float* const cached = cached_.data() + row * head_dim_;
        for (std::int32_t d = 0; d < head_dim_; ++d) {
          const double difference = fresh[d] - cached[d];
          const auto channel = static_cast<std::size_t>(d);
          sums[channel] += difference;
          squares[channel] += difference * difference;
        }
      }
    }
    double mean_square = 0;
    double variance = 0;
    for (std::size_t d = 0; d < static_cast<std::size_t>(head_dim_); ++d) {
      const double mean = sums[d] / num_samples;
      mean_square += mean * mean;
      variance += std::max(squares[d] - sums[d] * mean, 0.0) / (num_samples - 1);
    }
    // Also where there is no drift at all, or no number.
    if (!(variance < num_samples * mean_square)) return false;
    const double share = gain * (1 - variance / (num_samples * mean_square));
    for (std::size_t d = 0; d < static_cast<std::size_t>(head_dim_); ++d) {
      shift_[d] = static_cast<float>(share * (sums[d] / num_samples));
    }
    return true;
  }

  void read_samples(std::int32_t begin, std::int64_t count) noexcept {
    const RowBlock block(correction_.row_slots, correction_.sample_rows.subspan(static_cast<std::size_t>(begin),
                                                                                static_cast<std::size_t>(count)));
    const cpu::HeadReader fresh(
        {.view = detail::single_layer(correction_.fresh), .slots = correction_.fresh_slots, .head_dim = head_dim_},
        kernels_, scratch_.data());
    fresh.read(side_, 0, head_, begin, count, fresh_.data());
    read_cached(block, correction_.rope);
  }

  /// rope: what the rows are turned back by.
  void read_cached(const RowBlock& block, const RopeTableView& rope) noexcept {
    const cpu::HeadReader cached({.view = as_const(correction_.cached),
                                  .slots = SlotMap::per_token(block.slots.data(), block.count),
                                  .positions = PositionMap::per_token(block.positions.data()),
                                  .rope = rope,
                                  .direction = cpu::Direction::kUnanchor,
                                  .head_dim = head_dim_},
                                 kernels_, scratch_.data());
    cached.read(side_, correction_.layer, head_, 0, block.count, cached_.data());
  }

  void move(const RowBlock& block) noexcept {
    read_cached(block, {});
    for (std::int64_t i = 0; i < block.count; ++i) {
      Channels turned;
      const float* shift = shift_.data();
      if (turns_) {
        turn_shift(block.positions[static_cast<std::size_t>(i)], turned.data());
        shift = turned.data();
      }
      float* const row = cached_.data() + i * head_dim_;
      for (std::int32_t d = 0; d < head_dim_; ++d) row[d] += shift[d];
    }
    write_cached(block);
  }

  void turn_shift(Position position, float* turned) const noexcept {
    constexpr auto kFloat = static_cast<std::size_t>(DType::kFloat32);
    const RopeTableView& rope = correction_.rope;
    kernels_.keys[cpu::kTurn][static_cast<std::size_t>(rope.pairing)][cpu::kCached][kFloat][kFloat](
        cpu::KeyRow{.source = reinterpret_cast<const std::byte*>(shift_.data()),
                    .target = reinterpret_cast<std::byte*>(turned),
                    .source_head_bytes = 0,
                    .target_head_bytes = 0,
                    .num_heads = 1,
                    .head_dim = head_dim_,
                    .half_dim = rope.half_dim,
                    .cos = rope.cos(position),
                    .sin = rope.sin(position),
                    .inverse_square = rope.inverse_square});
  }

  void write_cached(const RowBlock& block) noexcept {
    const KvView& cached = correction_.cached;
    const bool is_key = side_ == cpu::Side::kKey;
    const cpu::TargetPlane plane(is_key ? cached.k_layer(correction_.layer) : cached.v_layer(correction_.layer),
                                 is_key ? cached.layout.k : cached.layout.v, cached.layout);
    const cpu::MoveElements store =
        kernels_.elements[cpu::kCached][static_cast<std::size_t>(DType::kFloat32)][cpu::index_of(cached.layout.dtype)];
    const std::int64_t row_bytes = head_dim_ * plane.element_bytes;
    std::array<std::byte*, static_cast<std::size_t>(kBlockRows)> to;
    std::array<const std::byte*, static_cast<std::size_t>(kBlockRows)> rounded;
    for (std::int64_t i = 0; i < block.count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      to[at] = plane.token(block.slots[at]) + head_ * plane.head_bytes;
      std::byte* const row =
          plane.has_adjacent_channels() ? to[at] : reinterpret_cast<std::byte*>(scratch_.data()) + i * row_bytes;
      store(reinterpret_cast<const std::byte*>(cached_.data() + i * head_dim_), row, head_dim_);
      rounded[at] = row;
    }
    if (plane.has_adjacent_channels()) return;
    cpu::transpose_rows(plane.element_bytes, rounded.data(), plane.element_bytes, to.data(), plane.dim_bytes,
                        static_cast<std::size_t>(block.count), head_dim_);
  }

  const DriftCorrection& correction_;
  const cpu::RowKernels& kernels_;
  const cpu::Side side_;
  const std::int32_t head_;
  const std::int32_t head_dim_;
  const bool turns_;
  Channels shift_;  // of semantic keys, or of values
  // [count][D] of a block of rows
  Rows fresh_;
  Rows cached_;
  Rows scratch_;
};

class CpuDriftCorrector final : public DriftCorrector {
 public:
  explicit CpuDriftCorrector(std::int32_t num_threads)
      : pool_(num_threads), kernels_(*cpu::supported_row_kernels().back()) {}

  MemorySpace space() const noexcept override { return MemorySpace::kHost; }

  Status correct_async(const DriftCorrection& correction, StreamRef /*stream*/) override {
    PIKV_TRY(detail::check_drift(correction, {.name = "cpu", .space = MemorySpace::kHost}));
    try {
      PIKV_TRY(detail::check_drift_arrays(correction));
    } catch (const std::bad_alloc&) {
      return out_of_memory("drift corrector: no memory to see that no row is named twice");
    }
    if (detail::has_work(correction)) correct(correction);
    return {};
  }

 private:
  void correct(const DriftCorrection& correction) {
    const std::int64_t num_heads = correction.geometry.num_kv_heads;
    const auto num_chunks = static_cast<std::int64_t>(correction.sample_offsets.size()) - 1;
    const auto body = [&](std::int64_t task, std::int32_t /*worker*/) {
      const auto head = static_cast<std::int32_t>(task % num_heads);
      for (const cpu::Side side : {cpu::Side::kKey, cpu::Side::kValue}) {
        HeadDrift(correction, kernels_, side, head).correct(static_cast<std::size_t>(task / num_heads));
      }
    };
    const std::int64_t num_tasks = num_chunks * num_heads;
    const auto num_rows = static_cast<std::int64_t>(correction.sample_rows.size() + correction.target_rows.size());
    if (num_rows * num_heads * correction.geometry.head_dim >= kParallelFromElements) {
      pool_.parallel_for(num_tasks, body);
    } else {
      for (std::int64_t task = 0; task < num_tasks; ++task) body(task, 0);
    }
  }

  cpu::ThreadPool pool_;
  const cpu::RowKernels& kernels_;
};

}  // namespace

std::unique_ptr<DriftCorrector> make_cpu_drift_corrector(std::int32_t num_threads) {
  return std::make_unique<CpuDriftCorrector>(num_threads);
}

}  // namespace v0
}  // namespace pikv
