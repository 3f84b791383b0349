// The CPU backend over the shared case table: against the double-precision oracle, bit for bit against the scalar
// reference, and by the properties that rotation must have.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/detail/half.hpp"
#include "pikv/detail/rotate.hpp"
#include "support/cases.hpp"
#include "support/compare.hpp"
#include "support/oracle.hpp"
#include "support/scenario.hpp"

namespace {

using pikv::DType;
using test_support::Comparison;
using test_support::MovedToken;
using test_support::oracle_address;
using test_support::ReanchorCase;
using test_support::Scenario;
using test_support::Side;

const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

enum class Direction { kReanchor, kUnanchor };

pikv::Status move(pikv::Backend& backend, const Scenario& scenario, Direction direction) {
  return direction == Direction::kReanchor ? backend.reanchor_async(scenario.transfer(), kStream)
                                           : backend.unanchor_async(scenario.transfer(), kStream);
}

std::uint32_t load_bits(const std::byte* data, DType dtype) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, data, static_cast<std::size_t>(pikv::dtype_bytes(dtype)));
  return bits;
}

float load_float(const std::byte* data, DType dtype) {
  const std::uint32_t bits = load_bits(data, dtype);
  if (dtype == DType::kFloat32) return std::bit_cast<float>(bits);
  const auto half = static_cast<std::uint16_t>(bits);
  return dtype == DType::kFloat16 ? pikv::detail::float16_to_float(half) : pikv::detail::bfloat16_to_float(half);
}

std::uint32_t bits_of(float value, DType dtype) {
  if (dtype == DType::kFloat32) return std::bit_cast<std::uint32_t>(value);
  return dtype == DType::kFloat16 ? pikv::detail::float_to_float16(value) : pikv::detail::float_to_bfloat16(value);
}

/// Calls visit(token, layer, head) for everything the transfer moves.
template <class Visit>
void for_each_moved_head(const Scenario& scenario, const Visit& visit) {
  const ReanchorCase& c = scenario.description();
  for (const MovedToken& token : scenario.moved()) {
    for (std::int32_t layer = c.layer_begin; layer < c.layer_end; ++layer) {
      for (std::int32_t head = 0; head < c.geometry.num_kv_heads; ++head) visit(token, layer, head);
    }
  }
}

/// The elements of one head of one token, at their places in source and target.
struct HeadPlaces {
  std::vector<const std::byte*> source;
  std::vector<std::int64_t> target;

  HeadPlaces(const Scenario& scenario, const MovedToken& token, Side side, std::int32_t layer, std::int32_t head) {
    const std::byte* const source_data = scenario.source_buffer(token.run_index).data();
    for (std::int32_t d = 0; d < scenario.description().geometry.head_dim; ++d) {
      source.push_back(source_data + oracle_address(scenario.source_placement(), side, layer, token.source, head, d));
      target.push_back(oracle_address(scenario.target_placement(), side, layer, token.target, head, d));
    }
  }
};

test_support::OracleRope oracle_rope_of(const ReanchorCase& c) {
  const pikv::RopeConfig config = test_support::rope_config_of(c);
  return {.frequencies = pikv::inverse_frequencies(config, c.geometry.rotary_dim, c.num_positions).value(),
          .magnitude = test_support::rope_table_of(c).magnitude(),
          .interleaved = c.pairing == pikv::Pairing::kInterleaved,
          .fp32_angles = c.angle_rule == pikv::AngleRule::kFp32Product};
}

std::string place_name(const MovedToken& token, Side side, std::int32_t layer, std::int32_t head, std::int32_t d) {
  return std::string(side == Side::kKey ? "K" : "V") + " run " + std::to_string(token.run_index) + " source slot " +
         std::to_string(token.source) + " target slot " + std::to_string(token.target) + " position " +
         std::to_string(token.position) + " layer " + std::to_string(layer) + " head " + std::to_string(head) +
         " channel " + std::to_string(d);
}

