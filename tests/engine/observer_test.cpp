// What an observer of a pass sees and decides: queries, rows that go on, attention of its own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "support/cached_rows.hpp"
#include "support/double_attention.hpp"
#include "support/engine_runs.hpp"
#include "support/memory_model.hpp"
#include "support/reference_llama.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;
using mini_engine::TurnedQueries;
using test_support::cached_rows;
using Rows = std::vector<std::int32_t>;

constexpr double kFloatBound = 5e-6;
constexpr int kNumRows = 60;
constexpr float kPoison = 7.5F;

/// Lets rows go as told, and keeps what it is shown.
struct Narrowing : mini_engine::PassObserver {
  std::map<int, Rows> going_on = {};  ///< by layer, as indices
  std::vector<Rows> projected_rows = {}, query_rows = {};
  std::vector<std::vector<float>> queries = {};  ///< [L][R*Q*D]
  std::vector<std::string> calls = {};
  std::int64_t query_size = 0;

  explicit Narrowing(const ModelConfig& config, std::map<int, Rows> going = {})
      : going_on(std::move(going)), query_size(std::int64_t{config.num_heads} * config.head_dim) {}

  void before_layer(int) override { calls.emplace_back("before"); }
  void on_projected(int, const mini_engine::ProjectedRows& rows) override {
    calls.emplace_back("projected");
    CHECK(rows.num_rows == static_cast<std::int64_t>(rows.rows.size()));
    projected_rows.emplace_back(rows.rows.begin(), rows.rows.end());
  }
  std::optional<Rows> rows_that_go_on(int layer) override {
    calls.emplace_back("asked");
    const auto found = going_on.find(layer);
    return found == going_on.end() ? std::nullopt : std::optional(found->second);
  }
  void on_queries(int, const TurnedQueries& shown) override {
    calls.emplace_back("queries");
    query_rows.emplace_back(shown.rows.begin(), shown.rows.end());
    queries.push_back(packed(shown));
  }
  bool attend(int, const TurnedQueries&, void*) override {
    calls.emplace_back("attend");
    return false;
  }

  std::vector<float> packed(const TurnedQueries& shown) const {
    REQUIRE(shown.precision == Precision::kFloat32);
    std::vector<float> out;
    for (std::size_t i = 0; i < shown.rows.size(); ++i) {
      const float* const row = static_cast<const float*>(shown.data) + static_cast<std::int64_t>(i) * shown.row_stride;
      out.insert(out.end(), row, row + query_size);
    }
    return out;
  }
};

void poison(PagedCache& cache) {
  auto* const data = reinterpret_cast<float*>(cache.data());
  std::fill(data, data + cache.size_bytes() / sizeof(float), kPoison);
}

double error_of(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  return test_support::relative_error(std::span<const float>(a), std::span<const float>(b));
}

double error_of(std::span<const float> a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  return test_support::relative_error(a, std::span<const double>(b));
}

/// Logits of `rows` out of those of all rows.
std::vector<float> of_rows(const std::vector<float>& all, const Rows& rows, int vocab_size) {
  std::vector<float> out;
  for (const std::int32_t row : rows) {
    const auto begin = all.begin() + std::ptrdiff_t{row} * vocab_size;
    out.insert(out.end(), begin, begin + vocab_size);
  }
  return out;
}

struct World {
  ModelConfig config = test_support::small_config();
  test_support::MemoryModel file{config, 7};
  CpuModel model{file, {.num_threads = 2}};
  std::vector<TokenId> tokens = test_support::random_tokens(kNumRows, config.vocab_size, 3);
  PagedCache cache{config, Precision::kFloat32, 40, 8};
  Rows all = test_support::range(0, kNumRows);

  [[nodiscard]] Sequence sequence() {
    Sequence made(cache);
    made.grow(kNumRows);
    return made;
  }
  std::vector<float> run(Sequence& sequence, const Rows& logit_rows, mini_engine::PassObserver* observer,
                         const Rows& documents = {}) {
    return model.forward(
        Pass{.tokens = tokens, .rows = all, .logit_rows = logit_rows, .documents = documents, .observer = observer},
        sequence);
  }
};

