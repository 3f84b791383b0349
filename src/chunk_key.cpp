// The records hashed here are laid down in docs/formats.md; a change to either is a change of the format version.
#include "pikv/chunk_key.hpp"

#include <new>
#include <string>
#include <utility>
#include <vector>

#include "detail/framing.hpp"
#include "hmac.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::KeyedHash;
using detail::KeyedMessage;
using Writer = detail::FramedWriter<KeyedMessage>;

constexpr std::string_view kChunkDomain = "pikv/chunk/v1";
constexpr std::string_view kContextDomain = "pikv/context/v1";
constexpr std::size_t kMinSecretBytes = 16;

// Tags of fields. 0 is the domain's.
enum Tag : std::uint8_t {
  kSecretBytesTag = 1,
  kNameSpaceTag = 2,
  kModelTag = 3,
  kGeometryTag = 4,
  kThetaTag = 5,
  kPairingTag = 6,
  kAngleRuleTag = 7,
  kScalingTag = 8,
  kScalingParameterTag = 9,
  kScalingListTag = 10,
  kRecipeTag = 11,
  kContextTag = 12,
  kTokensTag = 13,
};

/// Writes the kind of scaling, then its parameters in the order of their declaration.
struct ScalingWriter {
  Writer& writer;

  void kind(std::uint8_t number) const { writer.u8(kScalingTag, number); }
  void real(double value) const { writer.f64(kScalingParameterTag, value); }
  void whole(std::int64_t value) const { writer.u64(kScalingParameterTag, static_cast<std::uint64_t>(value)); }
  void list(const std::vector<float>& values) const {
    std::vector<std::uint32_t> bits;
    bits.reserve(values.size());
    for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value + 0.0F));
    writer.numbers(kScalingListTag, bits);
  }

  void operator()(const NoScaling&) const { kind(0); }
  void operator()(const LinearScaling& scaling) const {
    kind(1);
    real(scaling.factor);
  }
  void operator()(const DynamicNtkScaling& scaling) const {
    kind(2);
    real(scaling.factor);
    whole(scaling.original_max_positions);
  }
  void operator()(const YarnScaling& scaling) const {
    kind(3);
    real(scaling.factor);
    whole(scaling.original_max_positions);
    real(scaling.beta_fast);
    real(scaling.beta_slow);
    real(scaling.attention_factor);
    whole(scaling.truncate ? 1 : 0);
  }
  void operator()(const Llama3Scaling& scaling) const {
    kind(4);
    real(scaling.factor);
    real(scaling.low_freq_factor);
    real(scaling.high_freq_factor);
    whole(scaling.original_max_positions);
  }
  void operator()(const LongRopeScaling& scaling) const {
    kind(5);
    list(scaling.short_factors);
    list(scaling.long_factors);
    whole(scaling.original_max_positions);
    real(scaling.factor);
    real(scaling.attention_factor);
  }
};

/// Everything that the keys of one keyer have in common.
void write_common(Writer& writer, const ChunkKeyerOptions& options) {
  // HMAC pads short keys with zeros and hashes long ones, so the secret's length has to be told for two secrets never
  // to act as one.
  writer.u64(kSecretBytesTag, options.secret.size());
  writer.text(kNameSpaceTag, options.name_space);
  writer.bytes(kModelTag, options.model.bytes);
  const KvGeometry& geometry = options.geometry;
  const std::array<std::uint32_t, 5> shape{
      static_cast<std::uint32_t>(geometry.num_layers), static_cast<std::uint32_t>(geometry.num_kv_heads),
      static_cast<std::uint32_t>(geometry.head_dim), static_cast<std::uint32_t>(geometry.rotary_dim),
      static_cast<std::uint32_t>(geometry.dtype)};
  writer.numbers(kGeometryTag, shape);
  writer.f64(kThetaTag, options.rope.theta);
  writer.u8(kPairingTag, static_cast<std::uint8_t>(options.rope.pairing));
  writer.u8(kAngleRuleTag, static_cast<std::uint8_t>(options.rope.angle_rule));
  std::visit(ScalingWriter{writer}, options.rope.scaling);
}

[[nodiscard]] KeyedHash hash_for(const KeyedHash& keyed, std::string_view domain, const ChunkKeyerOptions& options) {
  KeyedMessage message = keyed.begin();
  Writer writer(message, domain);
  write_common(writer, options);
  return keyed.with_prefix(message);
}

}  // namespace

struct ChunkKeyer::Impl {
  KvGeometry geometry;
  RopeConfig rope;
  KeyedHash chunks;
  KeyedHash contexts;
};

std::string ChunkKey::to_hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 0xF];
  }
  return text;
}

Result<ChunkKeyer> ChunkKeyer::create(const ChunkKeyerOptions& options) try {
  PIKV_TRY(validate(options.geometry));
  PIKV_TRY(validate(options.rope, options.geometry.rotary_dim));
  if (options.name_space.empty()) return invalid_argument("ChunkKeyer: name_space is empty");
  if (options.secret.size() < kMinSecretBytes) {
    return invalid_argument("ChunkKeyer: secret has " + std::to_string(options.secret.size()) +
                            " bytes, fewer than the " + std::to_string(kMinSecretBytes) + " required");
  }
  const Result<KeyedHash> keyed = KeyedHash::create(options.secret);
  if (!keyed.ok()) return keyed.status();
  return ChunkKeyer(
      std::unique_ptr<const Impl>(new Impl{options.geometry, options.rope, hash_for(*keyed, kChunkDomain, options),
                                           hash_for(*keyed, kContextDomain, options)}));
} catch (const std::bad_alloc&) {
  return out_of_memory("ChunkKeyer: no memory for its state");
}

ChunkKeyer::ChunkKeyer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChunkKeyer::ChunkKeyer(ChunkKeyer&&) noexcept = default;
ChunkKeyer& ChunkKeyer::operator=(ChunkKeyer&&) noexcept = default;
ChunkKeyer::~ChunkKeyer() = default;

ChunkKey ChunkKeyer::key(const ChunkRecipe& recipe, std::span<const TokenId> tokens) const {
  KeyedMessage message = impl_->chunks.begin();
  Writer writer = Writer::resume(message);
  writer.u8(kRecipeTag, static_cast<std::uint8_t>(recipe.kind()));
  writer.bytes(kContextTag, recipe.context().bytes);
  writer.numbers(kTokensTag, tokens);
  return ChunkKey{message.finish()};
}

ContextDigest ChunkKeyer::empty_context() const { return ContextDigest{impl_->contexts.begin().finish()}; }

ContextDigest ChunkKeyer::extend(const ContextDigest& context, std::span<const TokenId> tokens) const {
  KeyedMessage message = impl_->contexts.begin();
  Writer writer = Writer::resume(message);
  writer.bytes(kContextTag, context.bytes);
  writer.numbers(kTokensTag, tokens);
  return ContextDigest{message.finish()};
}

const KvGeometry& ChunkKeyer::geometry() const noexcept { return impl_->geometry; }
const RopeConfig& ChunkKeyer::rope() const noexcept { return impl_->rope; }

}  // namespace v0
}  // namespace pikv
