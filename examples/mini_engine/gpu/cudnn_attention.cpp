#include "cudnn_attention.hpp"

#include <cudnn_frontend.h>

#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mini_engine/error.hpp"

namespace mini_engine::gpu {
namespace {

namespace fe = cudnn_frontend;

/// A graph holds little; a server's prompts have many lengths.
constexpr std::size_t kMostGraphs = 64;

enum Tensor : std::int64_t { kQueries = 1, kKeys, kValues, kKeyPages, kValuePages, kNumQueries, kNumKeys, kOut };

void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw Error(std::string(what) + ": " + fe::detail::get_error_string(status));
}
void check(fe::error_t error, const char* what) {
  if (error.is_bad()) throw Error(std::string("cuDNN's attention: ") + what + ": " + error.get_message());
}

/// Everything that a graph is built for.
struct Shape {
  std::int64_t num_rows, num_keys, query_stride;
  std::int64_t page_stride, token_stride, head_stride, page_size, num_pages;
  auto operator<=>(const Shape&) const = default;
};

fe::graph::Tensor_attributes tensor(Tensor uid, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
                                    fe::DataType_t type = fe::DataType_t::BFLOAT16) {
  return fe::graph::Tensor_attributes().set_uid(uid).set_dim(shape).set_stride(strides).set_data_type(type);
}

std::shared_ptr<fe::graph::Graph> build(cudnnHandle_t handle, const HeadSizes& sizes, const Shape& s) {
  const std::int64_t heads = sizes.num_heads;
  const std::int64_t kv_heads = sizes.num_kv_heads;
  const std::int64_t size = sizes.head_dim;
  const std::int64_t table = (s.num_keys + s.page_size - 1) / s.page_size;
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto pages_of = [&](Tensor uid) {
    return graph->tensor(
        tensor(uid, {s.num_pages, kv_heads, s.page_size, size}, {s.page_stride, s.head_stride, s.token_stride, 1}));
  };
  const auto table_of = [&](Tensor uid) {
    return graph->tensor(tensor(uid, {1, 1, table, 1}, {table, table, 1, 1}, fe::DataType_t::INT32));
  };
  const auto count_of = [&](Tensor uid) {
    return graph->tensor(tensor(uid, {1, 1, 1, 1}, {1, 1, 1, 1}, fe::DataType_t::INT32));
  };
  const auto queries = graph->tensor(
      tensor(kQueries, {1, heads, s.num_rows, size}, {s.num_rows * s.query_stride, size, s.query_stride, 1}));
  auto options = fe::graph::SDPA_attributes()
                     .set_name("attention")
                     .set_generate_stats(false)
                     .set_attn_scale(1.0F / std::sqrt(static_cast<float>(size)))
                     .set_padding_mask(true)
                     .set_seq_len_q(count_of(kNumQueries))
                     .set_seq_len_kv(count_of(kNumKeys))
                     .set_causal_mask_bottom_right(true)
                     .set_paged_attention_k_table(table_of(kKeyPages))
                     .set_paged_attention_v_table(table_of(kValuePages))
                     .set_paged_attention_max_seq_len_kv(static_cast<int>(s.num_keys));
  auto [out, statistics] = graph->sdpa(queries, pages_of(kKeys), pages_of(kValues), options);
  out->set_output(true)
      .set_uid(kOut)
      .set_dim({1, heads, s.num_rows, size})
      .set_stride({s.num_rows * heads * size, size, heads * size, 1});
  check(graph->build(handle, {fe::HeurMode_t::A}), "cannot build its graph");
  return graph;
}

}  // namespace

bool has_cudnn_attention() { return true; }

struct CudnnAttention::Impl {
  explicit Impl(const HeadSizes& head_sizes) : sizes(head_sizes), lengths(2 * sizeof(std::int32_t)) {
    check(fe::detail::create_handle(&handle), "cudnnCreate");
  }
  ~Impl() { (void)fe::detail::destroy_handle(handle); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  fe::graph::Graph& graph_of(const Shape& shape) {
    const auto known = graphs.find(shape);
    if (known != graphs.end()) return *known->second;
    std::shared_ptr<fe::graph::Graph> made = build(handle, sizes, shape);
    if (graphs.size() >= kMostGraphs) graphs.clear();
    return *graphs.emplace(shape, std::move(made)).first->second;
  }

  HeadSizes sizes;
  cudnnHandle_t handle = nullptr;
  std::map<Shape, std::shared_ptr<fe::graph::Graph>> graphs;
  DeviceBuffer lengths;  // of queries, of keys
  std::array<std::int32_t, 2> last_lengths{};
  DeviceBuffer workspace;
};

CudnnAttention::CudnnAttention(const HeadSizes& sizes) : impl_(std::make_unique<Impl>(sizes)) {}
CudnnAttention::~CudnnAttention() = default;
CudnnAttention::CudnnAttention(CudnnAttention&&) noexcept = default;
CudnnAttention& CudnnAttention::operator=(CudnnAttention&&) noexcept = default;

void CudnnAttention::operator()(const AttentionBatch& batch, const AttentionSequence& sequence, std::int32_t num_keys,
                                const CacheLayer& cache, const void* queries, std::int64_t query_stride, void* out,
                                cudaStream_t stream) {
  Impl& impl = *impl_;
  fe::graph::Graph& graph = impl.graph_of({.num_rows = sequence.num_rows,
                                           .num_keys = num_keys,
                                           .query_stride = query_stride,
                                           .page_stride = cache.page_stride,
                                           .token_stride = cache.token_stride,
                                           .head_stride = cache.head_stride,
                                           .page_size = cache.page_size,
                                           .num_pages = cache.num_pages});
  check(fe::detail::set_stream(impl.handle, stream), "cudnnSetStream");
  const std::array<std::int32_t, 2> lengths = {sequence.num_rows, num_keys};
  if (lengths != impl.last_lengths) {  // once a pass, not once a layer
    upload(impl.lengths.as<std::int32_t>(), lengths.data(), sizeof lengths, stream);
    impl.last_lengths = lengths;
  }
  std::int64_t workspace_bytes = 0;
  check(graph.get_workspace_size(workspace_bytes), "cannot tell its workspace");
  impl.workspace.grow(static_cast<std::size_t>(workspace_bytes));
  const std::size_t element_bytes = sizeof(std::uint16_t);
  void* const pages = const_cast<std::int32_t*>(batch.pages + sequence.first_page);
  std::unordered_map<std::int64_t, void*> pointers = {
      {kQueries, const_cast<void*>(queries)},
      {kKeys, cache.data},
      {kValues, static_cast<std::byte*>(cache.data) + static_cast<std::size_t>(cache.value_offset) * element_bytes},
      {kKeyPages, pages},
      {kValuePages, pages},
      {kNumQueries, impl.lengths.as<std::int32_t>()},
      {kNumKeys, impl.lengths.as<std::int32_t>() + 1},
      {kOut, out}};
  check(graph.execute(impl.handle, pointers, impl.workspace.as<void>()), "cannot run");
}

}  // namespace mini_engine::gpu
