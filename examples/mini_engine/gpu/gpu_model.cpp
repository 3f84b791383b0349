#include "gpu_model.hpp"

#include <cuda_bf16.h>

#include <algorithm>
#include <optional>
#include <string>

#include "attention.hpp"
#include "batch_layout.hpp"
#include "cudnn_attention.hpp"
#include "device.hpp"
#include "device_weights.hpp"
#include "linear.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/model_file.hpp"
#include "mini_engine/pass_checks.hpp"
#include "mini_engine/sampler.hpp"
#include "mini_engine/thread_pool.hpp"
#include "mini_engine/weights.hpp"
#include "observed_passes.hpp"
#include "ops.hpp"
#include "pass_graphs.hpp"
#include "sampling.hpp"

namespace mini_engine::gpu {
namespace {

/// Above, queueing a pass takes no longer than running it.
constexpr std::int64_t kMostRowsOfGraph = 512;

ModelConfig validated(ModelConfig config, const GpuModelOptions& options) {
  if (options.attention == AttentionKind::kCudnn) {
    if (options.precision != Precision::kBFloat16) throw Error("GPU engine: cuDNN's attention computes in bf16 alone");
    (void)CudnnAttention({config.num_heads, config.num_kv_heads, config.head_dim});  // not after minutes of loading
  }
  validate(config, config.name.empty() ? "model" : config.name);
  const auto check_multiple = [&](const char* field, int value) {
    if (value % 8 == 0) return;
    throw Error("GPU engine: " + std::string(field) + " is " + std::to_string(value) + ", not a multiple of 8");
  };
  check_multiple("hidden size", config.hidden_size);
  check_multiple("feed-forward size", config.ffn_size);
  check_multiple("head size", config.head_dim);
  check_multiple("vocabulary size", config.vocab_size);
  if (config.head_dim > 256) throw Error("GPU engine: heads of " + std::to_string(config.head_dim) + ", at most 256");
  return config;
}

/// Both precisions' types by one name.
template <class Call>
void with_type(Precision precision, const Call& call) {
  if (precision == Precision::kFloat32) {
    call(static_cast<float*>(nullptr));
  } else {
    call(static_cast<__nv_bfloat16*>(nullptr));
  }
}

}  // namespace

PagedCache make_device_cache(const ModelConfig& config, Precision precision, int num_pages, int page_size) {
  return PagedCache(config, precision, num_pages, page_size, CacheMemory::kDevice, [](std::size_t size_bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, size_bytes), "KV cache");
    const std::shared_ptr<std::byte> owned(static_cast<std::byte*>(memory), [](std::byte* p) { (void)cudaFree(p); });
    check(cudaMemset(memory, 0, size_bytes), "cudaMemset");
    return owned;
  });
}

struct GpuModel::Impl {
  ModelConfig config;
  Precision precision;
  std::int64_t element_bytes;
  Stream stream;
  RotaryTable rotary;
  DeviceBuffer cos, sin;
  DeviceWeights weights;
  Linear linear;
  HeadSizes sizes;
  Attention attention;
  std::optional<CudnnAttention> cudnn;
  bool is_cudnn_pass = false;
  bool records_graphs;
  BatchLayout batch;
  ObservedPasses observed;
  PassGraphs graphs;
  Sampling sampling;

  // Scratch of a batch, [R] rows each.
  DeviceBuffer hidden;         // [E] fp32, the residual stream: it sums over all layers
  DeviceBuffer normed;         // [E]
  DeviceBuffer projected;      // [Q*D + 2*H*D]
  DeviceBuffer attended;       // [Q*D]
  DeviceBuffer gate_up;        // [2F]
  DeviceBuffer activated;      // [F]
  DeviceBuffer chosen;         // [Q*D] of the rows whose logits are wanted
  DeviceBuffer chosen_hidden;  // [E] fp32 of those rows
  DeviceBuffer logits;         // [V] fp32 of those rows

