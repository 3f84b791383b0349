// A stream of requests as a RAG service sees it: a few popular documents, in another order each time.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "mini_engine/serve/request.hpp"
#include "mini_engine/types.hpp"

namespace rag_bench {

struct WorkloadOptions {
  int num_documents = 200;
  int document_tokens = 512;
  int documents_per_request = 8;
  double zipf = 0.8;  ///< document r, from 1, is drawn with weight r^-zipf
  int question_tokens = 64;
  int new_tokens = 64;
  int vocab_size = 0;
  std::uint64_t seed = 1;
};

/// Documents are drawn without replacement within a request, which is why popular ones are drawn a little less often
/// than their weight says; their order is random.
class Workload {
 public:
  /// Throws Error for sizes that are not positive, and more documents per request than there are.
  explicit Workload(const WorkloadOptions& options);

  /// The same for an index whatever was asked for before: documents, then the question. No seed of two requests is the
  /// same, nor any question.
  [[nodiscard]] mini_engine::serve::Request request(std::uint64_t index) const;
  [[nodiscard]] std::vector<int> documents_of(std::uint64_t index) const;
  [[nodiscard]] std::vector<mini_engine::TokenId> document(int index) const;
  [[nodiscard]] const WorkloadOptions& options() const { return options_; }

 private:
  [[nodiscard]] std::vector<mini_engine::TokenId> tokens(std::uint64_t kind, std::uint64_t index, int count) const;

  WorkloadOptions options_;
  std::vector<double> sums_;  // of weights, up to and with each document
};

}  // namespace rag_bench