TEST_CASE("queries are those of the reference, of every layer and of all rows, whatever logits are wanted") {
  World world;
  const test_support::ReferenceResult reference = test_support::reference_forward(world.file, world.tokens);
  for (const Rows& logit_rows : {Rows{}, Rows{kNumRows - 1}, world.all}) {
    CAPTURE(logit_rows.size());
    Sequence sequence = world.sequence();
    Narrowing observer(world.config);
    const std::vector<float> logits = world.run(sequence, logit_rows, &observer);
    REQUIRE(observer.queries.size() == static_cast<std::size_t>(world.config.num_layers));
    for (std::size_t layer = 0; layer < observer.queries.size(); ++layer) {
      CHECK(observer.query_rows[layer] == world.all);
      CHECK(observer.projected_rows[layer] == world.all);
      const auto size = static_cast<std::size_t>(observer.query_size);
      for (std::size_t row = 0; row < kNumRows; ++row) {
        CHECK(error_of(std::span<const float>(observer.queries[layer]).subspan(row * size, size),
                       reference.rotated_queries[layer][row]) < kFloatBound);
      }
    }
    Sequence plain = world.sequence();
    const std::vector<float> expected = world.run(plain, logit_rows, nullptr);
    if (!logit_rows.empty()) CHECK(error_of(logits, expected) < kFloatBound);
  }
}

TEST_CASE("the observer is asked in the order in which things happen") {
  World world;
  Sequence sequence = world.sequence();
  Narrowing observer(world.config);
  (void)world.run(sequence, {}, &observer);
  std::vector<std::string> expected;
  for (int layer = 0; layer < world.config.num_layers; ++layer) {
    for (const char* call : {"before", "projected", "asked", "queries", "attend"}) expected.emplace_back(call);
  }
  CHECK(observer.calls == expected);
}

TEST_CASE("an observer that lets no row go changes no bit") {
  World world;
  Sequence plain = world.sequence(), silent = world.sequence(), telling = world.sequence();
  const std::vector<float> expected = world.run(plain, world.all, nullptr);
  Narrowing says_nothing(world.config);
  CHECK(world.run(silent, world.all, &says_nothing) == expected);
  Narrowing says_all(world.config, {{0, world.all}, {1, world.all}, {2, world.all}});
  CHECK(world.run(telling, world.all, &says_all) == expected);
  for (int layer = 0; layer < world.config.num_layers; ++layer) {
    for (const bool of_keys : {true, false}) {
      CHECK(cached_rows(telling, world.config, layer, of_keys) == cached_rows(plain, world.config, layer, of_keys));
    }
  }
}

TEST_CASE("rows let go leave K and V up to that layer and nothing after it") {
  World world;
  constexpr int kKept = 23;
  const test_support::ReferenceResult reference = test_support::reference_forward(world.file, world.tokens);
  for (int narrowed = 0; narrowed < world.config.num_layers; ++narrowed) {
    CAPTURE(narrowed);
    poison(world.cache);
    Sequence sequence = world.sequence();
    // The first rows see none that was let go, so that their logits are still the reference's.
    Narrowing observer(world.config, {{narrowed, test_support::range(0, kKept)}});
    const std::vector<float> logits = world.run(sequence, {4, kKept - 1}, &observer);
    const auto vocab_size = static_cast<std::size_t>(world.config.vocab_size);
    CHECK(error_of(std::span<const float>(logits).first(vocab_size), reference.logits[4]) < kFloatBound);
    CHECK(error_of(std::span<const float>(logits).last(vocab_size), reference.logits[kKept - 1]) < kFloatBound);

    for (int layer = 0; layer < world.config.num_layers; ++layer) {
      CAPTURE(layer);
      const auto l = static_cast<std::size_t>(layer);
      CHECK(observer.projected_rows[l].size() == (layer <= narrowed ? kNumRows : kKept));
      CHECK(observer.query_rows[l].size() == (layer < narrowed ? kNumRows : kKept));
      const auto size = static_cast<std::size_t>(world.config.num_kv_heads * world.config.head_dim);
      for (const bool of_keys : {true, false}) {
        const std::vector<float> in_cache = cached_rows(sequence, world.config, layer, of_keys);
        const auto& expected = of_keys ? reference.rotated_keys[l] : reference.values[l];
        for (std::size_t row = 0; row < kNumRows; ++row) {
          const auto got = std::span<const float>(in_cache).subspan(row * size, size);
          if (layer <= narrowed || row < kKept) {
            CHECK(error_of(got, expected[row]) < kFloatBound);
          } else {
            CHECK(std::count(got.begin(), got.end(), kPoison) == static_cast<std::ptrdiff_t>(size));
          }
        }
      }
    }
  }
}

