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

/// One head of keys or values.
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

  /// All chunks.
  void correct() noexcept {
    const float gain = side_ == cpu::Side::kKey ? correction_.key_gain : correction_.value_gain;
    if (gain == 0) return;
    find_common();
    for (std::size_t chunk = 0; chunk + 1 < correction_.target_offsets.size(); ++chunk) {
      const auto first = static_cast<std::size_t>(correction_.target_offsets[chunk]);
      const auto count = static_cast<std::size_t>(correction_.target_offsets[chunk + 1]) - first;
      if (count > 0 && find_shift(chunk, gain)) move(correction_.target_rows.subspan(first, count));
    }
  }

 private:
  /// Of some samples, by channel. Differences are fp32: in double their squares are exact, and the difference of two
  /// sums below loses nothing.
  struct Moments {
    double count = 0;
    std::array<double, kMaxChannels> sums{};
    std::array<double, kMaxChannels> squares{};
  };

  /// What all samples have drifted.
  void find_common() noexcept {
    common_.fill(0);
    const Moments all = moments_of(0, static_cast<std::int32_t>(correction_.sample_rows.size()));
    const double share = shrink(all);
    for (std::size_t d = 0; share > 0 && d < static_cast<std::size_t>(head_dim_); ++d) {
      common_[d] = share * (all.sums[d] / all.count);
    }
    is_common_ = share > 0;
  }

  /// Sets shift_; false: nothing of the chunk moves.
  bool find_shift(std::size_t chunk, float gain) noexcept {
    const Moments own = moments_of(correction_.sample_offsets[chunk], correction_.sample_offsets[chunk + 1]);
    const double share = shrink(own);
    for (std::size_t d = 0; d < static_cast<std::size_t>(head_dim_); ++d) {
      const double beyond = share > 0 ? share * (own.sums[d] / own.count - common_[d]) : 0;
      shift_[d] = static_cast<float>(gain * (common_[d] + beyond));
    }
    return is_common_ || share > 0;
  }

  /// How much of the samples' mean counts, measured from what is common. 0 also where there is no drift at all, or no
  /// number.
  [[nodiscard]] double shrink(const Moments& of) const noexcept {
    if (of.count < 2) return 0;
    double distance = 0;
    double variance = 0;
    for (std::size_t d = 0; d < static_cast<std::size_t>(head_dim_); ++d) {
      const double mean = of.sums[d] / of.count;
      distance += (mean - common_[d]) * (mean - common_[d]);
      variance += std::max(of.squares[d] - of.sums[d] * mean, 0.0) / (of.count - 1);
    }
    return variance < of.count * distance ? 1 - variance / (of.count * distance) : 0;
  }

  [[nodiscard]] Moments moments_of(std::int32_t begin, std::int32_t end) noexcept {
    Moments moments{.count = static_cast<double>(end - begin)};
    for (std::int32_t i = begin; i < end; i += kBlockRows) {
      const std::int64_t count = std::min<std::int64_t>(kBlockRows, end - i);
      read_samples(i, count);
      for (std::int64_t row = 0; row < count; ++row) {
        const float* const fresh = fresh_.data() + row * head_dim_;
        const float* const cached = cached_.data() + row * head_dim_;
        for (std::int32_t d = 0; d < head_dim_; ++d) {
          const double difference = fresh[d] - cached[d];
          const auto channel = static_cast<std::size_t>(d);
          moments.sums[channel] += difference;
          moments.squares[channel] += difference * difference;
        }
      }
    }
    return moments;
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

  void move(std::span<const std::int32_t> targets) noexcept {
    while (!targets.empty()) {
      const std::size_t count = std::min(targets.size(), static_cast<std::size_t>(kBlockRows));
      move(RowBlock(correction_.row_slots, targets.first(count)));
      targets = targets.subspan(count);
    }
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
  std::array<double, kMaxChannels> common_{};  // what all samples have drifted
  bool is_common_ = false;                     // whether that is anything
  Channels shift_;                             // of a chunk's semantic keys, or values
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
    const auto body = [&](std::int64_t task, std::int32_t /*worker*/) {
      const cpu::Side side = task % 2 == 0 ? cpu::Side::kKey : cpu::Side::kValue;
      HeadDrift(correction, kernels_, side, static_cast<std::int32_t>(task / 2)).correct();
    };
    const std::int64_t num_tasks = 2 * num_heads;
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
