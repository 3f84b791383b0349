#include "support/scenario.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "pikv/detail/half.hpp"

namespace test_support {
namespace {

using pikv::DType;
using pikv::SlotMap;

/// Random finite numbers around 1 in every element of the buffer, gaps of the layout included.
void fill_with_numbers(GuardedBuffer& buffer, DType dtype, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const std::int64_t element_bytes = pikv::dtype_bytes(dtype);
  for (std::int64_t at = 0; at + element_bytes <= buffer.size_bytes(); at += element_bytes) {
    const float value = normal(random);
    if (dtype == DType::kFloat32) {
      std::memcpy(buffer.data() + at, &value, 4);
      continue;
    }
    const std::uint16_t bits =
        dtype == DType::kFloat16 ? pikv::detail::float_to_float16(value) : pikv::detail::float_to_bfloat16(value);
    std::memcpy(buffer.data() + at, &bits, 2);
  }
}

/// Slots beyond the tokens', so that there are some that must stay untouched.
std::int64_t roomy(std::int64_t num_tokens, std::int64_t num_runs, std::int32_t page_size) {
  return num_tokens + (2 * num_runs + 2) * page_size + 3;
}

template <class Owner, class Container>
auto& keep(Owner& owner, Container values) {
  owner.push_back(std::make_unique<Container>(std::move(values)));
  return *owner.back();
}

}  // namespace

Scenario::Scenario(const ReanchorCase& c, std::uint32_t seed) : case_(c) {
  std::mt19937 random(seed);
  const auto num_runs = static_cast<std::int64_t>(c.run_tokens.size());
  const std::int64_t num_tokens = std::accumulate(c.run_tokens.begin(), c.run_tokens.end(), std::int64_t{0});
  const std::int64_t longest = *std::max_element(c.run_tokens.begin(), c.run_tokens.end());
  pikv::KvGeometry geometry = c.geometry;
  geometry.dtype = c.source_dtype;
  source_placement_ = place(c.source_layout, geometry, c.page_size, roomy(longest, 1, c.page_size), random);
  geometry.dtype = c.target_dtype;
  target_placement_ = place(c.target_layout, geometry, c.page_size, roomy(num_tokens, num_runs, c.page_size), random);

  const std::int64_t target_bytes = pikv::dtype_bytes(c.target_dtype);
  target_ = std::make_unique<GuardedBuffer>(target_placement_.num_elements * target_bytes,
                                            c.misaligned_elements * target_bytes);
  target_view_ = std::make_unique<PlacedView>(target_placement_, geometry.num_layers, target_->data());
  free_slots_.resize(static_cast<std::size_t>(target_placement_.num_slots));
  std::iota(free_slots_.begin(), free_slots_.end(), 0);
  std::shuffle(free_slots_.begin(), free_slots_.end(), random);
  free_pages_.resize(static_cast<std::size_t>(target_placement_.num_slots / c.page_size));
  std::iota(free_pages_.begin(), free_pages_.end(), 0);
  std::shuffle(free_pages_.begin(), free_pages_.end(), random);

  std::int64_t first_target_slot = 1;
  for (const std::int64_t run_tokens : c.run_tokens) {
    add_run(run_tokens, first_target_slot, random);
    first_target_slot += run_tokens;
  }
  transfer_.geometry = c.geometry;
  transfer_.runs = runs_;
  transfer_.target = target_view_->view();
  transfer_.rope = rope_table_of(c).view();
  transfer_.layer_begin = c.layer_begin;
  transfer_.layer_end = c.layer_end;
}

void Scenario::add_run(std::int64_t num_tokens, std::int64_t first_target_slot, std::mt19937& random) {
  const auto count = static_cast<std::size_t>(num_tokens);
  const std::int64_t source_bytes = pikv::dtype_bytes(case_.source_dtype);
  sources_.push_back(std::make_unique<GuardedBuffer>(source_placement_.num_elements * source_bytes,
                                                     case_.misaligned_elements * source_bytes));
  fill_with_numbers(*sources_.back(), case_.source_dtype, random);
  source_views_.push_back(
      std::make_unique<PlacedView>(source_placement_, case_.geometry.num_layers, sources_.back()->data()));

  pikv::KvRun run;
  run.source = pikv::as_const(source_views_.back()->view());
  const std::int64_t num_source_pages = source_placement_.num_slots / case_.page_size;
  switch (case_.source_slots) {
    case SlotKind::kConsecutive:
      run.source_slots = SlotMap::consecutive(2, num_tokens);
      break;
    case SlotKind::kPageTable: {
      std::vector<std::int32_t> pages(static_cast<std::size_t>(num_source_pages));
      std::iota(pages.begin(), pages.end(), 0);
      std::shuffle(pages.begin(), pages.end(), random);
      run.source_slots = SlotMap::page_table(keep(pages_, pages).data(), case_.page_size, 1, num_tokens);
      break;
    }
    case SlotKind::kPerToken:
    case SlotKind::kPerTokenWithSkips: {
      std::vector<pikv::Slot> slots(static_cast<std::size_t>(source_placement_.num_slots));
      std::iota(slots.begin(), slots.end(), 0);
      std::shuffle(slots.begin(), slots.end(), random);
      run.source_slots = SlotMap::per_token(keep(slots_, slots).data(), num_tokens);
      break;
    }
  }
  switch (case_.target_slots) {
    case SlotKind::kConsecutive:
      run.target_slots = SlotMap::consecutive(first_target_slot, num_tokens);
      break;
    case SlotKind::kPageTable: {
      const std::int64_t first_token = case_.page_size > 1 ? 1 : 0;
      const std::int64_t num_pages = (first_token + num_tokens + case_.page_size - 1) / case_.page_size;
      const std::vector<std::int32_t> pages(free_pages_.end() - num_pages, free_pages_.end());
      free_pages_.resize(free_pages_.size() - static_cast<std::size_t>(num_pages));
      run.target_slots = SlotMap::page_table(keep(pages_, pages).data(), case_.page_size, first_token, num_tokens);
      break;
    }
    case SlotKind::kPerToken:
    case SlotKind::kPerTokenWithSkips: {
      std::vector<pikv::Slot> slots(free_slots_.end() - num_tokens, free_slots_.end());
      free_slots_.resize(free_slots_.size() - count);
      if (case_.target_slots == SlotKind::kPerTokenWithSkips) {
        for (std::size_t i = 0; i < count; i += 3) slots[i] = pikv::kSkipSlot;
      }
      run.target_slots = SlotMap::per_token(keep(slots_, slots).data(), num_tokens);
      break;
    }
  }
  const std::int32_t last = case_.num_positions - 1;
  switch (case_.positions) {
    case PositionKind::kFromZero:
      run.positions = pikv::PositionMap::consecutive(0);
      break;
    case PositionKind::kUpToLast:
      run.positions = pikv::PositionMap::consecutive(case_.num_positions - static_cast<std::int32_t>(num_tokens));
      break;
    case PositionKind::kScattered: {
      std::vector<pikv::Position> positions(count);
      for (pikv::Position& position : positions) position = std::uniform_int_distribution(0, last)(random);
      const pikv::Position corners[] = {last, 1, 0};
      for (std::size_t i = 0; i < std::min<std::size_t>(3, count); ++i) positions[count - 1 - i] = corners[i];
      run.positions = pikv::PositionMap::per_token(keep(positions_, positions).data());
      break;
    }
  }
  for (std::int64_t token = 0; token < num_tokens; ++token) {
    const pikv::Slot target = run.target_slots.slot(token);
    if (target == pikv::kSkipSlot) continue;
    moved_.push_back({runs_.size(), run.source_slots.slot(token), target, run.positions.position(token)});
  }
  runs_.push_back(run);
}

}  // namespace test_support