/// Every moved element within one rounding of the oracle, and everything else still poison.
void check_against_oracle(const Scenario& scenario, Direction direction) {
  const ReanchorCase& c = scenario.description();
  const test_support::OracleRope rope = oracle_rope_of(c);
  Comparison comparison(c.name());
  std::vector<bool> written(static_cast<std::size_t>(scenario.target_buffer().size_bytes()), false);
  for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      const HeadPlaces places(scenario, token, side, layer, head);
      std::vector<double> channels;
      for (const std::byte* data : places.source) channels.push_back(test_support::oracle_decode(data, c.source_dtype));
      for (std::int32_t d = 0; d < c.geometry.head_dim; ++d) {
        const auto at = static_cast<std::size_t>(d);
        const test_support::OracleValue expected =
            side == Side::kValue ? test_support::OracleValue{channels[at], 0}
                                 : oracle_turn(channels, d, rope, token.position, direction == Direction::kUnanchor);
        const double got =
            test_support::oracle_decode(scenario.target_buffer().data() + places.target[at], c.target_dtype);
        const double tolerance =
            test_support::oracle_half_ulp(expected.value, c.target_dtype) + expected.arithmetic_error;
        comparison.expect_near(got, expected.value, tolerance, [&] { return place_name(token, side, layer, head, d); });
        for (std::int64_t byte = 0; byte < pikv::dtype_bytes(c.target_dtype); ++byte) {
          written[static_cast<std::size_t>(places.target[at] + byte)] = true;
        }
      }
    }
  });
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i]) continue;
    comparison.expect_same_bits(std::to_integer<std::uint64_t>(scenario.target_buffer().data()[i]),
                                std::to_integer<std::uint64_t>(test_support::GuardedBuffer::kPoison),
                                [&] { return "untouched byte " + std::to_string(i); });
  }
  CHECK_MESSAGE(comparison.ok(), comparison.report());
  CHECK_MESSAGE(scenario.target_buffer().guards_intact(), c.name());
}

/// The channels of one key head as the reference arithmetic turns them.
std::vector<std::uint32_t> reference_key(const std::vector<const std::byte*>& source, const ReanchorCase& c,
                                         const pikv::RopeTableView& table, std::int32_t position, Direction direction) {
  std::vector<std::uint32_t> bits;
  for (const std::byte* data : source) {
    bits.push_back(c.source_dtype == c.target_dtype ? load_bits(data, c.source_dtype)
                                                    : bits_of(load_float(data, c.source_dtype), c.target_dtype));
  }
  for (std::int32_t i = 0; i < table.half_dim; ++i) {
    const bool interleaved = table.pairing == pikv::Pairing::kInterleaved;
    const auto first = static_cast<std::size_t>(interleaved ? 2 * i : i);
    const auto second = static_cast<std::size_t>(interleaved ? 2 * i + 1 : i + table.half_dim);
    const float x = load_float(source[first], c.source_dtype);
    const float y = load_float(source[second], c.source_dtype);
    const float cos = table.cos(position)[i];
    const float sin = table.sin(position)[i];
    const pikv::detail::RotatedPair turned = direction == Direction::kReanchor
                                                 ? pikv::detail::rotate(x, y, cos, sin)
                                                 : pikv::detail::unrotate(x, y, cos, sin, table.inverse_square);
    bits[first] = bits_of(turned.first, c.target_dtype);
    bits[second] = bits_of(turned.second, c.target_dtype);
  }
  return bits;
}

void check_against_reference(const Scenario& scenario, Direction direction) {
  const ReanchorCase& c = scenario.description();
  Comparison comparison(c.name());
  for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
    for (const Side side : {Side::kKey, Side::kValue}) {
      const HeadPlaces places(scenario, token, side, layer, head);
      pikv::RopeTableView table = scenario.transfer().rope;
      if (side == Side::kValue) table.half_dim = 0;
      const std::vector<std::uint32_t> expected =
          reference_key(places.source, c, table, side == Side::kValue ? 0 : token.position, direction);
      for (std::size_t d = 0; d < expected.size(); ++d) {
        comparison.expect_same_bits(load_bits(scenario.target_buffer().data() + places.target[d], c.target_dtype),
                                    expected[d],
                                    [&] { return place_name(token, side, layer, head, static_cast<int>(d)); });
      }
    }
  });
  CHECK_MESSAGE(comparison.ok(), comparison.report());
}

