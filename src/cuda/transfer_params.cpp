#include "cuda/transfer_params.hpp"

#include <algorithm>

#include "cuda/planes.hpp"
#include "cuda/reach.hpp"

namespace pikv::detail {
namespace {

using kernels::Decoding;
using kernels::Divisor;
using kernels::Plane;
using kernels::ReanchorParams;
using kernels::Run;
using kernels::SourceKind;

static_assert(static_cast<int>(SourceKind::kFloat32) == static_cast<int>(DType::kFloat32) &&
              static_cast<int>(SourceKind::kFloat16) == static_cast<int>(DType::kFloat16) &&
              static_cast<int>(SourceKind::kBFloat16) == static_cast<int>(DType::kBFloat16) &&
              static_cast<int>(SourceKind::kFloat8E4M3) == static_cast<int>(DType::kFloat8E4M3));

constexpr std::int64_t kVectorChannels = kernels::kVectorChannels;

/// Transfers that write more than this leave nothing in a GPU's second-level cache that the next kernel could use.
constexpr std::int64_t kStreamFromBytes = std::int64_t{32} << 20;

bool has_layer_bases(const KvRun& run) noexcept { return run.slab.data == nullptr && run.source.k_layers != nullptr; }

SourceKind kind_of(const KvRun& run, const KvGeometry& geometry) noexcept {
  if (run.slab.data == nullptr) return static_cast<SourceKind>(run.source.layout.dtype);
  switch (run.slab.encoding.format) {
    case SlabFormat::kPlain:
      break;
    case SlabFormat::kFloat8:
      return SourceKind::kFloat8E4M3;
    case SlabFormat::kInt8:
      return SourceKind::kInt8;
    case SlabFormat::kInt4:
      return SourceKind::kInt4;
  }
  return static_cast<SourceKind>(geometry.dtype);
}

/// A view, with the base of layer 0; where layers have bases of their own, the caller puts them in.
void describe_view(const ConstKvView& view, Run& run) noexcept {
  const KvLayout& layout = view.layout;
  run.k = plane_of(view.k_base, layout.k, layout.dtype);
  run.v = plane_of(view.v_base, layout.v, layout.dtype);
  run.num_slots = view.num_slots;
  run.page_size = divisor_of(layout.page_size);
  if (layout.dtype != DType::kFloat8E4M3) return;
  constexpr std::int64_t kScaleBytes = sizeof(float);
  run.k_decoding.scales = reinterpret_cast<const std::byte*>(view.scales.k);
  run.v_decoding.scales = reinterpret_cast<const std::byte*>(view.scales.v);
  run.k_decoding.layer_bytes = run.v_decoding.layer_bytes = view.scales.layer_stride * kScaleBytes;
  run.k_decoding.head_bytes = run.v_decoding.head_bytes = view.scales.head_stride * kScaleBytes;
}

void describe_slab(const ConstSlabView& slab, const KvGeometry& geometry, Run& run) noexcept {
  const SlabFormat format = slab.encoding.format;
  if (format == SlabFormat::kPlain) return describe_view(plain_view(geometry, slab), run);
  const SlabSections sections = slab_sections(geometry, format, slab.num_tokens);
  // Bytes of a head; of int4 two channels share one.
  const std::int64_t head_bytes = format == SlabFormat::kInt4 ? (geometry.head_dim + 1) / 2 : geometry.head_dim;
  const std::int64_t row_bytes = head_bytes * geometry.num_kv_heads;
  run.k = Plane{.base = slab.data + sections.k_codes,
                .layer_bytes = sections.layer_bytes,
                .page_bytes = static_cast<std::uint32_t>(row_bytes),
                .token_bytes = static_cast<std::uint32_t>(row_bytes),
                .head_bytes = static_cast<std::uint32_t>(head_bytes),
                .dim_bytes = 1};
  run.v = run.k;
  run.v.base = slab.data + sections.v_codes;
  run.k_decoding = Decoding{.scales = slab.data + sections.k_scales,
                            .layer_bytes = sections.layer_bytes,
                            .head_bytes = sizeof(float),
                            .sinks = slab.data + sections.k_sinks,
                            .sink_layer_bytes = sections.layer_bytes};
  run.v_decoding = run.k_decoding;
  run.v_decoding.scales = slab.data + sections.v_scales;
  run.v_decoding.sinks = slab.data + sections.v_sinks;
  run.key_bias = slab.encoding.key_bias;
  run.num_slots = slab.num_tokens;
}

/// What eight channels of a source must be aligned to.
std::int64_t source_alignment(SourceKind kind) noexcept {
  switch (kind) {
    case SourceKind::kFloat8E4M3:
    case SourceKind::kInt8:
      return 8;
    case SourceKind::kInt4:
      return 4;
    default:
      return 16;
  }
}

/// Whether keys, or values, of every run of a launch can be moved by vectors.
bool fits_vectors(const ReanchorLaunch& launch, bool keys) noexcept {
  const ReanchorParams& params = launch.params;
  if (params.head_dim % kVectorChannels != 0) return false;
  if (keys && params.rope.half_dim % kVectorChannels != 0) return false;
  if (keys && reinterpret_cast<std::uintptr_t>(params.rope.values) % 16 != 0) return false;
  const Plane& target = keys ? params.target.k : params.target.v;
  const std::int64_t target_bytes = dtype_bytes(launch.target);
  const std::int64_t alignment = std::min<std::int64_t>(16, kVectorChannels * target_bytes);
  if (target.dim_bytes != target_bytes || !is_aligned(target, params.target.page_size, alignment)) return false;
  for (std::int32_t layer = 0; layer < params.num_layers; ++layer) {
    const std::byte* const base = keys ? params.target.k_layers[layer] : params.target.v_layers[layer];
    if (reinterpret_cast<std::uintptr_t>(base) % static_cast<std::uintptr_t>(alignment) != 0) return false;
  }
  const std::int64_t element_bytes =
      launch.source <= SourceKind::kFloat8E4M3 ? dtype_bytes(static_cast<DType>(launch.source)) : std::int64_t{1};
  return std::all_of(params.runs, params.runs + params.num_runs, [&](const Run& run) {
    const Plane& plane = keys ? run.k : run.v;
    return plane.dim_bytes == element_bytes && is_aligned(plane, run.page_size, source_alignment(launch.source));
  });
}

/// Requires: vectors fit both planes.
bool fits_stripes(const ReanchorLaunch& launch) noexcept {
  const ReanchorParams& params = launch.params;
  const bool is_16_bit_copy = static_cast<int>(launch.source) == static_cast<int>(launch.target) &&
                              (launch.target == DType::kFloat16 || launch.target == DType::kBFloat16);
  const std::int32_t head_vectors = params.head_dim / kernels::kVectorChannels;
  const bool is_power_of_two = (head_vectors & (head_vectors - 1)) == 0;
  const bool turns_whole_heads = params.rope.half_dim == 0 || 2 * params.rope.half_dim == params.head_dim;
  return is_16_bit_copy && turns_whole_heads && is_power_of_two && head_vectors >= 2 &&
         head_vectors <= kernels::kWarpLanes && params.num_kv_heads * head_vectors % kernels::kStripeVectors == 0;
}

/// The launches of one kind of source: gathers runs until a launch is full.
class LaunchSequence {
 public:
  LaunchSequence(const KvTransfer& transfer, SourceKind kind, bool turns_back, std::uint32_t* flaws,
                 const std::function<Status(const ReanchorLaunch&)>& launch)
      : transfer_(transfer), launch_(launch) {
    next_.source = kind;
    next_.target = transfer.target.layout.dtype;
    ReanchorParams& params = next_.params;
    const KvLayout& layout = transfer.target.layout;
    params.target.k = plane_of(nullptr, layout.k, layout.dtype);
    params.target.v = plane_of(nullptr, layout.v, layout.dtype);
    params.target.k.layer_bytes = params.target.v.layer_bytes = 0;
    params.target.scales = transfer.target.scales;
    params.target.num_slots = transfer.target.num_slots;
    params.target.page_size = divisor_of(layout.page_size);
    params.rope = transfer.rope;
    params.turns_back = turns_back;
    params.inverse_square = turns_back ? transfer.rope.inverse_square : 1.0F;
    params.num_kv_heads = transfer.geometry.num_kv_heads;
    params.head_dim = transfer.geometry.head_dim;
    params.flaws = flaws;
  }

