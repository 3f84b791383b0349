#include "support/drift_cases.hpp"

namespace test_support {
namespace {

using pikv::DType;

std::string describe(const DriftCase& c) {
  const pikv::KvGeometry& g = c.geometry;
  std::string name = std::string(layout_name(c.layout)) + " " + pikv::dtype_name(g.dtype) + ", fresh " +
                     pikv::dtype_name(c.fresh_dtype) + ", " + std::to_string(g.num_kv_heads) + " heads of " +
                     std::to_string(g.head_dim) + ", " + (c.turns ? "turning " : "not turning ") +
                     std::to_string(g.rotary_dim) +
                     (c.pairing == pikv::Pairing::kInterleaved ? " interleaved" : " half-split") + ", gains " +
                     std::to_string(c.key_gain) + " " + std::to_string(c.value_gain) + ", noise " +
                     std::to_string(c.noise) + ", " + std::to_string(c.num_samples) + " samples, " +
                     std::to_string(c.num_targets) + " targets, seed " + std::to_string(c.seed);
  return name;
}

std::vector<DriftCase> make_cases() {
  struct Heads {
    std::int32_t num_kv_heads;
    std::int32_t head_dim;
    std::int32_t rotary_dim;
  };
  constexpr Heads kHeads[] = {{3, 64, 64}, {2, 128, 128}, {2, 80, 80}, {1, 80, 32}, {1, 256, 256}, {3, 64, 32},
                              {1, 7, 6},   {2, 128, 64},  {1, 24, 24}, {2, 96, 48}, {5, 8, 8},     {1, 136, 16}};
  constexpr LayoutKind kLayouts[] = {
      LayoutKind::kNhd,           LayoutKind::kHnd,      LayoutKind::kFusedNhd,         LayoutKind::kTokenPool,
      LayoutKind::kRandomStrides, LayoutKind::kFusedHnd, LayoutKind::kTransposedValues, LayoutKind::kStridedChannels,
      LayoutKind::kPaddedHeads};
  constexpr DType kDTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  constexpr SlotKind kSlotKinds[] = {SlotKind::kPageTable, SlotKind::kPerToken, SlotKind::kConsecutive};
  constexpr std::int32_t kSamples[] = {1, 2, 3, 8, 33, 64, 70, 129};
  constexpr std::int32_t kTargets[] = {0, 1, 2, 31, 33, 70};
  constexpr float kGains[] = {1.0F, 1.0F, 0.5F, 0.0F};
  std::mt19937 random(23);
  std::vector<DriftCase> cases;
  const auto add = [&](const Heads& heads, LayoutKind layout, DType dtype, std::int32_t num_samples,
                       std::int32_t num_targets) {
    DriftCase c;
    c.geometry = {.num_layers = 2,
                  .num_kv_heads = heads.num_kv_heads,
                  .head_dim = heads.head_dim,
                  .rotary_dim = heads.rotary_dim,
                  .dtype = dtype};
    c.layer = static_cast<std::int32_t>(random() % 2);
    c.layout = layout;
    c.page_size = layout == LayoutKind::kTokenPool ? 1 : 16;
    c.slots = layout == LayoutKind::kTokenPool ? SlotKind::kPerToken : kSlotKinds[random() % 3];
    c.fresh_dtype = random() % 2 == 0 ? dtype : kDTypes[random() % 3];
    c.pairing = random() % 2 == 0 ? pikv::Pairing::kHalfSplit : pikv::Pairing::kInterleaved;
    c.turns = random() % 8 != 0;
    c.key_gain = kGains[random() % 4];
    c.value_gain = kGains[random() % 4];
    c.noise = random() % 4 == 0 ? 0.05F : 1.0F / 3;
    c.other_chunks = static_cast<float>(random() % 5) / 4;
    c.num_samples = num_samples;
    c.num_targets = num_targets;
    c.num_other_rows = static_cast<std::int32_t>(random() % 20);
    c.seed = static_cast<std::uint32_t>(cases.size());
    c.name = describe(c);
    cases.push_back(std::move(c));
  };
  for (const LayoutKind layout : kLayouts) {
    for (const DType dtype : kDTypes) {
      for (const Heads& heads : kHeads) {
        add(heads, layout, dtype, kSamples[random() % 8], kTargets[random() % 6]);
      }
    }
  }
  for (const DType dtype : kDTypes) {
    add(kHeads[0], LayoutKind::kNhd, dtype, 0, 0);
    add(kHeads[0], LayoutKind::kHnd, dtype, 0, 9);
    add(kHeads[1], LayoutKind::kFusedNhd, dtype, 17, 0);
    add(kHeads[1], LayoutKind::kNhd, dtype, 302, 2'000);
  }
  return cases;
}

}  // namespace

const std::vector<DriftCase>& drift_cases() {
  static const std::vector<DriftCase> cases = make_cases();
  return cases;
}

}  // namespace test_support
