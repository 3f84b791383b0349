// A stream of requests as a RAG service sees it. Tokens are made up; which documents meet in a prompt, in what order and
// how long they are is not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mini_engine/serve/request.hpp"
#include "mini_engine/types.hpp"

namespace rag_bench {

/// What memory has to be there for.
struct WorkloadSize {
  std::int64_t num_documents = 0;
  std::int64_t document_tokens = 0;  ///< of all documents
  int max_document_tokens = 0;
  int max_prompt_tokens = 0;
  int max_new_tokens = 0;
};

/// Immutable; may be asked by several threads.
class Workload {
 public:
  virtual ~Workload() = default;

  /// The same for an index whatever was asked for before.
  [[nodiscard]] virtual mini_engine::serve::Request request(std::uint64_t index) const = 0;
  /// Document `index` of size().num_documents.
  [[nodiscard]] virtual std::vector<mini_engine::TokenId> document(std::int64_t index) const = 0;
  [[nodiscard]] virtual WorkloadSize size() const = 0;
  /// Seconds after the first request that request `index` came, if that is known; never less than of the one before.
  [[nodiscard]] virtual std::optional<double> arrival(std::uint64_t index) const = 0;
  /// A JSON object that says what this is.
  [[nodiscard]] virtual std::string description() const = 0;
};

}  // namespace rag_bench
