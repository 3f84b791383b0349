// The requests that are being computed together, and the steps that move them on.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/paged_cache.hpp"
#include "mini_engine/serve/metrics.hpp"
#include "mini_engine/serve/prompt_placer.hpp"
#include "mini_engine/serve/request.hpp"

namespace mini_engine::serve {

/// An accepted request and where its answer goes.
struct Job {
  Request request;
  std::shared_ptr<Reply> reply;
  std::chrono::steady_clock::time_point accepted_at;
};

/// Answers a job that is in no batch.
void end_job(const Job& job, ServeMetrics& metrics, EndReason reason, std::string message = {});

struct BatchOptions {
  int max_running = 16;
  int prefill_rows_per_step = 256;  ///< prompt rows in one step at most, over all requests
};

/// The rows that a request may come to hold: its prompt, and each token but the last that is fed back.
[[nodiscard]] std::int64_t max_rows(std::size_t prompt_size, int max_tokens, int num_positions);

/// Every running request has its pages set aside up to its last token, so that none can run out half-way.
/// Not thread-safe. Model, cache, placer and metrics must outlive it.
class RunningBatch {
 public:
  /// Throws Error for options below 1.
  RunningBatch(Model& model, PagedCache& cache, PromptPlacer& placer, ServeMetrics& metrics,
               const BatchOptions& options);
  ~RunningBatch();

  /// Whether the request could be admitted now.
  [[nodiscard]] bool has_room_for(const Request& request) const;
  /// Takes the job in and has its prompt placed. Requires: has_room_for(job.request). When that fails the job ends at
  /// once.
  void admit(Job job);
  /// One forward pass over every request whose turn it is: one token each of those that generate, and a share of the
  /// prompts that are not computed yet, in order of admission. Ends those that are done. Throws nothing of the model's,
  /// the placer's or the replies' own.
  void step();
  /// Ends all requests.
  void end_all(EndReason reason);
  [[nodiscard]] int size() const { return static_cast<int>(running_.size()); }

 private:
  struct Running;
  [[nodiscard]] std::int64_t num_pages_for(std::int64_t num_rows) const;
  [[nodiscard]] std::int64_t num_unreserved_pages() const;
  std::vector<Running*> plan_passes();
  void take_token(Running& running, const NextToken& next);
  void end(Running& running, EndReason reason, std::string message = {});
  void remove_ended();

  Model& model_;
  PagedCache& cache_;
  PromptPlacer& placer_;
  ServeMetrics& metrics_;
  BatchOptions options_;
  int num_positions_;
  std::vector<std::unique_ptr<Running>> running_;  // in order of admission
};

}  // namespace mini_engine::serve
