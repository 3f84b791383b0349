#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "cpu/column_tiles.hpp"
#include "cpu/drift_weights.hpp"
#include "cpu/head_reader.hpp"
#include "cpu/plane.hpp"
#include "cpu/row_block.hpp"
#include "cpu/select_row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "cpu/transpose.hpp"
#include "drift_checks.hpp"
#include "pikv/drift.hpp"
#include "row_checks.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using cpu::RowBlock;
using cpu::Side;

using HeadRows = std::array<float, static_cast<std::size_t>(RowBlock::kMaxRows) * detail::kMaxHeadDim>;

/// One layer: what samples have drifted, and what targets take over from them.
class Call {
 public:
  Call(const DriftCorrection& correction, const cpu::RowKernels& kernels)
      : correction_(correction),
        kernels_(kernels),
        head_dim_(correction.geometry.head_dim),
        num_heads_(correction.geometry.num_kv_heads),
        num_samples_(static_cast<std::int64_t>(correction.sample_rows.size())),
        differences_(num_samples_, 2 * num_heads_ * head_dim_),
        factors_(static_cast<std::size_t>(2 * num_heads_)) {}

  void run(cpu::ThreadPool& pool) {
    const std::int64_t worker_floats = RowBlock::kMaxRows * differences_.padded_columns();
    std::vector<float> shifts(static_cast<std::size_t>(pool.num_workers() * worker_floats));
    pool.parallel_for(2 * num_heads_, [&](std::int64_t head, std::int32_t /*worker*/) { find_differences(head); });
    find_factors(pool, shifts, worker_floats);
    const auto num_targets = static_cast<std::int64_t>(correction_.target_rows.size());
    pool.parallel_for(RowBlock::num_blocks(num_targets), [&](std::int64_t index, std::int32_t worker) {
      const RowBlock block(correction_.row_slots, correction_.target_rows, index);
      float* const shift = shifts.data() + worker * worker_floats;
      predict(index * RowBlock::kMaxRows, block.count, shift);
      for (std::int64_t head = 0; head < 2 * num_heads_; ++head) move(block, head, shift);
    });
  }

 private:
  // Heads count keys first, then values.
  [[nodiscard]] Side side_of(std::int64_t head) const noexcept { return head < num_heads_ ? Side::kKey : Side::kValue; }
  [[nodiscard]] std::int32_t head_of_side(std::int64_t head) const noexcept {
    return static_cast<std::int32_t>(head % num_heads_);
  }
  [[nodiscard]] float gain_of(std::int64_t head) const noexcept {
    return head < num_heads_ ? correction_.key_gain : correction_.value_gain;
  }

  void find_differences(std::int64_t head) noexcept {
    if (gain_of(head) == 0) return;
    HeadRows fresh_rows;
    HeadRows cached_rows;
    HeadRows scratch;
    const cpu::HeadReader fresh(
        {.view = detail::single_layer(correction_.fresh), .slots = correction_.fresh_slots, .head_dim = head_dim_},
        kernels_, scratch.data());
    for (std::int64_t index = 0; index < RowBlock::num_blocks(num_samples_); ++index) {
      const RowBlock block(correction_.row_slots, correction_.sample_rows, index);
      const std::int64_t begin = index * RowBlock::kMaxRows;
      fresh.read(side_of(head), 0, head_of_side(head), begin, block.count, fresh_rows.data());
      read_cached(block, head, correction_.rope, scratch.data(), cached_rows.data());
      for (std::int64_t i = 0; i < block.count; ++i) {
        for (std::int64_t d = 0; d < head_dim_; ++d) {
          const auto at = static_cast<std::size_t>(i * head_dim_ + d);
          differences_.at(begin + i, head * head_dim_ + d) = fresh_rows[at] - cached_rows[at];
        }
      }
    }
  }

  /// Rows [begin, begin + count) of the weights times what samples have drifted: [count][padded channels].
  void predict(std::int64_t begin, std::int64_t count, float* rows) const noexcept {
    differences_.multiply(kernels_.scores, correction_.weights.data() + begin * num_samples_, count, rows);
  }

  /// Of a head and some samples: what is predicted of them by the others, times what it should be, and times itself.
  struct Agreement {
    double with_drift = 0;
    double with_itself = 0;
  };

  /// Gains, times how well samples predict each other. scratch: of each worker, [worker_floats].
  void find_factors(cpu::ThreadPool& pool, std::vector<float>& scratch, std::int64_t worker_floats) {
    const auto num_targets = static_cast<std::int64_t>(correction_.target_rows.size());
    const std::int64_t num_blocks = RowBlock::num_blocks(num_samples_);
    std::vector<Agreement> parts(static_cast<std::size_t>(num_blocks * 2 * num_heads_));
    pool.parallel_for(num_blocks, [&](std::int64_t block, std::int32_t worker) {
      float* const rows = scratch.data() + worker * worker_floats;
      const std::int64_t begin = block * RowBlock::kMaxRows;
      const std::int64_t count = RowBlock::count_of(num_samples_, block);
      predict(num_targets + begin, count, rows);
      for (std::int64_t head = 0; head < 2 * num_heads_; ++head) {
        Agreement& part = parts[static_cast<std::size_t>(block * 2 * num_heads_ + head)];
        for (std::int64_t i = 0; i < count; ++i) {
          for (std::int64_t c = head * head_dim_; c < (head + 1) * head_dim_; ++c) {
            const double predicted = rows[i * differences_.padded_columns() + c];
            part.with_drift += predicted * double{differences_.at(begin + i, c)};
            part.with_itself += predicted * predicted;
          }
        }
      }
    });
    for (std::int64_t head = 0; head < 2 * num_heads_; ++head) {
      Agreement all;
      for (std::int64_t block = 0; block < num_blocks; ++block) {
        const Agreement& part = parts[static_cast<std::size_t>(block * 2 * num_heads_ + head)];
        all.with_drift += part.with_drift;
        all.with_itself += part.with_itself;
      }
      // 0 also where there is no number.
      const double share = all.with_drift > 0 ? std::min(all.with_drift / all.with_itself, 1.0) : 0;
      factors_[static_cast<std::size_t>(head)] = static_cast<float>(double{gain_of(head)} * share);
    }
  }

