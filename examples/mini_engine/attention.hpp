// Attention of some rows over a paged sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_buffer.hpp"
#include "attention_mask.hpp"
#include "config.hpp"
#include "matmul.hpp"
#include "paged_cache.hpp"
#include "thread_pool.hpp"

namespace mini_engine {

/// Softmax(q k^T / sqrt(D)) v in fp32 over whatever precision the cache has. Owns its scratch; one thread at a time.
/// The same call gives the same bits every time.
///
/// The query heads that share a KV head are stacked, so that K and V are read once for all of them. Many rows go
/// through OpenBLAS in blocks of rows, over K and V gathered out of the pages; a few rows read the pages directly and
/// split the keys into chunks, whose partial results are joined in a fixed order.
class Attention {
 public:
  Attention(const ModelConfig& config, ThreadPool& pool);

  /// queries: [R][Q][D] rotated; out: [R][Q][D], not overlapping queries. R is mask.rows().size(); the rows of the
  /// sequence up to the last of them must hold their K and V.
  void operator()(const Sequence& sequence, int layer, const AttentionMask& mask, InputRows queries, OutputRows out);

 private:
  struct Call;

  void few_rows(const Call& call);
  void many_rows(const Call& call);
  void gather(const Call& call, std::int32_t begin, std::int32_t end);
  void attend_block(const Call& call, int head, std::int64_t first, std::int64_t last, int thread);
  template <typename T>
  void attend_chunk(const Call& call, int head, int chunk, int thread);
  void join_chunks(const Call& call, int head, int num_chunks);

  struct Partial {
    float largest;
    float sum;
  };

  int num_kv_heads_;
  int group_;  // query heads per KV head
  int head_dim_;
  float factor_;  // 1 / sqrt(D)
  ThreadPool& pool_;
  AlignedBuffer<float> keys_;    // many rows: [H][N][D]
  AlignedBuffer<float> values_;  // many rows: [H][N][D]
  std::int32_t gathered_begin_ = 0;
  std::int64_t num_gathered_ = 0;
  AlignedBuffer<float> queries_;               // few rows: [H][R*group][D], scaled
  AlignedBuffer<float> partial_sums_;          // few rows: [H][chunks][R*group][D]
  std::vector<Partial> partials_;              // few rows: [H][chunks][R*group]
  std::vector<AlignedBuffer<float>> scratch_;  // by thread
};

}  // namespace mini_engine
