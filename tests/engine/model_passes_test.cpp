// What a pass may and may not change: prompts in pieces, rows computed again, several sequences, repeated runs.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "support/engine_runs.hpp"

namespace {

using mini_engine::CpuModel;
using mini_engine::Model;
using mini_engine::ModelConfig;
using mini_engine::PagedCache;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::TokenId;

constexpr double kFloatBound = 5e-6;
// Between a piecewise and a whole pass a bf16 value near a tie may fall either way, and later layers see it.
constexpr double kBFloatBound = 1e-2;
constexpr int kNumRows = 300;

double error_of(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  return test_support::relative_error(std::span<const float>(a), std::span<const float>(b));
}

// Logits of all rows, computed in pieces of the given sizes, the last repeated to the end.
std::vector<float> run_in_pieces(Model& model, PagedCache& cache, const std::vector<TokenId>& tokens,
                                 std::vector<int> sizes) {
  Sequence sequence(cache);
  std::vector<float> logits;
  const auto num_rows = static_cast<int>(tokens.size());
  for (std::size_t piece = 0; sequence.size() < num_rows; ++piece) {
    const int begin = sequence.size();
    sequence.grow(std::min(sizes[std::min(piece, sizes.size() - 1)], num_rows - begin));
    const std::vector<float> next = test_support::run_rows(model, sequence, tokens, begin, sequence.size());
    logits.insert(logits.end(), next.begin(), next.end());
  }
  return logits;
}

TEST_CASE("a prompt may be split in any way") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(kNumRows, config.vocab_size, 1);
  for (const Precision weights : {Precision::kFloat32, Precision::kBFloat16}) {
    CpuModel model = CpuModel::random(config, 3, {.weights = weights, .num_threads = 2});
    for (const Precision cached : {Precision::kFloat32, Precision::kBFloat16}) {
      const double bound = cached == Precision::kFloat32 ? kFloatBound : kBFloatBound;
      PagedCache cache(config, cached, 30, 16);
      const std::vector<float> whole = run_in_pieces(model, cache, tokens, {kNumRows});
      for (const std::vector<int>& sizes :
           std::vector<std::vector<int>>{{1}, {8}, {9}, {1, 2, 3, 100, 7, 64}, {299}, {17}}) {
        CAPTURE(sizes.front());
        CHECK(error_of(run_in_pieces(model, cache, tokens, sizes), whole) < bound);
      }
      CHECK(cache.num_free_pages() == 30);
    }
  }
}

TEST_CASE("computing rows of a complete sequence again changes nothing") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(kNumRows, config.vocab_size, 2);
  CpuModel model = CpuModel::random(config, 4, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  Sequence sequence(cache);
  sequence.grow(kNumRows);
  const std::vector<float> whole = test_support::run_rows(model, sequence, tokens, 0, kNumRows);

  const std::vector<std::vector<std::int32_t>> subsets = {
      {0},
      {299},
      {0, 299},
      {5, 6, 7, 100, 200, 201, 298},
      test_support::range(40, 90),
      {3, 17, 18, 19, 60, 99, 120, 130, 140, 150, 160, 255, 256, 257, 299}};
  const auto vocab_size = static_cast<std::size_t>(config.vocab_size);
  for (const std::vector<std::int32_t>& rows : subsets) {
    CAPTURE(rows.size());
    std::vector<TokenId> chosen;
    std::vector<float> expected;
    for (const std::int32_t row : rows) {
      const auto r = static_cast<std::size_t>(row);
      chosen.push_back(tokens[r]);
      expected.insert(expected.end(), whole.begin() + static_cast<std::ptrdiff_t>(r * vocab_size),
                      whole.begin() + static_cast<std::ptrdiff_t>((r + 1) * vocab_size));
    }
    const std::vector<std::int32_t> all = test_support::range(0, static_cast<int>(rows.size()));
    const std::vector<float> again = model.forward({.tokens = chosen, .rows = rows, .logit_rows = all}, sequence);
    CHECK(error_of(again, expected) < kFloatBound);
  }
  // Nor did it change what the other rows left in the cache.
  const std::vector<float> last = test_support::run_rows(model, sequence, tokens, 299, 300);
  CHECK(error_of(last, {whole.end() - config.vocab_size, whole.end()}) < kFloatBound);
}