  [[nodiscard]] Status add(const KvRun& run) {
    ReanchorParams& params = next_.params;
    sources_[params.num_runs] = &run;
    Run& described = params.runs[params.num_runs++];
    described = Run{};
    if (run.slab.data != nullptr) {
      describe_slab(run.slab, transfer_.geometry, described);
    } else {
      describe_view(run.source, described);
    }
    described.source_slots = run.source_slots;
    described.target_slots = run.target_slots;
    described.source_table_page = divisor_of(run.source_slots.page_size());
    described.target_table_page = divisor_of(run.target_slots.page_size());
    described.positions = run.positions;
    return params.num_runs == kernels::kMaxRuns ? flush() : Status();
  }

  [[nodiscard]] Status flush() {
    ReanchorParams& params = next_.params;
    if (params.num_runs == 0) return {};
    const bool layer_by_layer =
        std::any_of(sources_, sources_ + params.num_runs, [](const KvRun* run) { return has_layer_bases(*run); });
    const std::int32_t step = layer_by_layer ? 1 : kernels::kMaxLayers;
    for (std::int32_t layer = transfer_.layer_begin; layer < transfer_.layer_end; layer += step) {
      set_layers(layer, std::min(layer + step, transfer_.layer_end));
      PIKV_TRY(launch_planes());
    }
    params.num_runs = 0;
    return {};
  }

