// A few popular documents, in another order each time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rag_bench/workload.hpp"

namespace rag_bench {

struct ZipfOptions {
  int num_documents = 200;
  int document_tokens = 512;
  int documents_per_request = 8;
  double zipf = 0.8;  ///< document r, from 1, is drawn with weight r^-zipf
  int question_tokens = 64;
  int new_tokens = 64;
  int vocab_size = 0;
  std::uint64_t seed = 1;
};

/// Documents, then a question. Documents are drawn without replacement within a request, which is why popular ones are
/// drawn a little less often than their weight says; their order is random. No two questions are the same.
class ZipfWorkload final : public Workload {
 public:
  /// Throws Error for sizes that are not positive, and more documents per request than there are.
  explicit ZipfWorkload(const ZipfOptions& options);

  [[nodiscard]] mini_engine::serve::Request request(std::uint64_t index) const override;
  [[nodiscard]] std::vector<mini_engine::TokenId> document(std::int64_t index) const override;
  [[nodiscard]] WorkloadSize size() const override;
  /// Not known.
  [[nodiscard]] std::optional<double> arrival(std::uint64_t) const override { return std::nullopt; }
  [[nodiscard]] std::string description() const override;

  [[nodiscard]] std::vector<int> documents_of(std::uint64_t index) const;

 private:
  ZipfOptions options_;
  std::vector<double> sums_;  // of weights, up to and with each document
};

}  // namespace rag_bench
