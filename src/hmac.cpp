#include "hmac.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <new>
#include <utility>

namespace pikv::detail {
namespace {

constexpr std::size_t kBlockBytes = 64;  // of SHA-256

[[nodiscard]] DigestState copy(const evp_md_ctx_st* from) {
  DigestState state(EVP_MD_CTX_new());
  if (state == nullptr || EVP_MD_CTX_copy_ex(state.get(), from) != 1) throw std::bad_alloc();
  return state;
}

void absorb(evp_md_ctx_st* state, std::span<const std::byte> bytes) {
  if (EVP_DigestUpdate(state, bytes.data(), bytes.size()) != 1) throw std::bad_alloc();
}

void finish_into(evp_md_ctx_st* state, Digest256& digest) {
  unsigned int num_bytes = 0;
  if (EVP_DigestFinal_ex(state, reinterpret_cast<unsigned char*>(digest.data()), &num_bytes) != 1) {
    throw std::bad_alloc();
  }
}

/// Key bytes that are wiped on every way out.
struct PaddedKey {
  std::array<std::byte, kBlockBytes> bytes{};
  PaddedKey() = default;
  PaddedKey(const PaddedKey&) = delete;
  PaddedKey& operator=(const PaddedKey&) = delete;
  ~PaddedKey() { OPENSSL_cleanse(bytes.data(), bytes.size()); }

  void toggle(unsigned char pad) {
    for (std::byte& byte : bytes) byte ^= static_cast<std::byte>(pad);
  }
};

}  // namespace

void DigestStateFree::operator()(evp_md_ctx_st* state) const noexcept { EVP_MD_CTX_free(state); }

KeyedMessage::KeyedMessage(const KeyedHash& hash, DigestState state) : hash_(&hash), state_(std::move(state)) {}

void KeyedMessage::operator()(std::span<const std::byte> bytes) { absorb(state_.get(), bytes); }

Digest256 KeyedMessage::finish() {
  Digest256 digest;
  finish_into(state_.get(), digest);
  if (EVP_MD_CTX_copy_ex(state_.get(), hash_->outer_.get()) != 1) throw std::bad_alloc();
  absorb(state_.get(), digest);
  finish_into(state_.get(), digest);
  return digest;
}

KeyedHash::KeyedHash(DigestState inner, DigestState outer) : inner_(std::move(inner)), outer_(std::move(outer)) {}

Result<KeyedHash> KeyedHash::create(std::span<const std::byte> key) {
  struct DigestFree {
    void operator()(EVP_MD* md) const noexcept { EVP_MD_free(md); }
  };
  const std::unique_ptr<EVP_MD, DigestFree> sha256(EVP_MD_fetch(nullptr, "SHA256", nullptr));
  if (sha256 == nullptr) return unsupported("KeyedHash: OpenSSL offers no SHA-256");

  DigestState inner(EVP_MD_CTX_new());
  DigestState outer(EVP_MD_CTX_new());
  if (inner == nullptr || outer == nullptr || EVP_DigestInit_ex2(inner.get(), sha256.get(), nullptr) != 1 ||
      EVP_DigestInit_ex2(outer.get(), sha256.get(), nullptr) != 1) {
    throw std::bad_alloc();
  }

  // RFC 2104: keys longer than a block are hashed, shorter ones padded with zeros.
  PaddedKey padded;
  if (key.size() > kBlockBytes) {
    const DigestState hashed = copy(inner.get());
    absorb(hashed.get(), key);
    Digest256 digest;
    finish_into(hashed.get(), digest);
    for (std::size_t i = 0; i < digest.size(); ++i) padded.bytes[i] = digest[i];
    OPENSSL_cleanse(digest.data(), digest.size());
  } else {
    for (std::size_t i = 0; i < key.size(); ++i) padded.bytes[i] = key[i];
  }
  padded.toggle(0x36);
  absorb(inner.get(), padded.bytes);
  padded.toggle(0x36 ^ 0x5C);
  absorb(outer.get(), padded.bytes);
  return KeyedHash(std::move(inner), std::move(outer));
}

KeyedMessage KeyedHash::begin() const { return KeyedMessage(*this, copy(inner_.get())); }

KeyedHash KeyedHash::with_prefix(const KeyedMessage& prefix) const {
  return KeyedHash(copy(prefix.state_.get()), copy(outer_.get()));
}

}  // namespace pikv::detail
