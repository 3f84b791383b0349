#include "mini_engine/fingerprint.hpp"

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>

#include "mini_engine/error.hpp"

namespace mini_engine {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  void add(std::span<const std::byte> bytes) {
    add(std::uint64_t{bytes.size()});
    add_raw(bytes);
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }

  template <class T>
  requires std::is_arithmetic_v<T>
  void add(T value) { add_raw(std::as_bytes(std::span(&value, 1))); }

  std::array<std::byte, 32> finish() {
    std::array<std::byte, 32> digest{};
    unsigned size_bytes = 0;
    check(EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), &size_bytes) == 1);
    check(size_bytes == digest.size());
    return digest;
  }

 private:
  void add_raw(std::span<const std::byte> bytes) {
    check(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
  }
  static void check(bool succeeded) {
    if (!succeeded) throw Error("model fingerprint: SHA-256 failed");
  }

  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

void add_config(Sha256& hash, const ModelConfig& config) {
  for (const int value : {config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
                          config.ffn_size, config.vocab_size, config.max_positions}) {
    hash.add(std::int64_t{value});
  }
  hash.add(config.rms_eps);
  hash.add(static_cast<std::uint8_t>(config.tied_embeddings));
  const RopeParameters& rope = config.rope;
  hash.add(static_cast<std::uint8_t>(rope.scaling));
  for (const double value : {rope.theta, rope.factor, rope.low_freq_factor, rope.high_freq_factor}) hash.add(value);
  hash.add(std::int64_t{rope.original_max_positions});
  hash.add(std::as_bytes(std::span(rope.frequency_divisors)));
  hash.add(std::as_bytes(std::span(config.eos_ids)));
  hash.add(config.name);
}

}  // namespace

std::array<std::byte, 32> fingerprint_of(const ModelConfig& config, const TensorTable& tensors) {
  Sha256 hash;
  hash.add(std::string_view("mini_engine model, version 1"));
  add_config(hash, config);
  hash.add(std::uint64_t{tensors.by_name().size()});
  for (const auto& [name, tensor] : tensors.by_name()) {
    hash.add(std::string_view(name));
    hash.add(static_cast<std::uint8_t>(tensor.encoding));
    hash.add(std::as_bytes(std::span(tensor.shape)));
    hash.add(tensor.bytes);
  }
  return hash.finish();
}

}  // namespace mini_engine