  Impl(ModelConfig from, const GpuModelOptions& options, DeviceWeights made)
      : config(std::move(from)),
        precision(options.precision),
        element_bytes(options.precision == Precision::kFloat32 ? 4 : 2),
        rotary(make_rotary_table(config.rope, config.head_dim, config.max_positions)),
        weights(std::move(made)),
        linear(options.precision),
        sizes{config.num_heads, config.num_kv_heads, config.head_dim},
        attention(options.precision, sizes),
        records_graphs(options.records_graphs),
        observed(options.precision, sizes, config.hidden_size) {
    if (options.attention == AttentionKind::kCudnn) cudnn.emplace(sizes);
    upload(cos, std::span<const float>(rotary.cos), stream.get());
    upload(sin, std::span<const float>(rotary.sin), stream.get());
    stream.synchronize();
  }

  [[nodiscard]] std::int64_t query_size() const { return std::int64_t{sizes.num_heads} * sizes.head_dim; }
  [[nodiscard]] CacheLayer cache_layer(PagedCache& cache, int layer) const;
  void grow(std::int64_t num_rows, std::int64_t num_logit_rows);
  void plan_attention();
  void attend(const CacheLayer& cache, const void* queries, void* out);
  template <class T>
  void run(PagedCache& of);
  template <class T>
  void feed_forward(const DeviceWeights::Layer& layer, std::int64_t num_rows, float* residual);
  [[nodiscard]] bool is_small(std::span<const SequencePass> passes) const;
  [[nodiscard]] PassGraphs::Key graph_key(const PagedCache& cache) const;
  void compute(std::span<const SequencePass> passes);
  std::vector<std::vector<float>> forward(std::span<const SequencePass> passes);
  std::vector<NextToken> next_tokens(std::span<const SequencePass> passes, std::span<Sampler* const> samplers);
};

CacheLayer GpuModel::Impl::cache_layer(PagedCache& cache, int layer) const {
  const PagedCache::Strides& strides = cache.strides();
  return {.data = cache.data() + layer * strides.layer * element_bytes,
          .page_stride = strides.page,
          .token_stride = strides.token,
          .head_stride = strides.head,
          .value_offset = strides.value_offset,
          .page_size = cache.page_size(),
          .num_pages = cache.num_pages()};
}

void GpuModel::Impl::grow(std::int64_t num_rows, std::int64_t num_logit_rows) {
  const auto rows_of = [&](DeviceBuffer& buffer, std::int64_t rows, std::int64_t size) {
    buffer.grow(static_cast<std::size_t>(rows * size * element_bytes));
  };
  hidden.grow(static_cast<std::size_t>(num_rows * config.hidden_size) * sizeof(float));
  rows_of(normed, num_rows, config.hidden_size);
  rows_of(projected, num_rows, sizes.row());
  rows_of(attended, num_rows, query_size());
  rows_of(gate_up, num_rows, 2 * std::int64_t{config.ffn_size});
  rows_of(activated, num_rows, config.ffn_size);
  rows_of(chosen, num_logit_rows, query_size());
  chosen_hidden.grow(static_cast<std::size_t>(num_logit_rows * config.hidden_size) * sizeof(float));
  logits.grow(static_cast<std::size_t>(num_logit_rows * config.vocab_size) * sizeof(float));
}

/// Of the batch's rows, once for all layers that compute these.
void GpuModel::Impl::plan_attention() {
  is_cudnn_pass = cudnn.has_value() && batch.num_rows() > kMostRowsOfGraph &&
                  CudnnAttention::can_compute(batch.sequences(), batch.host_positions());
  if (!is_cudnn_pass) attention.plan(batch.sequences(), batch.host_positions(), stream.get());
}

void GpuModel::Impl::attend(const CacheLayer& cache, const void* queries, void* out) {
  const AttentionBatch arrays = batch.attention();
  if (is_cudnn_pass) {
    (*cudnn)(arrays, batch.sequences()[0], batch.host_positions().back() + 1, cache, queries, sizes.row(), out,
             stream.get());
  } else {
    attention(arrays, cache, queries, sizes.row(), out, stream.get());
  }
}

/// residual += down(silu(gate(normed)) * up(normed))
template <class T>
void GpuModel::Impl::feed_forward(const DeviceWeights::Layer& layer, std::int64_t num_rows, float* residual) {
  linear(normed.as<T>(), num_rows, layer.gate_up, gate_up.as<T>(), layer.gate_up.rows, stream.get());
  silu_multiply(gate_up.as<T>(), num_rows, config.ffn_size, activated.as<T>(), stream.get());
  linear.add_to(residual, activated.as<T>(), num_rows, layer.down, stream.get());
}