TEST_CASE("logits of chosen rows are those of all rows") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(40, config.vocab_size, 3);
  CpuModel model = CpuModel::random(config, 5, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  Sequence first(cache), second(cache);
  first.grow(40);
  second.grow(40);
  const std::vector<float> whole = test_support::run_rows(model, first, tokens, 0, 40);
  const std::vector<std::int32_t> rows = test_support::range(0, 40);
  const std::vector<std::int32_t> wanted = {0, 7, 39};
  const std::vector<float> some = model.forward({.tokens = tokens, .rows = rows, .logit_rows = wanted}, second);
  const auto vocab_size = static_cast<std::ptrdiff_t>(config.vocab_size);
  REQUIRE(some.size() == 3 * static_cast<std::size_t>(vocab_size));
  for (std::ptrdiff_t i = 0; i < 3; ++i) {
    const std::ptrdiff_t row = wanted[static_cast<std::size_t>(i)];
    CHECK(error_of({some.begin() + i * vocab_size, some.begin() + (i + 1) * vocab_size},
                   {whole.begin() + row * vocab_size, whole.begin() + (row + 1) * vocab_size}) < kFloatBound);
  }
  // K and V of the last layer are there for every row, although few of them went on.
  CHECK(error_of(test_support::run_rows(model, second, tokens, 38, 39),
                 {whole.begin() + 38 * vocab_size, whole.begin() + 39 * vocab_size}) < kFloatBound);
  // No logits, and not even rows: still a pass, whose observer is asked for every layer.
  struct Counter : mini_engine::PassObserver {
    int num_layers = 0;
    void before_layer(int) override { ++num_layers; }
  } counter;
  CHECK(model.forward({.tokens = tokens, .rows = rows, .logit_rows = {}, .documents = {}, .observer = &counter}, second)
            .empty());
  CHECK(model.forward({.tokens = {}, .rows = {}, .logit_rows = {}, .documents = {}, .observer = &counter}, second)
            .empty());
  CHECK(counter.num_layers == 2 * config.num_layers);
}

TEST_CASE("rows that somebody else provides before a layer are used") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(60, config.vocab_size, 4);
  CpuModel model = CpuModel::random(config, 6, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  Sequence computed(cache), provided(cache);
  computed.grow(60);
  provided.grow(60);
  const std::vector<float> whole = test_support::run_rows(model, computed, tokens, 0, 60);

  // Copies rows [0, 50) of a layer over, each just before the layer runs.
  struct Provider : mini_engine::PassObserver {
    Sequence* from = nullptr;
    Sequence* to = nullptr;
    void before_layer(int layer) override {
      const PagedCache::Strides& strides = from->cache().strides();
      for (std::size_t row = 0; row < 50; ++row) {
        for (const std::int64_t part : {std::int64_t{0}, strides.value_offset}) {
          const auto place = [&](const Sequence& sequence) {
            const mini_engine::Slot slot = sequence.slots()[row];
            return sequence.cache().data() +
                   4 * (layer * strides.layer + slot / 16 * strides.page + slot % 16 * strides.token + part);
          };
          std::memcpy(place(*to), place(*from), static_cast<std::size_t>(4 * strides.token));
        }
      }
    }
  } provider;
  provider.from = &computed;
  provider.to = &provided;
  const std::vector<float> rest = test_support::run_rows(model, provided, tokens, 50, 60, {}, &provider);
  CHECK(error_of(rest, {whole.begin() + 50 * config.vocab_size, whole.end()}) < kFloatBound);
}