 private:
  void set_layers(std::int32_t begin, std::int32_t end) noexcept {
    ReanchorParams& params = next_.params;
    params.layer_begin = begin;
    params.num_layers = end - begin;
    for (std::int32_t layer = begin; layer < end; ++layer) {
      params.target.k_layers[layer - begin] = transfer_.target.k_layer(layer);
      params.target.v_layers[layer - begin] = transfer_.target.v_layer(layer);
    }
    for (std::int32_t i = 0; i < params.num_runs; ++i) {
      if (!has_layer_bases(*sources_[i])) continue;
      params.runs[i].k.base = sources_[i]->source.k_layer(begin);
      params.runs[i].v.base = sources_[i]->source.v_layer(begin);
      params.runs[i].k.layer_bytes = params.runs[i].v.layer_bytes = 0;
    }
  }

  /// Both planes together where one kernel serves both.
  [[nodiscard]] Status launch_planes() {
    const auto path = [](bool fits) { return fits ? KernelPath::kVectors : KernelPath::kElements; };
    const bool keys = fits_vectors(next_, /*keys=*/true);
    const bool values = fits_vectors(next_, /*keys=*/false);
    if (keys != values) {
      PIKV_TRY(launch_one(kernels::kKeys, path(keys)));
      return launch_one(kernels::kValues, path(values));
    }
    return launch_one(kernels::kKeys | kernels::kValues,
                      keys && fits_stripes(next_) ? KernelPath::kStripes : path(keys));
  }

  [[nodiscard]] Status launch_one(int planes, KernelPath path) {
    next_.params.planes = static_cast<std::uint8_t>(planes);
    next_.path = path;
    ReanchorParams& params = next_.params;
    if (path == KernelPath::kStripes) {
      const std::int32_t head_vectors = params.head_dim / kernels::kVectorChannels;
      params.head_units = divisor_of(head_vectors);
      params.row_units = divisor_of(params.num_kv_heads * head_vectors / kernels::kStripeVectors);
      params.heads_apart = static_cast<std::uint32_t>(kernels::kWarpLanes / head_vectors);
    } else {
      const std::int32_t half_dim = planes == kernels::kValues ? 0 : params.rope.half_dim;
      params.unit_half_dim = static_cast<std::uint32_t>(half_dim);
      params.head_units = divisor_of(kernels::units_per_head(params.head_dim, half_dim));
      params.row_units = divisor_of(static_cast<std::int32_t>(params.head_units.value) * params.num_kv_heads);
    }
    assign_blocks();
    return launch_(next_);
  }

