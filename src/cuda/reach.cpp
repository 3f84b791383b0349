#include "cuda/reach.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

namespace pikv::detail {
namespace {

/// What decides how far the elements of a layer lie apart.
struct Reach {
  const KvLayout& layout;
  std::int64_t num_slots;
};
template <class Byte>
Reach as_reach(const BasicKvView<Byte>& view) noexcept {
  return {view.layout, view.num_slots};
}

/// Kernels count slots, and bytes within a slot's row, in 32 bits; see kernels::Plane.
Status check_reach(const std::string& field, const Reach& reach, const KvGeometry& geometry) {
  if (reach.num_slots > INT32_MAX) {
    return unsupported(field + " has " + std::to_string(reach.num_slots) + " slots, the CUDA backend serves up to " +
                       std::to_string(INT32_MAX));
  }
  const std::int64_t max_stride = std::int64_t{UINT32_MAX} / dtype_bytes(reach.layout.dtype);
  for (const AxisStrides* strides : {&reach.layout.k, &reach.layout.v}) {
    const std::int64_t longest = std::max(
        {strides->page, strides->token, strides->dim,
         strides->head > max_stride / geometry.num_kv_heads ? max_stride + 1 : strides->head * geometry.num_kv_heads});
    if (longest <= max_stride) continue;
    return unsupported(field + ".layout." + (strides == &reach.layout.k ? "k" : "v") +
                       ": the CUDA backend serves strides within a layer, and rows of heads, of less than 4 GiB");
  }
  return {};
}

Status check_reach(const std::string& field, const SlotMap& map) {
  if (map.num_tokens() <= INT32_MAX &&
      (map.kind() != SlotMap::Kind::kPageTable || map.first() <= INT32_MAX - map.num_tokens())) {
    return {};
  }
  return unsupported(field + " ends at token " + std::to_string(map.first() + map.num_tokens()) +
                     ", the CUDA backend counts up to " + std::to_string(INT32_MAX));
}

/// Blocks along the second and third axis of a grid.
constexpr std::int32_t kMaxGrid = 65'535;

Status check_heads(const std::string& owner, const KvGeometry& geometry, std::int32_t max_heads) {
  if (geometry.num_kv_heads <= max_heads) return {};
  return unsupported(owner + "geometry.num_kv_heads is " + std::to_string(geometry.num_kv_heads) +
                     ", the CUDA backend serves up to " + std::to_string(max_heads));
}

}  // namespace

Status check_reach(const KvTransfer& transfer) {
  PIKV_TRY(check_reach("KvTransfer: target", as_reach(transfer.target), transfer.geometry));
  for (std::size_t i = 0; i < transfer.runs.size(); ++i) {
    const KvRun& run = transfer.runs[i];
    const std::string field = "KvTransfer: runs[" + std::to_string(i) + "]";
    if (run.slab.data == nullptr) PIKV_TRY(check_reach(field + ".source", as_reach(run.source), transfer.geometry));
    PIKV_TRY(check_reach(field + ".source_slots", run.source_slots));
    PIKV_TRY(check_reach(field + ".target_slots", run.target_slots));
  }
  return {};
}

Status check_reach(const SlabEncode& encode) {
  PIKV_TRY(check_reach("SlabEncode: source", as_reach(encode.source), encode.geometry));
  return check_reach("SlabEncode: source_slots", encode.source_slots);
}

Status check_reach(const DeviationScoring& scoring) {
  const std::string owner = "DeviationScoring: ";
  PIKV_TRY(check_reach(owner + "fresh", as_reach(scoring.fresh), scoring.geometry));
  PIKV_TRY(check_reach(owner + "fresh_slots", scoring.fresh_slots));
  PIKV_TRY(check_reach(owner + "cached", as_reach(scoring.cached), scoring.geometry));
  return check_reach(owner + "cached_slots", scoring.cached_slots);
}

Status check_reach(const AttentionScoring& scoring) {
  const std::string owner = "AttentionScoring: ";
  PIKV_TRY(check_reach(owner + "keys", as_reach(scoring.keys), scoring.geometry));
  PIKV_TRY(check_reach(owner + "key_slots", scoring.key_slots));
  PIKV_TRY(check_heads(owner, scoring.geometry, kMaxGrid));
  const auto num_rows = static_cast<std::int64_t>(scoring.query_rows.size());
  if (num_rows <= INT32_MAX / scoring.num_query_heads) return {};
  return unsupported(owner + "query_rows has " + std::to_string(num_rows) + " rows of " +
                     std::to_string(scoring.num_query_heads) + " heads, the CUDA backend counts up to " +
                     std::to_string(INT32_MAX));
}

Status check_reach(const DriftWeighing& weighing) {
  const std::string owner = "DriftWeighing: ";
  PIKV_TRY(check_reach(owner + "cached", as_reach(weighing.cached), weighing.geometry));
  PIKV_TRY(check_reach(owner + "row_slots", weighing.row_slots));
  return check_heads(owner, weighing.geometry, kMaxGrid / 2);
}

Status check_reach(const DriftCorrection& correction) {
  const std::string owner = "DriftCorrection: ";
  PIKV_TRY(check_reach(owner + "fresh", as_reach(correction.fresh), correction.geometry));
  PIKV_TRY(check_reach(owner + "fresh_slots", correction.fresh_slots));
  PIKV_TRY(check_reach(owner + "cached", as_reach(correction.cached), correction.geometry));
  PIKV_TRY(check_reach(owner + "row_slots", correction.row_slots));
  return check_heads(owner, correction.geometry, kMaxGrid / 2);
}

}  // namespace pikv::detail