TEST_CASE("sequences that share a cache do not disturb each other") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> a_tokens = test_support::random_tokens(50, config.vocab_size, 5);
  const std::vector<TokenId> b_tokens = test_support::random_tokens(50, config.vocab_size, 6);
  CpuModel model = CpuModel::random(config, 7, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 4);
  const std::vector<float> a_alone = run_in_pieces(model, cache, a_tokens, {50});
  const std::vector<float> b_alone = run_in_pieces(model, cache, b_tokens, {50});
  Sequence a(cache), b(cache);
  std::vector<float> a_logits, b_logits;
  for (int row = 0; row < 50; row += 5) {
    for (auto [sequence, tokens, logits] :
         {std::tuple{&a, &a_tokens, &a_logits}, std::tuple{&b, &b_tokens, &b_logits}}) {
      sequence->grow(5);
      const std::vector<float> next = test_support::run_rows(model, *sequence, *tokens, row, row + 5);
      logits->insert(logits->end(), next.begin(), next.end());
    }
  }
  CHECK(error_of(a_logits, a_alone) < kFloatBound);
  CHECK(error_of(b_logits, b_alone) < kFloatBound);
  CHECK(error_of(a_logits, b_alone) > 0.1);
}

TEST_CASE("a sequence may be cut back and continued otherwise") {
  const ModelConfig config = test_support::small_config();
  std::vector<TokenId> tokens = test_support::random_tokens(60, config.vocab_size, 7);
  CpuModel model = CpuModel::random(config, 8, {.num_threads = 2});
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  Sequence sequence(cache);
  sequence.grow(60);
  (void)test_support::run_rows(model, sequence, tokens, 0, 60);
  for (std::size_t row = 21; row < 60; ++row) tokens[row] = (tokens[row] + 1) % 101;
  sequence.truncate(21);
  sequence.grow(39);
  const std::vector<float> rest = test_support::run_rows(model, sequence, tokens, 21, 60);
  const std::vector<float> whole = run_in_pieces(model, cache, tokens, {60});
  CHECK(error_of(rest, {whole.begin() + 21 * config.vocab_size, whole.end()}) < kFloatBound);
}

TEST_CASE("the same passes give the same bits, every time and from another model of the same seed") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(kNumRows, config.vocab_size, 8);
  for (const int num_threads : {1, 2, 3}) {
    CAPTURE(num_threads);
    std::vector<float> first;
    for (int repetition = 0; repetition < 4; ++repetition) {
      CpuModel model = CpuModel::random(config, 9, {.weights = Precision::kBFloat16, .num_threads = num_threads});
      PagedCache cache(config, Precision::kBFloat16, 30, 16);
      for (int run = 0; run < 3; ++run) {
        const std::vector<float> logits = run_in_pieces(model, cache, tokens, {200, 50, 3, 1});
        if (first.empty()) first = logits;
        CHECK(std::memcmp(first.data(), logits.data(), first.size() * sizeof(float)) == 0);
      }
    }
  }
}

TEST_CASE("random models depend on their seed, and their logits are of moderate size") {
  const ModelConfig config = test_support::small_config();
  const std::vector<TokenId> tokens = test_support::random_tokens(64, config.vocab_size, 9);
  PagedCache cache(config, Precision::kFloat32, 30, 16);
  CpuModel one = CpuModel::random(config, 1, {.num_threads = 1});
  CpuModel two = CpuModel::random(config, 2, {.num_threads = 2});
  CpuModel one_again = CpuModel::random(config, 1, {.num_threads = 2});
  const std::vector<float> a = run_in_pieces(one, cache, tokens, {64});
  CHECK(error_of(run_in_pieces(two, cache, tokens, {64}), a) > 0.5);
  CHECK(error_of(run_in_pieces(one_again, cache, tokens, {64}), a) < kFloatBound);
  double squares = 0.0;
  for (const float logit : a) squares += double{logit} * double{logit};
  const double deviation = std::sqrt(squares / static_cast<double>(a.size()));
  CHECK(deviation > 1.0);
  CHECK(deviation < 10.0);
}

}  // namespace
