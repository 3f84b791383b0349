// HMAC-SHA256 whose key and first bytes are absorbed once, so that each further message starts from a copied state.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "pikv/status.hpp"

// OpenSSL's own name for a digest in progress; its header stays out of ours.
struct evp_md_ctx_st;

namespace pikv::detail {

using Digest256 = std::array<std::byte, 32>;

struct DigestStateFree {
  void operator()(evp_md_ctx_st* state) const noexcept;  // OpenSSL wipes the state before freeing it
};
using DigestState = std::unique_ptr<evp_md_ctx_st, DigestStateFree>;

class KeyedHash;

/// A message on its way through a KeyedHash. Like everything here, throws std::bad_alloc when OpenSSL cannot allocate,
/// the only way in which a SHA-256 fails once it has been fetched.
class KeyedMessage {
 public:
  void operator()(std::span<const std::byte> bytes);
  [[nodiscard]] Digest256 finish();

 private:
  friend class KeyedHash;
  KeyedMessage(const KeyedHash& hash, DigestState state);
  const KeyedHash* hash_;  // must outlive the message
  DigestState state_;
};

/// Thread-safety: messages may be begun from several threads at once.
class KeyedHash {
 public:
  /// Errors: kUnsupported when OpenSSL offers no SHA-256.
  [[nodiscard]] static Result<KeyedHash> create(std::span<const std::byte> key);

  [[nodiscard]] KeyedMessage begin() const;
  /// A hash whose messages all begin with what `prefix` has absorbed, which must have been begun by this hash.
  [[nodiscard]] KeyedHash with_prefix(const KeyedMessage& prefix) const;

 private:
  friend class KeyedMessage;
  KeyedHash(DigestState inner, DigestState outer);
  DigestState inner_;  // after the inner padded key, and a prefix if any
  DigestState outer_;  // after the outer padded key
};

}  // namespace pikv::detail