TEST_CASE("the case table covers what it claims to") {
  std::map<std::int64_t, int> tokens;
  std::map<std::int32_t, int> head_dims;
  for (const ReanchorCase& c : test_support::reanchor_cases()) {
    for (const std::int64_t num_tokens : c.run_tokens) ++tokens[num_tokens];
    ++head_dims[c.geometry.head_dim];
  }
  for (const std::int64_t num_tokens : {0, 1, 17, 64}) CHECK(tokens[num_tokens] > 5);
  for (const std::int32_t head_dim : {64, 80, 96, 128}) CHECK(head_dims[head_dim] > 10);
  MESSAGE(test_support::reanchor_cases().size() << " cases");
}

TEST_CASE("re-anchoring and un-anchoring agree with the oracle and with the reference bit for bit") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 3});
  const auto streaming = pikv::make_cpu_backend({.num_threads = 2, .stream_from_bytes = 1});
  std::uint32_t seed = 1;
  for (const ReanchorCase& c : test_support::reanchor_cases()) {
    for (const Direction direction : {Direction::kReanchor, Direction::kUnanchor}) {
      CAPTURE(c.name());
      Scenario scenario(c, ++seed);
      const pikv::Status status = move(*backend, scenario, direction);
      REQUIRE_MESSAGE(status.ok(), status.to_string());
      check_against_oracle(scenario, direction);
      check_against_reference(scenario, direction);
      Scenario streamed(c, seed);
      REQUIRE(move(*streaming, streamed, direction).ok());
      CHECK(std::memcmp(streamed.target_buffer().data(), scenario.target_buffer().data(),
                        static_cast<std::size_t>(scenario.target_buffer().size_bytes())) == 0);
    }
  }
}

/// A case with nothing odd about it, for properties.
ReanchorCase plain_case(DType dtype) {
  ReanchorCase c;
  c.geometry = {.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .rotary_dim = 64, .dtype = dtype};
  c.source_dtype = c.target_dtype = dtype;
  c.num_positions = 4096;
  c.run_tokens = {64};
  c.layer_end = 2;
  return c;
}

/// All keys of a slab-shaped target, decoded, in the order of the slots.
std::vector<double> keys_of(const Scenario& scenario) {
  const ReanchorCase& c = scenario.description();
  std::vector<double> keys;
  for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
    const HeadPlaces places(scenario, token, Side::kKey, layer, head);
    for (const std::int64_t at : places.target) {
      keys.push_back(test_support::oracle_decode(scenario.target_buffer().data() + at, c.target_dtype));
    }
  });
  return keys;
}

TEST_CASE("position 0 gives back the input") {
  const auto backend = pikv::make_cpu_backend();
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    ReanchorCase c = plain_case(dtype);
    c.num_positions = 1;
    c.run_tokens = {1};
    Scenario scenario(c, 3);
    REQUIRE(backend->reanchor_async(scenario.transfer(), kStream).ok());
    for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
      const HeadPlaces places(scenario, token, Side::kKey, layer, head);
      for (std::size_t d = 0; d < places.source.size(); ++d) {
        CHECK(load_bits(scenario.target_buffer().data() + places.target[d], dtype) ==
              load_bits(places.source[d], dtype));
      }
    });
  }
}

/// Keys of `scenario`'s target moved once more, by a transfer whose source that target is.
std::vector<double> move_again(pikv::Backend& backend, Scenario& scenario, const pikv::PositionMap& positions,
                               Direction direction) {
  Scenario second(scenario.description(), 99);
  pikv::KvRun run = second.transfer().runs[0];
  run.source = pikv::as_const(scenario.transfer().target);
  run.source_slots = scenario.transfer().runs[0].target_slots;
  run.positions = positions;
  pikv::KvTransfer transfer = second.transfer();
  transfer.runs = {&run, 1};
  REQUIRE((direction == Direction::kReanchor ? backend.reanchor_async(transfer, kStream)
                                             : backend.unanchor_async(transfer, kStream))
              .ok());
  return keys_of(second);
}

