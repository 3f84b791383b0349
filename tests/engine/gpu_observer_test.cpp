// What observers of passes on the GPU see and decide, against the CPU engine on the same weights, and in batches whose
// passes are observed by some, or not at all.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "mini_engine/error.hpp"
#include "support/gpu_runs.hpp"
#include "support/gpu_watcher.hpp"

namespace {

using mini_engine::Pass;
using mini_engine::Precision;
using mini_engine::Sequence;
using mini_engine::SequencePass;
using test_support::config_of_heads;
using test_support::distance;
using test_support::has_gpu;
using test_support::Prompt;
using test_support::TwoEngines;
using test_support::Watcher;
using Rows = std::vector<std::int32_t>;

constexpr Precision kPrecisions[] = {Precision::kFloat32, Precision::kBFloat16};

double tolerance(Precision precision) { return precision == Precision::kFloat32 ? 1e-4 : 2e-2; }

struct Shape {
  int num_heads, num_kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{4, 2, 16}, {8, 2, 64}};

TEST_CASE("observers on the GPU see the rows that they see on the CPU, and change no bit") {
  if (!has_gpu()) return;
  for (const Shape& shape : kShapes) {
    for (const Precision precision : kPrecisions) {
      CAPTURE(shape.head_dim);
      CAPTURE(static_cast<int>(precision));
      TwoEngines engines(config_of_heads(shape.num_heads, shape.num_kv_heads, shape.head_dim), precision);
      const Prompt prompt(70, 3);
      Sequence on_cpu = prompt.in(engines.cpu_cache), on_gpu = prompt.in(engines.gpu_cache);
      Sequence plain = prompt.in(engines.gpu_cache);
      const Rows wanted = {5, 69};
      Watcher by_cpu(engines), by_gpu(engines, {{1, prompt.rows}});
      const std::vector<float> expected = engines.cpu.forward(prompt.pass(wanted, &by_cpu), on_cpu);
      const std::vector<float> got = engines.gpu.forward(prompt.pass(wanted, &by_gpu), on_gpu);
      CHECK(distance(got, expected) < tolerance(precision));
      CHECK(engines.gpu.forward(prompt.pass(wanted, nullptr), plain) == got);
      REQUIRE(by_gpu.queries.size() == by_cpu.queries.size());
      for (std::size_t layer = 0; layer < by_gpu.queries.size(); ++layer) {
        CHECK(by_gpu.query_rows[layer] == prompt.rows);
        CHECK(by_gpu.projected_rows[layer] == prompt.rows);
        CHECK(distance(by_gpu.queries[layer], by_cpu.queries[layer]) < tolerance(precision));
        CHECK(distance(by_gpu.keys[layer], by_cpu.keys[layer]) < tolerance(precision));
      }
    }
  }
}

TEST_CASE("in a batch each pass lets its own rows go, and the others keep theirs") {
  if (!has_gpu()) return;
  for (const Shape& shape : kShapes) {
    for (const Precision precision : kPrecisions) {
      CAPTURE(shape.head_dim);
      CAPTURE(static_cast<int>(precision));
      TwoEngines engines(config_of_heads(shape.num_heads, shape.num_kv_heads, shape.head_dim), precision);
      const Prompt prompts[] = {{70, 1}, {33, 2}, {150, 3}, {20, 4}};
      Rows documents(150, Pass::kSeesAll);
      std::fill(documents.begin() + 10, documents.begin() + 90, 0);
      const Rows of_documents[] = {{}, {}, documents, {}};
      // The second is not observed; the third goes on twice fewer; the fourth ends early.
      const std::map<int, Rows> going[] = {
          {{1, Prompt::range(0, 41)}}, {}, {{0, Prompt::range(20, 150)}, {1, {7, 20, 69, 100, 129}}}, {{0, {}}}};
      const Rows wanted[] = {{3, 40}, {32}, {40, 149}, {}};
      engines.poison();
      std::vector<Sequence> on_cpu, on_gpu;
      std::vector<Watcher> by_cpu, by_gpu;
      for (std::size_t i = 0; i < 4; ++i) {
        on_cpu.push_back(prompts[i].in(engines.cpu_cache));
        on_gpu.push_back(prompts[i].in(engines.gpu_cache));
        by_cpu.emplace_back(engines, going[i]);
        by_gpu.emplace_back(engines, going[i]);
      }
      std::vector<SequencePass> batch;
      for (std::size_t i = 0; i < 4; ++i) {
        batch.push_back({prompts[i].pass(wanted[i], i == 1 ? nullptr : &by_gpu[i], of_documents[i]), &on_gpu[i]});
      }
      const std::vector<std::vector<float>> got = engines.gpu.forward(batch);
      for (std::size_t i = 0; i < 4; ++i) {
        CAPTURE(i);
        const Pass pass = prompts[i].pass(wanted[i], i == 1 ? nullptr : &by_cpu[i], of_documents[i]);
        const std::vector<float> expected = engines.cpu.forward(pass, on_cpu[i]);
        REQUIRE(got[i].size() == expected.size());
        if (!expected.empty()) CHECK(distance(got[i], expected) < tolerance(precision));
        CHECK(by_gpu[i].query_rows == by_cpu[i].query_rows);
        CHECK(by_gpu[i].projected_rows == by_cpu[i].projected_rows);
        // Rows that were let go are untouched in later layers on both: they hold what they were poisoned with.
        for (int layer = 0; layer < engines.config.num_layers; ++layer) {
          for (const bool of_keys : {true, false}) {
            CHECK(distance(engines.cached(on_gpu[i], layer, of_keys), engines.cached(on_cpu[i], layer, of_keys)) <
                  tolerance(precision));
          }
        }
      }
      const std::vector<float> last = engines.cached(on_gpu[3], 2, true);
      CHECK(std::count(last.begin(), last.end(), last[0]) == static_cast<std::ptrdiff_t>(last.size()));
      // Nothing of it stays behind: a pass that nobody observes comes as ever.
      Sequence plain_on_cpu = prompts[1].in(engines.cpu_cache), plain = prompts[1].in(engines.gpu_cache);
      CHECK(distance(engines.gpu.forward(prompts[1].pass(wanted[1], nullptr), plain),
                     engines.cpu.forward(prompts[1].pass(wanted[1], nullptr), plain_on_cpu)) < tolerance(precision));
    }
  }
}

TEST_CASE("rows that go on alone give the logits of the full pass that filled the cache") {
  if (!has_gpu()) return;
  for (const Precision precision : kPrecisions) {
    TwoEngines engines(config_of_heads(8, 2, 64), precision);
    const Prompt prompt(90, 5);
    Sequence sequence = prompt.in(engines.gpu_cache);
    const Rows wanted = {17, 89};
    const std::vector<float> full = engines.gpu.forward(prompt.pass(wanted, nullptr), sequence);
    for (const std::map<int, Rows>& way : std::vector<std::map<int, Rows>>{
             {{1, {3, 17, 44, 89}}}, {{0, {3, 17, 44, 89}}, {1, {1, 2, 3}}, {2, {0, 2}}}, {{2, {17, 89}}}}) {
      Watcher observer(engines, way);
      CHECK(distance(engines.gpu.forward(prompt.pass(wanted, &observer), sequence), full) < tolerance(precision));
    }
  }
}

TEST_CASE("passes all of whose rows are let go end, alone as well") {
  if (!has_gpu()) return;
  TwoEngines engines(config_of_heads(8, 2, 64), Precision::kBFloat16);
  const Prompt prompt(20, 5);
  Sequence sequence = prompt.in(engines.gpu_cache);
  Watcher observer(engines, {{1, {}}});
  CHECK(engines.gpu.forward(prompt.pass({}, &observer), sequence).empty());
  CHECK(observer.query_rows.size() == 3);
  CHECK(observer.query_rows.back().empty());
}

TEST_CASE("what cannot go on in a batch on the GPU is refused by name, and the engine goes on") {
  if (!has_gpu()) return;
  TwoEngines engines(config_of_heads(8, 2, 64), Precision::kBFloat16);
  const Prompt prompt(20, 5);
  Sequence first = prompt.in(engines.gpu_cache), second = prompt.in(engines.gpu_cache);
  const Rows wanted = {19};
  const std::vector<float> expected = engines.gpu.forward(prompt.pass(wanted, nullptr), first);
  Watcher observer(engines, {{1, {3, 18}}});
  const std::vector<SequencePass> batch = {{prompt.pass(wanted, nullptr), &first},
                                           {prompt.pass(wanted, &observer), &second}};
  CHECK_THROWS_WITH_AS((void)engines.gpu.forward(batch),
                       "pass: rows_that_go_on(1) leaves out 19, row 19 of the sequence, whose logits are wanted",
                       mini_engine::Error);
  observer.going_on = {{2, {19, 20}}};
  CHECK_THROWS_WITH_AS((void)engines.gpu.forward(batch), "pass: rows_that_go_on(2)[1] is 20, not in [0, 20)",
                       mini_engine::Error);
  CHECK(distance(engines.gpu.forward(prompt.pass(wanted, nullptr), first), expected) < 1e-2);
}

TEST_CASE("attention by observers takes the place of the model's, in batches where only some attend") {
  if (!has_gpu()) return;
  for (const Precision precision : kPrecisions) {
    CAPTURE(static_cast<int>(precision));
    TwoEngines engines(config_of_heads(8, 2, 64), precision);
    const Prompt prompts[] = {{40, 1}, {25, 2}, {33, 3}};
    const Rows wanted[] = {{39}, {24}, {3, 32}};
    std::vector<Sequence> sequences;
    std::vector<std::vector<float>> expected;
    for (std::size_t i = 0; i < 3; ++i) sequences.push_back(prompts[i].in(engines.gpu_cache));
    for (std::size_t i = 0; i < 3; ++i) {
      expected.push_back(engines.gpu.forward(prompts[i].pass(wanted[i], nullptr), sequences[i]));
    }
    // Which of the three attend: a bit each. The third lets rows go besides.
    for (unsigned attending = 0; attending < 8; ++attending) {
      CAPTURE(attending);
      for (const float factor : {1.0F, 0.5F}) {
        std::vector<Watcher> observers(3, Watcher(engines));
        observers[2].going_on = {{1, {3, 20, 32}}};
        std::vector<SequencePass> batch;
        for (std::size_t i = 0; i < 3; ++i) {
          observers[i].factor = factor;
          if ((attending >> i & 1U) != 0) observers[i].attended = &sequences[i];
          // A pass without an observer among the others.
          batch.push_back(
              {prompts[i].pass(wanted[i], i == 1 && attending == 5 ? nullptr : &observers[i]), &sequences[i]});
        }
        const std::vector<std::vector<float>> got = engines.gpu.forward(batch);
        for (std::size_t i = 0; i < 3; ++i) {
          const double error = distance(got[i], expected[i]);
          if (observers[i].attended != nullptr && factor != 1.0F) {
            CHECK(error > tolerance(precision));
          } else {
            CHECK(error < tolerance(precision));
          }
        }
      }
      // What a half as large attention left in the cache goes.
      for (std::size_t i = 0; i < 3; ++i) {
        (void)engines.gpu.forward(prompts[i].pass(wanted[i], nullptr), sequences[i]);
      }
    }
  }
}

}  // namespace