  /// rope: what keys are turned back by.
  void read_cached(const RowBlock& block, std::int64_t head, const RopeTableView& rope, float* scratch,
                   float* rows) const noexcept {
    const cpu::HeadReader reader(block.source(as_const(correction_.cached), rope, head_dim_), kernels_, scratch);
    reader.read(side_of(head), correction_.layer, head_of_side(head), 0, block.count, rows);
  }

  /// shifts: [count][padded channels] of the block's rows.
  void move(const RowBlock& block, std::int64_t head, const float* shifts) const noexcept {
    const float factor = factors_[static_cast<std::size_t>(head)];
    if (factor == 0) return;
    HeadRows rows;
    HeadRows scratch;
    const bool turns = side_of(head) == Side::kKey && correction_.rope.turns();
    read_cached(block, head, {}, scratch.data(), rows.data());
    for (std::int64_t i = 0; i < block.count; ++i) {
      std::array<float, detail::kMaxHeadDim> turned;
      const float* shift = shifts + i * differences_.padded_columns() + head * head_dim_;
      if (turns) {
        turn(shift, block.positions[static_cast<std::size_t>(i)], turned.data());
        shift = turned.data();
      }
      float* const row = rows.data() + i * head_dim_;
      for (std::int64_t d = 0; d < head_dim_; ++d) row[d] += factor * shift[d];
    }
    write_cached(block, head, rows.data(), reinterpret_cast<std::byte*>(scratch.data()));
  }

  void turn(const float* shift, Position position, float* turned) const noexcept {
    constexpr auto kFloat = static_cast<std::size_t>(DType::kFloat32);
    const RopeTableView& rope = correction_.rope;
    kernels_.keys[cpu::kTurn][static_cast<std::size_t>(rope.pairing)][cpu::kCached][kFloat][kFloat](
        cpu::KeyRow{.source = reinterpret_cast<const std::byte*>(shift),
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

  void write_cached(const RowBlock& block, std::int64_t head, const float* rows, std::byte* scratch) const noexcept {
    const KvView& cached = correction_.cached;
    const bool is_key = side_of(head) == Side::kKey;
    const cpu::TargetPlane plane(is_key ? cached.k_layer(correction_.layer) : cached.v_layer(correction_.layer),
                                 is_key ? cached.layout.k : cached.layout.v, cached.layout);
    const cpu::MoveElements store =
        kernels_.elements[cpu::kCached][static_cast<std::size_t>(DType::kFloat32)][cpu::index_of(cached.layout.dtype)];
    const std::int64_t row_bytes = head_dim_ * plane.element_bytes;
    std::array<std::byte*, static_cast<std::size_t>(RowBlock::kMaxRows)> to;
    std::array<const std::byte*, static_cast<std::size_t>(RowBlock::kMaxRows)> rounded;
    for (std::int64_t i = 0; i < block.count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      to[at] = plane.token(block.slots[at]) + head_of_side(head) * plane.head_bytes;
      std::byte* const row = plane.has_adjacent_channels() ? to[at] : scratch + i * row_bytes;
      store(reinterpret_cast<const std::byte*>(rows + i * head_dim_), row, head_dim_);
      rounded[at] = row;
    }
    if (plane.has_adjacent_channels()) return;
    cpu::transpose_rows(plane.element_bytes, rounded.data(), plane.element_bytes, to.data(), plane.dim_bytes,
                        static_cast<std::size_t>(block.count), head_dim_);
  }

  const DriftCorrection& correction_;
  const cpu::RowKernels& kernels_;
  const std::int32_t head_dim_;
  const std::int64_t num_heads_;  // of keys, and as many of values
  const std::int64_t num_samples_;
  cpu::ColumnTiles differences_;  // [R][2 H D], fresh - cached, semantic
  std::vector<float> factors_;    // [2 H], of what is predicted of targets
};

class CpuDriftCorrector final : public DriftCorrector {
 public:
  explicit CpuDriftCorrector(std::int32_t num_threads)
      : pool_(num_threads), kernels_(*cpu::supported_row_kernels().back()) {}

  MemorySpace space() const noexcept override { return MemorySpace::kHost; }

  Status weigh_async(const DriftWeighing& weighing, StreamRef /*stream*/) override {
    return run(weighing, [this](const DriftWeighing& w) { cpu::find_drift_weights(w, kernels_, pool_); });
  }
  Status correct_async(const DriftCorrection& correction, StreamRef /*stream*/) override {
    return run(correction, [this](const DriftCorrection& c) { Call(c, kernels_).run(pool_); });
  }

 private:
  template <class T, class Work>
  [[nodiscard]] static Status run(const T& call, const Work& work) {
    PIKV_TRY(detail::check_drift(call, {.name = "cpu", .space = MemorySpace::kHost}));
    try {
      PIKV_TRY(detail::check_drift_arrays(call));
      if (detail::has_work(call)) work(call);
    } catch (const std::bad_alloc&) {
      return out_of_memory("drift corrector: no memory for its work");
    }
    return {};
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
