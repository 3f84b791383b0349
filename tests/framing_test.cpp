#include "detail/framing.hpp"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

struct ByteSink {
  std::string bytes;
  void operator()(std::span<const std::byte> more) {
    for (const std::byte byte : more) bytes += static_cast<char>(byte);
  }
};

using Fields = std::vector<std::pair<std::uint8_t, std::string>>;

std::string encode(const std::string& domain, const Fields& fields) {
  ByteSink sink;
  pikv::detail::FramedWriter<ByteSink> writer(sink, domain);
  for (const auto& [tag, payload] : fields) writer.text(tag, payload);
  return sink.bytes;
}

/// Reads a record back, which shows that it can be read in one way only.
std::pair<std::string, Fields> decode(const std::string& record) {
  Fields fields;
  for (std::size_t at = 0; at < record.size();) {
    REQUIRE(record.size() - at >= 9);
    std::uint64_t size = 0;
    for (std::size_t i = 0; i < 8; ++i)
      size |= std::uint64_t{static_cast<unsigned char>(record[at + 1 + i])} << (8 * i);
    REQUIRE(record.size() - at - 9 >= size);
    fields.emplace_back(static_cast<std::uint8_t>(record[at]), record.substr(at + 9, size));
    at += 9 + size;
  }
  REQUIRE(!fields.empty());
  REQUIRE(fields[0].first == pikv::detail::kDomainTag);
  return {fields[0].second, Fields(fields.begin() + 1, fields.end())};
}

TEST_CASE("bytes of a small record") {
  ByteSink sink;
  pikv::detail::FramedWriter<ByteSink> writer(sink, "ab");
  writer.u8(3, 0xFE);
  writer.numbers(4, std::vector<std::uint32_t>{0x01020304});
  writer.f64(5, -0.0);
  using std::string_literals::operator""s;
  CHECK(sink.bytes ==
        "\0\2\0\0\0\0\0\0\0ab"
        "\3\1\0\0\0\0\0\0\0\xFE"
        "\4\4\0\0\0\0\0\0\0\4\3\2\1"
        "\5\10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"s);
}

TEST_CASE("resuming goes on with the same record") {
  ByteSink parts;
  pikv::detail::FramedWriter<ByteSink>(parts, "d").text(1, "x");
  pikv::detail::FramedWriter<ByteSink>::resume(parts).text(2, "y");
  CHECK(parts.bytes == encode("d", {{1, "x"}, {2, "y"}}));
}

TEST_CASE("random records read back as they were written") {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    Fields fields(random() % 5);
    for (auto& [tag, payload] : fields) {
      tag = static_cast<std::uint8_t>(1 + random() % 3);
      payload.resize(random() % 12);
      for (char& c : payload) c = static_cast<char>(random() % 4);  // like lengths and tags, to confuse them
    }
    const std::string domain(random() % 4, static_cast<char>(random() % 3));
    REQUIRE(decode(encode(domain, fields)) == std::make_pair(domain, fields));
  }
}

TEST_CASE("no two ways to split the same bytes encode alike") {
  // All splits of one string into up to three fields and a domain, empty ones included.
  for (const std::string& text : {std::string("aabab"), std::string(6, '\0'), std::string("\1\2\1\2\0\1", 6)}) {
    std::map<std::string, std::string> seen;
    for (std::size_t i = 0; i <= text.size(); ++i) {
      for (std::size_t j = i; j <= text.size(); ++j) {
        for (std::size_t k = j; k <= text.size(); ++k) {
          const std::string a = text.substr(0, i);
          const std::string b = text.substr(i, j - i);
          const std::string c = text.substr(j, k - j);
          const std::string d = text.substr(k);
          const std::string name = std::to_string(i) + "," + std::to_string(j) + "," + std::to_string(k);
          const auto added = seen.emplace(encode(a, {{1, b}, {2, c}, {3, d}}), name);
          CAPTURE(name);
          CAPTURE(added.first->second);
          REQUIRE(added.second);
          if (d.empty()) REQUIRE(seen.emplace(encode(a, {{1, b}, {2, c}}), name + ",-").second);
        }
      }
    }
  }
}

}  // namespace