TEST_CASE("rows that go on alone use what the cache holds of the others") {
  World world;
  Rows documents;
  SUBCASE("plain") {}
  SUBCASE("with documents") {
    documents.assign(kNumRows, Pass::kSeesAll);
    std::fill(documents.begin() + 5, documents.begin() + 30, 0);
    std::fill(documents.begin() + 30, documents.begin() + 50, 1);
  }
  Sequence sequence = world.sequence();
  const std::vector<float> full = world.run(sequence, world.all, nullptr, documents);
  const Rows wanted = {17, 59};
  const std::vector<float> expected = of_rows(full, wanted, world.config.vocab_size);
  // The second narrowing counts in what the first left: rows 3, 17, 31, 44, 58, 59.
  const std::map<int, Rows> ways[] = {{{0, {3, 17, 31, 44, 58, 59}}},
                                      {{1, {3, 17, 31, 44, 58, 59}}},
                                      {{2, {3, 17, 31, 44, 58, 59}}},
                                      {{1, {3, 17, 31, 44, 58, 59}}, {2, {1, 5}}},
                                      {{0, {3, 17, 31, 44, 58, 59}}, {1, {0, 1, 3, 5}}, {2, {1, 2, 3}}}};
  for (const std::map<int, Rows>& way : ways) {
    Narrowing observer(world.config, way);
    CHECK(error_of(world.run(sequence, wanted, &observer, documents), expected) < kFloatBound);
    if (way.size() == 3) CHECK(observer.query_rows.back() == Rows{17, 44, 59});
  }
  // And of what it does not hold rightly: the rows that were let go count.
  poison(world.cache);
  Narrowing observer(world.config, ways[0]);
  CHECK(error_of(world.run(sequence, wanted, &observer, documents), expected) > 1e-2);
}

TEST_CASE("all rows may be let go when no logits are wanted") {
  World world;
  Sequence sequence = world.sequence();
  Narrowing observer(world.config, {{1, {}}});
  CHECK(world.run(sequence, {}, &observer).empty());
  CHECK(observer.projected_rows.back().empty());
  CHECK(observer.calls.size() == 5 * static_cast<std::size_t>(world.config.num_layers));
}

TEST_CASE("what cannot go on is refused by name, before the layer's K and V are written") {
  World world;
  const auto refused = [&](const Rows& chosen, const char* message) {
    poison(world.cache);
    Sequence sequence = world.sequence();
    Narrowing observer(world.config, {{1, chosen}});
    CHECK_THROWS_WITH_AS((void)world.run(sequence, {40}, &observer), message, mini_engine::Error);
    const std::vector<float> keys = cached_rows(sequence, world.config, 1, true);
    CHECK(std::count(keys.begin(), keys.end(), kPoison) == static_cast<std::ptrdiff_t>(keys.size()));
  };
  refused({40, 60}, "pass: rows_that_go_on(1)[1] is 60, not in [0, 60)");
  refused({-1, 40}, "pass: rows_that_go_on(1)[0] is -1, not in [0, 60)");
  refused({3, 40, 40}, "pass: rows_that_go_on(1)[2] is 40, not above the one before it, 40");
  refused({3, 41}, "pass: rows_that_go_on(1) leaves out 40, row 40 of the sequence, whose logits are wanted");
  refused({}, "pass: rows_that_go_on(1) leaves out 40, row 40 of the sequence, whose logits are wanted");
}

/// Computes the attention of some layers itself.
struct Attending : Narrowing {
  using Narrowing::Narrowing;
  const ModelConfig* config = nullptr;
  const Sequence* sequence = nullptr;
  std::vector<int> layers = {};
  float factor = 1.0F;

  bool attend(int layer, const TurnedQueries& shown, void* out) override {
    if (std::find(layers.begin(), layers.end(), layer) == layers.end()) return false;
    std::vector<float> mixed =
        test_support::double_attention(*config, shown.rows, packed(shown), cached_rows(*sequence, *config, layer, true),
                                       cached_rows(*sequence, *config, layer, false));
    for (float& x : mixed) x *= factor;
    std::copy(mixed.begin(), mixed.end(), static_cast<float*>(out));
    return true;
  }
};

TEST_CASE("attention that the observer computes takes the place of the model's") {
  World world;
  Sequence plain = world.sequence();
  const std::vector<float> full = world.run(plain, world.all, nullptr);
  const Rows wanted = {17, 59};
  const std::vector<float> expected = of_rows(full, wanted, world.config.vocab_size);
  for (const std::vector<int>& layers : std::vector<std::vector<int>>{{0}, {1}, {2}, {0, 1, 2}}) {
    CAPTURE(layers.front());
    Sequence sequence = world.sequence();
    Attending observer(world.config);
    observer.config = &world.config;
    observer.sequence = &sequence;
    observer.layers = layers;
    CHECK(error_of(world.run(sequence, wanted, &observer), expected) < kFloatBound);
    // Over rows that go on alone as well.
    observer.going_on = {{1, {3, 17, 59}}};
    CHECK(error_of(world.run(sequence, wanted, &observer), expected) < kFloatBound);
    observer.factor = 0.5F;
    CHECK(error_of(world.run(sequence, wanted, &observer), expected) > 1e-3);
  }
}

}  // namespace
