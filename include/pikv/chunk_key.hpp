// The identity of stored KV: a keyed hash over everything its bytes depend on, and nothing else.
//
// A key covers the format version, the model, the geometry, the RoPE configuration, the recipe, a namespace with its
// secret, and the token ids. It contains no position: that is the point. Fields are framed by length and tagged by
// domain, so that no two different splits of the same bytes hash alike; HMAC-SHA256 makes keys unguessable and
// collisions uncraftable without the namespace's secret. The encoding is laid down in docs/formats.md.
//
//   pikv::Result<pikv::ChunkKeyer> keyer = pikv::ChunkKeyer::create({.model = fingerprint, .geometry = geometry,
//                                                                    .rope = rope, .name_space = "private:acme",
//                                                                    .secret = secret});
//   const pikv::ChunkKey key = keyer->key(pikv::ChunkRecipe::alone(), tokens);
//
// Thread-safety: values; const members of one ChunkKeyer may be called from several threads.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pikv/geometry.hpp"
#include "pikv/rope.hpp"
#include "pikv/status.hpp"
#include "pikv/types.hpp"

namespace pikv {
inline namespace v0 {

/// 32 bytes that name a chunk. Uniformly distributed, so its first bytes serve as a hash.
struct ChunkKey {
  std::array<std::byte, 32> bytes{};

  friend bool operator==(const ChunkKey&, const ChunkKey&) = default;
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
  /// 64 lower-case hexadecimal digits.
  [[nodiscard]] PIKV_API std::string to_hex() const;
};

struct ChunkKeyHash {
  [[nodiscard]] std::size_t operator()(const ChunkKey& key) const noexcept {
    std::size_t hash;
    std::memcpy(&hash, key.bytes.data(), sizeof hash);
    return hash;
  }
};

/// 32 bytes that change when anything the KV depends on in a model changes: weights, configuration, tokenizer. The
/// engine decides how to make it; a SHA-256 over weight files and configuration is usual.
struct ModelFingerprint {
  std::array<std::byte, 32> bytes{};
  friend bool operator==(const ModelFingerprint&, const ModelFingerprint&) = default;
};

/// Names a run of tokens that stood before a chunk when it was encoded. Keyed like a ChunkKey.
struct ContextDigest {
  std::array<std::byte, 32> bytes{};
  friend bool operator==(const ContextDigest&, const ContextDigest&) = default;
};

/// How a chunk's KV was computed; part of its key, since it changes the bytes.
class ChunkRecipe {
 public:
  enum class Kind : std::uint8_t {
    kAlone = 0,         ///< encoded alone: position-free
    kBehindPrefix = 1,  ///< encoded behind a named prefix whose rows were dropped: position-free
    kExactContext = 2,  ///< encoded in the exact context named: good only behind that very context
  };

  [[nodiscard]] static ChunkRecipe alone() noexcept { return ChunkRecipe(Kind::kAlone, {}); }
  [[nodiscard]] static ChunkRecipe behind_prefix(const ContextDigest& prefix) noexcept {
    return ChunkRecipe(Kind::kBehindPrefix, prefix);
  }
  [[nodiscard]] static ChunkRecipe exact_context(const ContextDigest& context) noexcept {
    return ChunkRecipe(Kind::kExactContext, context);
  }

  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  /// All zero for kAlone.
  [[nodiscard]] const ContextDigest& context() const noexcept { return context_; }
  [[nodiscard]] bool position_free() const noexcept { return kind_ != Kind::kExactContext; }
  friend bool operator==(const ChunkRecipe&, const ChunkRecipe&) = default;

 private:
  ChunkRecipe(Kind kind, const ContextDigest& context) noexcept : kind_(kind), context_(context) {}
  Kind kind_;
  ContextDigest context_;
};

/// What every key of one keyer has in common.
struct ChunkKeyerOptions {
  ModelFingerprint model;
  KvGeometry geometry;
  RopeConfig rope;
  std::string name_space;  ///< who may share: "private:<tenant>" or "shared:<library>"; not empty
  /// The namespace's secret, at least 16 bytes. Only read by create(): the keyer keeps hash states made from it, which
  /// are wiped when it goes, and never the secret itself.
  std::span<const std::byte> secret;
};

/// Makes keys. Hashing costs about 2.4 ns a token plus a fixed part below half a microsecond. Members that hash throw
/// std::bad_alloc when OpenSSL cannot allocate a state: no key at all rather than a wrong one.
class ChunkKeyer {
 public:
  /// Refuses an invalid geometry or rope configuration, an empty namespace, a short secret.
  [[nodiscard]] static PIKV_API Result<ChunkKeyer> create(const ChunkKeyerOptions& options);
  PIKV_API ChunkKeyer(ChunkKeyer&&) noexcept;
  PIKV_API ChunkKeyer& operator=(ChunkKeyer&&) noexcept;
  PIKV_API ~ChunkKeyer();

  /// tokens: [T] host memory, T >= 1 (a chunk without tokens has no KV; its key exists but is never stored).
  [[nodiscard]] PIKV_API ChunkKey key(const ChunkRecipe& recipe, std::span<const TokenId> tokens) const;

  /// The context of a prompt's first token.
  [[nodiscard]] PIKV_API ContextDigest empty_context() const;
  /// The context after `tokens` stood behind `context`. Blocks matter: extending by a then b is another digest than
  /// extending by ab, so a cache of exact prefixes has to use one block size throughout.
  [[nodiscard]] PIKV_API ContextDigest extend(const ContextDigest& context, std::span<const TokenId> tokens) const;

  [[nodiscard]] PIKV_API const KvGeometry& geometry() const noexcept;
  [[nodiscard]] PIKV_API const RopeConfig& rope() const noexcept;

 private:
  struct Impl;
  explicit ChunkKeyer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace v0
}  // namespace pikv

template <>
struct std::hash<pikv::ChunkKey> {
  std::size_t operator()(const pikv::ChunkKey& key) const noexcept { return pikv::ChunkKeyHash()(key); }
};