  void assign_blocks() noexcept {
    ReanchorParams& params = next_.params;
    std::int64_t num_tokens = 0;
    params.num_blocks = 0;
    std::fill(std::begin(params.first_blocks), std::end(params.first_blocks), INT32_MAX);
    for (std::int32_t i = 0; i < params.num_runs; ++i) {
      const std::int64_t run_tokens = params.runs[i].target_slots.num_tokens();
      params.first_blocks[i] = params.num_blocks;
      params.num_blocks += static_cast<std::int32_t>(blocks_of(run_tokens));
      num_tokens += run_tokens;
    }
    const std::int64_t row_bytes = std::int64_t{2} * params.num_kv_heads * params.head_dim * dtype_bytes(next_.target);
    params.streams = num_tokens * params.num_layers * row_bytes >= kStreamFromBytes;
  }

  [[nodiscard]] std::int64_t blocks_of(std::int64_t num_tokens) const noexcept {
    const ReanchorParams& params = next_.params;
    switch (next_.path) {
      case KernelPath::kStripes:
        return blocks_for(num_tokens * params.row_units.value * kernels::kWarpLanes, kernels::kThreads);
      case KernelPath::kVectors:
        return blocks_for(num_tokens * params.row_units.value, kernels::kThreads);
      case KernelPath::kElements:
        break;
    }
    return blocks_for(num_tokens, kernels::kElementBlockTokens);
  }

  [[nodiscard]] static constexpr std::int64_t blocks_for(std::int64_t count, std::int64_t size) noexcept {
    return (count + size - 1) / size;
  }

  const KvTransfer& transfer_;
  const std::function<Status(const ReanchorLaunch&)>& launch_;
  ReanchorLaunch next_{};
  const KvRun* sources_[kernels::kMaxRuns]{};
};

}  // namespace

Status for_each_launch(const KvTransfer& transfer, bool turns_back, std::uint32_t* flaws,
                       const std::function<Status(const ReanchorLaunch&)>& launch) {
  PIKV_TRY(check_reach(transfer));
  for (int i = 0; i < kernels::kNumSourceKinds; ++i) {
    const auto kind = static_cast<SourceKind>(i);
    const auto is_due = [&](const KvRun& run) {
      return run.target_slots.num_tokens() > 0 && kind_of(run, transfer.geometry) == kind;
    };
    if (std::none_of(transfer.runs.begin(), transfer.runs.end(), is_due)) continue;
    LaunchSequence sequence(transfer, kind, turns_back, flaws, launch);
    for (const KvRun& run : transfer.runs) {
      if (is_due(run)) PIKV_TRY(sequence.add(run));
    }
    PIKV_TRY(sequence.flush());
  }
  return {};
}

Status for_each_launch(const SlabEncode& encode, std::uint32_t* flaws,
                       const std::function<Status(const kernels::EncodeParams&)>& launch) {
  PIKV_TRY(check_reach(encode));
  const ConstKvView& source = encode.source;
  kernels::EncodeParams params;
  params.k = plane_of(source.k_base, source.layout.k, source.layout.dtype);
  params.v = plane_of(source.v_base, source.layout.v, source.layout.dtype);
  params.source = static_cast<SourceKind>(source.layout.dtype);
  params.source_scales = source.scales;
  params.source_slots = encode.source_slots;
  params.source_table_page = divisor_of(encode.source_slots.page_size());
  params.positions = encode.positions;
  params.rope = encode.rope;
  params.num_slots = source.num_slots;
  params.page_size = divisor_of(source.layout.page_size);
  params.slab = encode.target.data;
  params.sections = slab_sections(encode.geometry, encode.target.encoding.format, encode.target.num_tokens);
  params.format = encode.target.encoding.format;
  params.key_bias = encode.target.encoding.key_bias;
  params.num_tokens = encode.target.num_tokens;
  params.num_kv_heads = encode.geometry.num_kv_heads;
  params.head_dim = encode.geometry.head_dim;
  params.flaws = flaws;
  const std::int32_t step = source.k_layers != nullptr ? 1 : encode.layer_end - encode.layer_begin;
  for (std::int32_t layer = encode.layer_begin; layer < encode.layer_end; layer += step) {
    params.layer_begin = layer;
    params.num_layers = step;
    if (source.k_layers != nullptr) {
      params.k.base = source.k_layer(layer);
      params.v.base = source.v_layer(layer);
      params.k.layer_bytes = params.v.layer_bytes = 0;
    }
    PIKV_TRY(launch(params));
  }
  return {};
}

}  // namespace pikv::detail
