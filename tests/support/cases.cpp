#include "support/cases.hpp"

#include <map>
#include <tuple>

namespace test_support {
namespace {

using pikv::AngleRule;
using pikv::DType;
using pikv::Pairing;

struct HeadShape {
  std::int32_t head_dim;
  std::int32_t rotary_dim;
  RopeKind rope;
  std::int32_t num_positions;
};

// One table each. The last position of a model of 128 Ki positions is among them, where angles are largest.
constexpr HeadShape kHeadShapes[] = {{128, 128, RopeKind::kLlama3, 131072}, {64, 64, RopeKind::kPlain, 131072},
                                     {80, 80, RopeKind::kYarn, 4096},       {96, 96, RopeKind::kLongRope, 4096},
                                     {80, 20, RopeKind::kLinear, 4096},     {128, 64, RopeKind::kDynamic, 4096},
                                     {14, 10, RopeKind::kPlain, 4096},      {6, 2, RopeKind::kLinear, 4096}};

const std::vector<std::vector<std::int64_t>> kRunTokens{{17}, {1}, {64}, {0}, {65, 0, 3}, {17, 64}};
constexpr DType kDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

/// Value `index` of a small set, for dimensions that are cycled through.
template <class Set>
auto pick(const Set& set, std::size_t index) {
  return set[index % std::size(set)];
}

std::vector<ReanchorCase> make_cases() {
  constexpr SlotKind kSlots[] = {SlotKind::kPageTable, SlotKind::kPerTokenWithSkips, SlotKind::kConsecutive,
                                 SlotKind::kPerToken};
  constexpr PositionKind kPositions[] = {PositionKind::kScattered, PositionKind::kUpToLast, PositionKind::kFromZero};
  constexpr std::int32_t kPageSizes[] = {16, 1, 7};
  constexpr std::int64_t kMisalignments[] = {0, 0, 1, 0, 3};
  std::vector<ReanchorCase> cases;
  for (const bool vary_target : {true, false}) {
    for (const LayoutKind layout : all_layouts()) {
      for (const DType source_dtype : kDTypes) {
        for (const DType target_dtype : kDTypes) {
          // Sizes of the sets cycled through are mostly coprime, so that their combinations keep changing.
          const std::size_t i = cases.size();
          const HeadShape shape = pick(kHeadShapes, i + i / 8);
          ReanchorCase c;
          c.geometry = {.num_layers = 3,
                        .num_kv_heads = static_cast<std::int32_t>(1 + i % 3),
                        .head_dim = shape.head_dim,
                        .rotary_dim = shape.rotary_dim,
                        .dtype = target_dtype};
          c.source_layout = vary_target ? LayoutKind::kSlab : layout;
          c.target_layout = vary_target ? layout : pick(all_layouts(), i);
          c.source_dtype = source_dtype;
          c.target_dtype = target_dtype;
          c.pairing = (i / 3) % 2 == 0 ? Pairing::kHalfSplit : Pairing::kInterleaved;
          c.angle_rule = shape.rope == RopeKind::kPlain || shape.rope == RopeKind::kYarn ? AngleRule::kExact
                                                                                         : AngleRule::kFp32Product;
          c.rope = shape.rope;
          c.num_positions = shape.num_positions;
          c.source_slots = vary_target ? SlotKind::kConsecutive : pick(kSlots, i + 2);
          if (c.source_slots == SlotKind::kPerTokenWithSkips) c.source_slots = SlotKind::kPerToken;
          c.target_slots = pick(kSlots, i);
          c.positions = pick(kPositions, i / 2);
          c.page_size = pick(kPageSizes, i);
          c.run_tokens = pick(kRunTokens, i + i / 6);
          c.misaligned_elements = pick(kMisalignments, i);
          c.layer_begin = i % 4 == 3 ? 1 : 0;
          c.layer_end = i % 5 == 4 ? 2 : 3;
          cases.push_back(c);
        }
      }
    }
  }
  return cases;
}

const char* rope_name(RopeKind rope) {
  switch (rope) {
    case RopeKind::kPlain:
      return "plain";
    case RopeKind::kLlama3:
      return "llama3";
    case RopeKind::kYarn:
      return "yarn";
    case RopeKind::kLongRope:
      return "longrope";
    case RopeKind::kLinear:
      return "linear";
    case RopeKind::kDynamic:
      return "dynamic";
  }
  return "unknown";
}

const char* slots_name(SlotKind slots) {
  switch (slots) {
    case SlotKind::kConsecutive:
      return "consecutive";
    case SlotKind::kPageTable:
      return "page_table";
    case SlotKind::kPerToken:
      return "per_token";
    case SlotKind::kPerTokenWithSkips:
      return "per_token_with_skips";
  }
  return "unknown";
}

}  // namespace

std::string ReanchorCase::name() const {
  std::string text = std::string(layout_name(source_layout)) + ":" + pikv::dtype_name(source_dtype) + ":" +
                     slots_name(source_slots) + " -> " + layout_name(target_layout) + ":" +
                     pikv::dtype_name(target_dtype) + ":" + slots_name(target_slots);
  text += " H=" + std::to_string(geometry.num_kv_heads) + " D=" + std::to_string(geometry.head_dim) +
          " r=" + std::to_string(geometry.rotary_dim) + " S=" + std::to_string(page_size);
  text += pairing == Pairing::kHalfSplit ? " half_split " : " interleaved ";
  text += rope_name(rope);
  text += " positions=" + std::to_string(static_cast<int>(positions)) + "/" + std::to_string(num_positions);
  text += " layers=[" + std::to_string(layer_begin) + "," + std::to_string(layer_end) +
          ") shift=" + std::to_string(misaligned_elements) + " tokens=";
  for (const std::int64_t num_tokens : run_tokens) text += std::to_string(num_tokens) + ",";
  return text;
}

const std::vector<ReanchorCase>& reanchor_cases() {
  static const std::vector<ReanchorCase> cases = make_cases();
  return cases;
}

pikv::RopeConfig rope_config_of(const ReanchorCase& c) {
  pikv::RopeConfig config(10000.0, c.pairing, c.angle_rule);
  const auto half_dim = static_cast<std::size_t>(c.geometry.rotary_dim / 2);
  switch (c.rope) {
    case RopeKind::kPlain:
      break;
    case RopeKind::kLlama3:
      config.theta = 500000.0;
      config.scaling =
          pikv::Llama3Scaling{.factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_positions = 8192};
      break;
    case RopeKind::kYarn:
      config.scaling = pikv::YarnScaling{.factor = 16, .original_max_positions = 1024};
      break;
    case RopeKind::kLongRope: {
      pikv::LongRopeScaling scaling{.short_factors = std::vector<float>(half_dim, 1.0F),
                                    .long_factors = std::vector<float>(half_dim, 1.0F),
                                    .original_max_positions = 1024,
                                    .factor = 4};
      for (std::size_t i = 0; i < half_dim; ++i) scaling.long_factors[i] = 1.0F + 0.25F * static_cast<float>(i);
      config.scaling = scaling;
      break;
    }
    case RopeKind::kLinear:
      config.scaling = pikv::LinearScaling{.factor = 4};
      break;
    case RopeKind::kDynamic:
      config.scaling = pikv::DynamicNtkScaling{.factor = 2, .original_max_positions = 2048};
      break;
  }
  return config;
}

const pikv::RopeTable& rope_table_of(const ReanchorCase& c) {
  using Key = std::tuple<RopeKind, Pairing, std::int32_t, std::int32_t>;
  static std::map<Key, pikv::RopeTable> tables;
  const Key key{c.rope, c.pairing, c.geometry.rotary_dim, c.num_positions};
  auto found = tables.find(key);
  if (found == tables.end()) {
    found =
        tables.emplace(key, pikv::RopeTable::build(rope_config_of(c), c.geometry.rotary_dim, c.num_positions).value())
            .first;
  }
  return found->second;
}

}  // namespace test_support
