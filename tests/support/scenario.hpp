// A case made real: buffers, slot maps, positions and the transfer that joins them.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "support/cases.hpp"
#include "support/guarded_buffer.hpp"
#include "support/layouts.hpp"

namespace test_support {

/// One token that the transfer moves.
struct MovedToken {
  std::size_t run_index;
  pikv::Slot source;
  pikv::Slot target;
  pikv::Position position;
};

class Scenario {
 public:
  /// Sources hold finite random numbers, the target poison.
  Scenario(const ReanchorCase& c, std::uint32_t seed);
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;

  [[nodiscard]] const ReanchorCase& description() const { return case_; }
  [[nodiscard]] const pikv::KvTransfer& transfer() const { return transfer_; }
  [[nodiscard]] const std::vector<MovedToken>& moved() const { return moved_; }
  [[nodiscard]] const Placement& source_placement() const { return source_placement_; }
  [[nodiscard]] const Placement& target_placement() const { return target_placement_; }
  [[nodiscard]] const GuardedBuffer& source_buffer(std::size_t run_index) const { return *sources_[run_index]; }
  [[nodiscard]] GuardedBuffer& target_buffer() { return *target_; }
  [[nodiscard]] const GuardedBuffer& target_buffer() const { return *target_; }

 private:
  void add_run(std::int64_t num_tokens, std::int64_t first_target_slot, std::mt19937& random);

  ReanchorCase case_;
  Placement source_placement_;  // of every run; each has a buffer of its own
  Placement target_placement_;
  std::vector<std::unique_ptr<GuardedBuffer>> sources_;
  std::vector<std::unique_ptr<PlacedView>> source_views_;
  std::unique_ptr<GuardedBuffer> target_;
  std::unique_ptr<PlacedView> target_view_;
  std::vector<std::unique_ptr<std::vector<pikv::Slot>>> slots_;
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> pages_;
  std::vector<std::unique_ptr<std::vector<pikv::Position>>> positions_;
  std::vector<pikv::Slot> free_slots_;    // of the target, shuffled, for maps by token
  std::vector<std::int32_t> free_pages_;  // likewise for page tables
  std::vector<pikv::KvRun> runs_;
  std::vector<MovedToken> moved_;
  pikv::KvTransfer transfer_;
};

}  // namespace test_support
