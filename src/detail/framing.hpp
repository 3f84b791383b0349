// The one encoding that everything pikv hashes goes through: a domain, then fields, each tagged and framed by length.
//
//   field  = tag (u8) | length of payload in bytes (u64, little-endian) | payload
//   record = field 0 with the domain's name | further fields
//
// A record can be read back in only one way, so two different lists of fields never give the same bytes, wherever a
// boundary between two of them is moved. docs/formats.md lists the records.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace pikv::detail {

inline constexpr std::uint8_t kDomainTag = 0;

/// Writes records into a sink: anything callable with a std::span<const std::byte>.
template <class Sink>
class FramedWriter {
 public:
  /// Starts a record. The sink must outlive the writer.
  FramedWriter(Sink& sink, std::string_view domain) : sink_(&sink) { text(kDomainTag, domain); }
  /// Goes on with a record whose beginning the sink has absorbed already.
  [[nodiscard]] static FramedWriter resume(Sink& sink) { return FramedWriter(sink); }

  void bytes(std::uint8_t tag, std::span<const std::byte> payload) {
    frame(tag, payload.size());
    (*sink_)(payload);
  }
  void text(std::uint8_t tag, std::string_view payload) {
    bytes(tag, std::as_bytes(std::span(payload.data(), payload.size())));
  }
  /// Numbers as little-endian u32, in one field; an empty list is a field of length 0.
  void numbers(std::uint8_t tag, std::span<const std::uint32_t> payload) {
    frame(tag, payload.size_bytes());
    if constexpr (std::endian::native == std::endian::little) {
      (*sink_)(std::as_bytes(payload));
    } else {
      for (const std::uint32_t number : payload) (*sink_)(little_endian<4>(number));
    }
  }
  void u8(std::uint8_t tag, std::uint8_t value) { bytes(tag, little_endian<1>(value)); }
  void u64(std::uint8_t tag, std::uint64_t value) { bytes(tag, little_endian<8>(value)); }
  /// The bits of an IEEE 754 double. Minus zero is written as zero, since both mean the same configuration.
  void f64(std::uint8_t tag, double value) { u64(tag, std::bit_cast<std::uint64_t>(value + 0.0)); }

 private:
  explicit FramedWriter(Sink& sink) : sink_(&sink) {}

  template <std::size_t kSize>
  [[nodiscard]] static std::array<std::byte, kSize> little_endian(std::uint64_t value) {
    std::array<std::byte, kSize> bytes{};
    for (std::size_t i = 0; i < kSize; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i) & 0xFF);
    return bytes;
  }

  void frame(std::uint8_t tag, std::uint64_t payload_bytes) {
    std::array<std::byte, 9> head{};
    head[0] = static_cast<std::byte>(tag);
    for (std::size_t i = 0; i < 8; ++i) head[1 + i] = static_cast<std::byte>(payload_bytes >> (8 * i) & 0xFF);
    (*sink_)(head);
  }

  Sink* sink_;
};

}  // namespace pikv::detail
