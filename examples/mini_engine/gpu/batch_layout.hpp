// The passes of a batch as the arrays that kernels read, put together on the host and uploaded in one copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "attention.hpp"
#include "device.hpp"
#include "mini_engine/model.hpp"

namespace mini_engine::gpu {

class BatchLayout {
 public:
  /// Requires: checked passes. Queues the upload on `stream`; the arrays are valid until the next call.
  void assign(std::span<const SequencePass> passes, cudaStream_t stream);

  [[nodiscard]] std::int64_t num_rows() const { return num_rows_; }
  [[nodiscard]] std::int64_t num_logit_rows() const { return num_logit_rows_; }
  [[nodiscard]] const TokenId* tokens() const { return at<TokenId>(tokens_); }                  ///< [R]
  [[nodiscard]] const std::int64_t* slots() const { return at<std::int64_t>(slots_); }          ///< [R]
  [[nodiscard]] const std::int32_t* positions() const { return at<std::int32_t>(positions_); }  ///< [R]
  /// Of the batch's rows, those whose logits are wanted, pass by pass.
  [[nodiscard]] const std::int32_t* logit_rows() const { return at<std::int32_t>(logit_rows_); }
  [[nodiscard]] AttentionBatch attention() const;
  [[nodiscard]] bool has_documents() const { return has_documents_; }
  /// On the host.
  [[nodiscard]] std::span<const AttentionSequence> sequences() const { return host_sequences_; }
  [[nodiscard]] std::span<const std::int32_t> host_positions() const { return host_positions_; }

 private:
  template <class T>
  [[nodiscard]] const T* at(std::size_t offset) const {
    return reinterpret_cast<const T*>(memory_.as<std::byte>() + offset);
  }
  template <class T>
  std::size_t append(std::span<const T> values);

  std::int64_t num_rows_ = 0;
  std::int64_t num_logit_rows_ = 0;
  bool has_documents_ = false;
  std::vector<AttentionSequence> host_sequences_;
  std::vector<std::int32_t> host_positions_;
  std::vector<std::byte> host_;
  DeviceBuffer memory_;
  std::size_t tokens_ = 0, slots_ = 0, positions_ = 0, logit_rows_ = 0, pages_ = 0, documents_ = 0;
};

}  // namespace mini_engine::gpu