template <class T>
void GpuModel::Impl::run(PagedCache& of) {
  const cudaStream_t queue = stream.get();
  const std::int64_t size = config.hidden_size;
  std::int64_t num_rows = batch.num_rows();
  float* residual = hidden.as<float>();
  embed(static_cast<const T*>(weights.embedding().data), batch.tokens(), num_rows, size, residual, queue);
  for (int index = 0; index < config.num_layers; ++index) {
    observed.before_layer(index);
    const DeviceWeights::Layer& layer = weights.layer(index);
    rmsnorm(residual, num_rows, size, layer.attention_norm, config.rms_eps, normed.as<T>(), queue);
    linear(normed.as<T>(), num_rows, layer.query_key_value, projected.as<T>(), sizes.row(), queue);
    observed.show_projected(index, projected.as<T>());
    const bool lets_rows_go = observed.let_rows_go(index);
    const CacheLayer cache = cache_layer(of, index);
    rotate_and_store(projected.as<T>(), sizes, batch.positions(), batch.slots(), num_rows, cos.as<float>(),
                     sin.as<float>(), cache, queue);
    const void* turned = projected.as<T>();
    if (lets_rows_go) {
      observed.gather(residual, turned, queue);
      batch.assign(observed.passes(), queue);
      plan_attention();
      num_rows = batch.num_rows();
    }
    observed.attend(
        index, turned, attended.as<void>(), [&](void* out) { attend(cache, turned, out); }, queue);
    const T* values = attended.as<T>();
    if (index + 1 == config.num_layers) {  // only rows whose logits are wanted go on
      gather_rows(values, batch.logit_rows(), batch.num_logit_rows(), query_size(), chosen.as<T>(), queue);
      gather_rows(residual, batch.logit_rows(), batch.num_logit_rows(), size, chosen_hidden.as<float>(), queue);
      num_rows = batch.num_logit_rows();
      values = chosen.as<T>();
      residual = chosen_hidden.as<float>();
    }
    linear.add_to(residual, values, num_rows, layer.attention_output, queue);
    rmsnorm(residual, num_rows, size, layer.ffn_norm, config.rms_eps, normed.as<T>(), queue);
    feed_forward<T>(layer, num_rows, residual);
  }
  rmsnorm(residual, num_rows, size, weights.output_norm(), config.rms_eps, normed.as<T>(), queue);
  linear.to_float(normed.as<T>(), num_rows, weights.output_head(), logits.as<float>(), queue);
}

/// Whether the pass is worth a graph: queueing it takes longer than it runs, and nobody looks on.
bool GpuModel::Impl::is_small(std::span<const SequencePass> passes) const {
  return records_graphs && batch.num_rows() <= kMostRowsOfGraph && !batch.has_documents() &&
         std::none_of(passes.begin(), passes.end(),
                      [](const SequencePass& one) { return one.pass.observer != nullptr; });
}

PassGraphs::Key GpuModel::Impl::graph_key(const PagedCache& cache) const {
  PassGraphs::Key key = attention.signature();
  const auto add = [&](const void* p) { key.push_back(reinterpret_cast<std::uintptr_t>(p)); };
  const AttentionBatch arrays = batch.attention();
  for (const void* p : {static_cast<const void*>(batch.tokens()), static_cast<const void*>(batch.slots()),
                        static_cast<const void*>(batch.positions()), static_cast<const void*>(batch.logit_rows()),
                        static_cast<const void*>(arrays.pages), static_cast<const void*>(cache.data())}) {
    add(p);
  }
  for (const DeviceBuffer* buffer :
       {&hidden, &normed, &projected, &attended, &gate_up, &activated, &chosen, &chosen_hidden, &logits}) {
    add(buffer->as<void>());
  }
  key.push_back(static_cast<std::uint64_t>(batch.num_logit_rows()));
  key.push_back(static_cast<std::uint64_t>(cache.page_size()));
  key.push_back(static_cast<std::uint64_t>(cache.num_pages()));
  return key;
}

