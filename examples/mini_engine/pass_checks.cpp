#include "pass_checks.hpp"

#include <algorithm>
#include <cstdint>
#include <string>

#include "error.hpp"

namespace mini_engine {

void check_ascending(std::string_view field, std::span<const std::int32_t> values, std::int64_t end) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= end) {
      throw Error("pass: " + std::string(field) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) +
                  ", not in [0, " + std::to_string(end) + ")");
    }
    if (i > 0 && values[i] <= values[i - 1]) {
      throw Error("pass: " + std::string(field) + "[" + std::to_string(i) + "] is " + std::to_string(values[i]) +
                  ", not above the one before it, " + std::to_string(values[i - 1]));
    }
  }
}

namespace {

void check_documents(std::span<const std::int32_t> documents, int sequence_size) {
  if (documents.empty()) return;
  if (documents.size() != static_cast<std::size_t>(sequence_size)) {
    throw Error("pass: " + std::to_string(documents.size()) + " documents for a sequence of " +
                std::to_string(sequence_size) + " rows");
  }
  for (std::size_t row = 0; row < documents.size(); ++row) {
    if (documents[row] < Pass::kSeesAll) {
      throw Error("pass: documents[" + std::to_string(row) + "] is " + std::to_string(documents[row]));
    }
  }
}

void check_pass(const Pass& pass, const Sequence& sequence, const ModelConfig& config, int num_positions) {
  const PagedCache& cache = sequence.cache();
  const std::size_t element_bytes = cache.precision() == Precision::kFloat32 ? 4 : 2;
  if (cache.strides().head != config.head_dim ||
      cache.strides().token != std::int64_t{config.num_kv_heads} * config.head_dim ||
      cache.size_bytes() != static_cast<std::size_t>(cache.strides().layer * config.num_layers) * element_bytes) {
    throw Error("pass: the KV cache was made for a model of other layers, heads or head size");
  }
  if (pass.tokens.size() != pass.rows.size()) {
    throw Error("pass: " + std::to_string(pass.tokens.size()) + " tokens for " + std::to_string(pass.rows.size()) +
                " rows");
  }
  check_ascending("rows", pass.rows, sequence.size());
  check_ascending("logit_rows", pass.logit_rows, static_cast<std::int64_t>(pass.rows.size()));
  check_documents(pass.documents, sequence.size());
  if (!pass.rows.empty() && pass.rows.back() >= num_positions) {
    throw Error("pass: position " + std::to_string(pass.rows.back()) + " is beyond the model's " +
                std::to_string(num_positions) + " positions");
  }
  for (std::size_t i = 0; i < pass.tokens.size(); ++i) {
    if (pass.tokens[i] >= static_cast<TokenId>(config.vocab_size)) {
      throw Error("pass: tokens[" + std::to_string(i) + "] is " + std::to_string(pass.tokens[i]) +
                  ", the vocabulary has " + std::to_string(config.vocab_size));
    }
  }
}

}  // namespace

void check_passes(std::span<const SequencePass> passes, const ModelConfig& config, int num_positions) {
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (passes[i].sequence == nullptr) throw Error("pass: no sequence");
    for (std::size_t j = 0; j < i; ++j) {
      if (passes[j].sequence == passes[i].sequence) throw Error("pass: a sequence stands twice in a batch");
    }
    check_pass(passes[i].pass, *passes[i].sequence, config, num_positions);
  }
}

void check_samplers(std::span<const SequencePass> passes, std::span<Sampler* const> samplers) {
  if (samplers.size() != passes.size()) {
    throw Error("pass: " + std::to_string(samplers.size()) + " samplers for " + std::to_string(passes.size()) +
                " passes");
  }
  for (std::size_t i = 0; i < passes.size(); ++i) {
    const std::size_t num_logit_rows = passes[i].pass.logit_rows.size();
    if (num_logit_rows == (samplers[i] == nullptr ? 0U : 1U)) continue;
    throw Error("pass: " + std::to_string(num_logit_rows) + " logit rows " +
                (samplers[i] == nullptr ? "without" : "with") + " a sampler");
  }
}

}  // namespace mini_engine