TEST_CASE("turning by a and then by b is turning by a + b") {
  const auto backend = pikv::make_cpu_backend();
  const ReanchorCase c = plain_case(DType::kFloat32);
  Scenario at_100(c, 11);
  Scenario at_1100(c, 11);
  const auto reanchor_at = [&](Scenario& scenario, pikv::Position first) {
    pikv::KvRun run = scenario.transfer().runs[0];
    const std::vector<pikv::Position> positions(64, first);
    run.positions = pikv::PositionMap::per_token(positions.data());
    pikv::KvTransfer transfer = scenario.transfer();
    transfer.runs = {&run, 1};
    REQUIRE(backend->reanchor_async(transfer, kStream).ok());
  };
  reanchor_at(at_100, 100);
  reanchor_at(at_1100, 1100);
  const std::vector<pikv::Position> thousand(64, 1000);
  const std::vector<double> twice =
      move_again(*backend, at_100, pikv::PositionMap::per_token(thousand.data()), Direction::kReanchor);
  const std::vector<double> once = keys_of(at_1100);
  REQUIRE(twice.size() == once.size());
  double worst = 0;
  for (std::size_t i = 0; i < once.size(); ++i) worst = std::max(worst, std::abs(twice[i] - once[i]));
  CHECK(worst < 8 * 6 * 0x1p-24);  // a few roundings of numbers below 6
  CHECK(worst > 0);                // were they equal to the last bit, nothing would have turned
}

TEST_CASE("un-anchoring undoes re-anchoring, with an attention factor too") {
  const auto backend = pikv::make_cpu_backend();
  for (const test_support::RopeKind rope : {test_support::RopeKind::kPlain, test_support::RopeKind::kYarn}) {
    ReanchorCase c = plain_case(DType::kFloat32);
    c.rope = rope;
    Scenario scenario(c, 21);
    REQUIRE(backend->reanchor_async(scenario.transfer(), kStream).ok());
    const std::vector<double> back =
        move_again(*backend, scenario, scenario.transfer().runs[0].positions, Direction::kUnanchor);
    std::size_t i = 0;
    double worst = 0;
    for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
      for (const std::byte* data : HeadPlaces(scenario, token, Side::kKey, layer, head).source) {
        worst = std::max(worst, std::abs(back[i++] - test_support::oracle_decode(data, DType::kFloat32)));
      }
    });
    CHECK(i == back.size());
    CHECK(worst < 8 * 6 * 0x1p-24);
  }
}

TEST_CASE("without a table keys are moved and converted, not turned") {
  const auto backend = pikv::make_cpu_backend({.num_threads = 2});
  std::uint32_t seed = 500;
  for (const ReanchorCase& c : test_support::reanchor_cases()) {
    Scenario scenario(c, ++seed);
    std::vector<pikv::KvRun> runs(scenario.transfer().runs.begin(), scenario.transfer().runs.end());
    for (pikv::KvRun& run : runs) run.positions = pikv::PositionMap::per_token(nullptr);  // never read
    pikv::KvTransfer transfer = scenario.transfer();
    transfer.runs = runs;
    transfer.rope = pikv::RopeTableView{};
    const pikv::Status status = backend->unanchor_async(transfer, kStream);
    REQUIRE_MESSAGE(status.ok(), status.to_string());
    Comparison comparison(c.name());
    for_each_moved_head(scenario, [&](const MovedToken& token, std::int32_t layer, std::int32_t head) {
      const HeadPlaces places(scenario, token, Side::kKey, layer, head);
      const std::vector<std::uint32_t> expected =
          reference_key(places.source, c, pikv::RopeTableView{}, 0, Direction::kUnanchor);
      for (std::size_t d = 0; d < expected.size(); ++d) {
        comparison.expect_same_bits(load_bits(scenario.target_buffer().data() + places.target[d], c.target_dtype),
                                    expected[d],
                                    [&] { return place_name(token, Side::kKey, layer, head, static_cast<int>(d)); });
      }
    });
    CHECK_MESSAGE(comparison.ok(), comparison.report());
    CHECK(scenario.target_buffer().guards_intact());
  }
}

TEST_CASE("thread counts do not change a bit") {
  const ReanchorCase c = test_support::reanchor_cases()[4];
  Scenario one(c, 8);
  Scenario many(c, 8);
  REQUIRE(pikv::make_cpu_backend({.num_threads = 1})->reanchor_async(one.transfer(), kStream).ok());
  REQUIRE(pikv::make_cpu_backend({.num_threads = 7})->reanchor_async(many.transfer(), kStream).ok());
  CHECK(std::memcmp(one.target_buffer().data(), many.target_buffer().data(),
                    static_cast<std::size_t>(one.target_buffer().size_bytes())) == 0);
}

}  // namespace