/// Leaves the logits in device memory, with the stream still at work.
void GpuModel::Impl::compute(std::span<const SequencePass> passes) {
  check_passes(passes, config, rotary.num_positions);
  for (const SequencePass& one : passes) {
    if (&one.sequence->cache() != &passes[0].sequence->cache() || one.sequence->cache().precision() != precision) {
      throw Error("GPU engine: all sequences of a batch must be of one cache of the model's precision");
    }
  }
  batch.assign(passes, stream.get());
  if (batch.num_rows() == 0) return;
  grow(batch.num_rows(), batch.num_logit_rows());
  plan_attention();
  observed.assign(passes);
  PagedCache& cache = passes[0].sequence->cache();
  const auto queue = [&] {
    with_type(precision, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(cache); });
  };
  if (is_small(passes)) {
    graphs.run(graph_key(cache), stream.get(), queue);
  } else {
    queue();
  }
}

std::vector<std::vector<float>> GpuModel::Impl::forward(std::span<const SequencePass> passes) {
  compute(passes);
  std::vector<std::vector<float>> out(passes.size());
  const float* row = logits.as<float>();
  for (std::size_t i = 0; i < passes.size(); ++i) {
    const std::size_t count = passes[i].pass.logit_rows.size() * static_cast<std::size_t>(config.vocab_size);
    out[i].resize(count);
    if (count == 0) continue;
    check(cudaMemcpyAsync(out[i].data(), row, count * sizeof(float), cudaMemcpyDeviceToHost, stream.get()),
          "cudaMemcpyAsync");
    row += count;
  }
  stream.synchronize();
  return out;
}

std::vector<NextToken> GpuModel::Impl::next_tokens(std::span<const SequencePass> passes,
                                                   std::span<Sampler* const> samplers) {
  check_samplers(passes, samplers);
  compute(passes);
  std::vector<Draw> draws;
  for (Sampler* const sampler : samplers) {
    if (sampler == nullptr) continue;
    const SamplerOptions& options = sampler->options();
    draws.push_back({.temperature = options.temperature,
                     .top_p = options.top_p,
                     .fraction = options.temperature == 0 ? 0.0 : sampler->draw_fraction()});
  }
  const std::vector<Drawn> drawn = sampling(logits.as<float>(), config.vocab_size, draws, stream.get());
  stream.synchronize();
  std::vector<NextToken> tokens(passes.size());
  auto next = drawn.begin();
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (samplers[i] == nullptr) continue;
    tokens[i].token = next->token;
    if (next->is_empty) tokens[i].error = "sampler: every logit is minus infinity";
    if (next->bad_logit != Drawn::kNone) {
      tokens[i].error = "sampler: logit of token " + std::to_string(next->bad_logit) + " is not a finite number";
    }
    ++next;
  }
  return tokens;
}

GpuModel::GpuModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GpuModel::~GpuModel() = default;
GpuModel::GpuModel(GpuModel&&) noexcept = default;
GpuModel& GpuModel::operator=(GpuModel&&) noexcept = default;

GpuModel::GpuModel(const ModelFile& file, const GpuModelOptions& options) {
  ThreadPool pool(options.num_loader_threads);
  const ModelConfig config = validated(file.config(), options);
  impl_ = std::make_unique<Impl>(config, options, DeviceWeights::load(file, options.precision, pool, options.progress));
}

GpuModel GpuModel::copy_of(const ModelConfig& config, const Weights& weights, const GpuModelOptions& options) {
  const ModelConfig checked = validated(config, options);
  return GpuModel(std::make_unique<Impl>(checked, options, DeviceWeights::upload(checked, weights, options.precision)));
}

GpuModel GpuModel::random(const ModelConfig& config, std::uint64_t seed, const GpuModelOptions& options) {
  const ModelConfig checked = validated(config, options);
  return GpuModel(std::make_unique<Impl>(checked, options, DeviceWeights::random(checked, seed, options.precision)));
}

const ModelConfig& GpuModel::config() const { return impl_->config; }
const RotaryTable& GpuModel::rotary() const { return impl_->rotary; }
cudaStream_t GpuModel::stream() const { return impl_->stream.get(); }
std::size_t GpuModel::weight_bytes() const { return impl_->weights.size_bytes(); }

std::vector<std::vector<float>> GpuModel::forward(std::span<const SequencePass> passes) {
  return impl_->forward(passes);
}

std::vector<NextToken> GpuModel::next_tokens(std::span<const SequencePass> passes, std::span<Sampler* const> samplers) {
  return impl_->next_tokens(passes, samplers);
}

}  // namespace mini_engine::gpu
