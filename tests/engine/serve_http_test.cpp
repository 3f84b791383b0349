#include <doctest/doctest.h>
#include <httplib.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "mini_engine/cpu_model.hpp"
#include "mini_engine/error.hpp"
#include "mini_engine/serve/http_server.hpp"
#include "support/serve_runs.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace mini_engine;
using namespace mini_engine::serve;
using nlohmann::json;
using std::chrono::milliseconds;
using test_support::Gate;
using test_support::WatchedModel;

constexpr const char* kPath = "/v1/chat/completions";

/// A server on a free port, with a model of random weights that generates until told otherwise.
struct Bench {
  explicit Bench(
      const SchedulerOptions& options = {}, WatchedModel::Watch watch = [](auto) {}, int num_pages = 64)
      : cpu(CpuModel::random(config(), 5, {.num_threads = 1})),
        model(cpu, std::move(watch)),
        tokenizer(test_support::tiny_tokenizer(PreSplit::kSmolLm)),
        cache(cpu.config(), Precision::kFloat32, num_pages, 8),
        scheduler(model, cache, placer, metrics, options),
        server(scheduler, tokenizer, metrics,
               {.port = 0, .model_id = "tiny", .max_body_bytes = 4096, .num_threads = 16}),
        client("127.0.0.1", server.port()) {
    client.set_read_timeout(20);
  }
  ~Bench() {
    scheduler.stop(milliseconds(0));
    server.stop();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  static ModelConfig config() {
    ModelConfig config = test_support::tiny_model().config;
    config.eos_ids.clear();
    return config;
  }
  httplib::Result post(const std::string& body) { return client.Post(kPath, body, "application/json"); }
  httplib::Result post(const json& body) { return post(body.dump()); }
  template <typename Condition>
  static bool soon(const Condition& condition) {
    for (int i = 0; i < 10000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(1));
    return condition();
  }
  std::uint64_t num_ended(EndReason reason) const { return metrics.ended[static_cast<std::size_t>(reason)].value(); }

  CpuModel cpu;
  WatchedModel model;
  Tokenizer tokenizer;
  PagedCache cache;
  ComputingPlacer placer;
  ServeMetrics metrics;
  Scheduler scheduler;
  HttpServer server;
  httplib::Client client;
};

json question(int max_tokens) {
  return {{"model", "tiny"},
          {"messages", {{{"role", "user"}, {"content", "hello"}}}},
          {"max_tokens", max_tokens},
          {"temperature", 0}};
}

/// The JSON of each event but the closing one, which must be there.
std::vector<json> events_of(const std::string& body) {
  std::vector<json> events;
  std::size_t begin = 0;
  REQUIRE(body.ends_with("data: [DONE]\n\n"));
  const std::size_t stop = body.size() - std::string("data: [DONE]\n\n").size();
  while (begin < stop) {
    const std::size_t end = body.find("\n\n", begin);
    REQUIRE(body.compare(begin, 6, "data: ") == 0);
    events.push_back(json::parse(body.substr(begin + 6, end - begin - 6)));
    begin = end + 2;
  }
  return events;
}

std::string streamed_text(const std::vector<json>& events) {
  std::string text;
  for (const json& event : events) {
    if (event.contains("choices") && !event.at("choices").empty()) {
      text += event.at("choices")[0].at("delta").value("content", "");
    }
  }
  return text;
}

TEST_CASE("an answer whole and streamed is the same, with documents as well, and its usage counts") {
  Bench bench;
  json body = question(12);
  body["documents"] = {"the first", "the second"};
  const auto whole = bench.post(body);
  REQUIRE(whole);
  REQUIRE(whole->status == 200);
  CHECK(whole->get_header_value("Content-Type") == "application/json");
  const json answer = json::parse(whole->body);
  CHECK(answer.at("model") == "tiny");
  CHECK(answer.at("choices")[0].at("finish_reason") == "length");
  CHECK(answer.at("usage").at("completion_tokens") == 12);
  CHECK(answer.at("usage").at("prompt_tokens") > 20);
  const std::string text = answer.at("choices")[0].at("message").at("content");
  CHECK_FALSE(text.empty());

  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  const auto streamed = bench.post(body);
  REQUIRE(streamed);
  CHECK(streamed->status == 200);
  CHECK(streamed->get_header_value("Content-Type") == "text/event-stream");
  const std::vector<json> events = events_of(streamed->body);
  REQUIRE(events.size() >= 4);
  CHECK(events.front().at("choices")[0].at("delta").at("role") == "assistant");
  CHECK(streamed_text(events) == text);
  CHECK(events[events.size() - 2].at("choices")[0].at("finish_reason") == "length");
  CHECK(events.back().at("usage") == answer.at("usage"));
  for (const json& event : events) CHECK(event.at("id") == events.front().at("id"));
  CHECK(events.front().at("id") != answer.at("id"));

  // A string out of the middle of the answer ends the same answer before it.
  json stopped = question(12);
  stopped["documents"] = body["documents"];
  std::string stop;
  for (const char c : text) {
    if (c > ' ' && c < 127) stop = std::string(1, c);
  }
  REQUIRE_FALSE(stop.empty());
  stopped["stop"] = stop;
  const json cut = json::parse(bench.post(stopped)->body);
  CHECK(cut.at("choices")[0].at("message").at("content") == text.substr(0, text.find(stop)));
  CHECK(cut.at("choices")[0].at("finish_reason") == "stop");
}

TEST_CASE("a seed repeats an answer, and without max_tokens the context ends it") {
  Bench bench;
  json body = question(10);
  body.update({{"temperature", 1.5}, {"seed", 11}});
  const auto text = [&] {
    return json::parse(bench.post(body)->body).at("choices")[0].at("message").at("content").get<std::string>();
  };
  const std::string first = text();
  CHECK(text() == first);
  body["seed"] = 12;
  CHECK(text() != first);

  body.erase("max_tokens");
  const json usage = json::parse(bench.post(body)->body).at("usage");
  CHECK(usage.at("total_tokens") == Bench::config().max_positions + 1);  // the last token needs no position
}

TEST_CASE("models, health and metrics") {
  Bench bench;
  REQUIRE(bench.post(question(3)));
  CHECK(json::parse(bench.client.Get("/v1/models")->body).at("data")[0].at("id") == "tiny");
  CHECK(bench.client.Get("/health")->body == R"({"status":"ok"})");
  const auto metrics = bench.client.Get("/metrics");
  CHECK(metrics->status == 200);
  for (const char* line :
       {"mini_engine_requests_total{outcome=\"token_limit\"} 1\n", "mini_engine_generated_tokens_total 3\n",
        "mini_engine_free_pages 64\n", "mini_engine_time_to_first_token_seconds_count 1\n",
        "mini_engine_inter_token_seconds_count 2\n", "mini_engine_running_requests 0\n"}) {
    CAPTURE(line);
    CHECK(metrics->body.find(line) != std::string::npos);
  }
}

TEST_CASE("what is wrong with a request is answered as JSON, with the status that fits") {
  Bench bench;
  const auto check = [](const httplib::Result& result, int status, const char* code) {
    REQUIRE(result);
    CAPTURE(result->body);
    CHECK(result->status == status);
    CHECK(result->get_header_value("Content-Type") == "application/json");
    CHECK(json::parse(result->body).at("error").at("code") == code);
  };
  check(bench.post(std::string("{\"model\":")), 400, "invalid_json");
  check(bench.post(std::string("{\"model\":\"\xC0\"}")), 400, "invalid_json");
  check(bench.post(std::string()), 400, "invalid_json");
  check(bench.client.Post(kPath, question(1).dump(), "text/plain"), 400, "wrong_content_type");
  check(bench.client.Post(kPath, httplib::MultipartFormDataItems{{"a", "b", "", ""}}), 400, "wrong_content_type");
  json other = question(1);
  other["model"] = "other";
  check(bench.post(other), 404, "model_not_found");
  json wrong = question(1);
  wrong["n"] = 3;
  check(bench.post(wrong), 400, "unsupported_value");
  json long_prompt = question(1);
  long_prompt["messages"][0]["content"] = std::string(1000, 'a');
  check(bench.post(long_prompt), 400, "context_length_exceeded");
  const std::string large = question(1).dump() + std::string(10000, ' ');
  check(bench.post(large), 413, "body_too_large");
  // The same without a length that could be refused beforehand.
  const auto chunked = bench.client.Post(
      kPath,
      [&](std::size_t, httplib::DataSink& sink) {
        sink.write(large.data(), large.size());
        sink.done();
        return true;
      },
      "application/json");
  check(chunked, 413, "body_too_large");
  check(bench.client.Get(kPath), 405, "method_not_allowed");
  check(bench.client.Post("/health", "", "text/plain"), 405, "method_not_allowed");
  check(bench.client.Get("/v1/completions"), 404, "not_found");
  check(bench.client.Delete("/nothing"), 404, "not_found");
  CHECK(bench.post(question(1))->status == 200);
}

/// Asks for a stream and hangs up after so many pieces of it.
void leave_after(int num_pieces, int port) {
  json body = question(200);
  body["stream"] = true;
  httplib::Request request;
  request.method = "POST";
  request.path = kPath;
  request.set_header("Content-Type", "application/json");
  request.body = body.dump();
  int num_received = 0;
  request.content_receiver = [&](const char*, std::size_t, std::uint64_t, std::uint64_t) {
    return ++num_received < num_pieces;
  };
  httplib::Client leaving("127.0.0.1", port);
  CHECK_FALSE(leaving.send(request));
  CHECK(num_received == num_pieces);
}

TEST_CASE("a client that disconnects in mid-stream cancels its request") {
  Bench bench({}, [](auto) { std::this_thread::sleep_for(milliseconds(2)); });
  leave_after(5, bench.server.port());
  CHECK(Bench::soon([&] { return bench.num_ended(EndReason::kCancelled) == 1; }));
  CHECK(bench.metrics.generated_tokens.value() < 200);
  CHECK(Bench::soon([&] { return bench.metrics.free_pages.value() == 64; }));
}

TEST_CASE("a client that disconnects while its request waits cancels it before anything is computed") {
  Bench bench({.max_queued = 4, .batch = {.max_running = 1}},
              [](auto) { std::this_thread::sleep_for(milliseconds(4)); });
  std::thread staying([&] { CHECK(bench.post(question(200))->status == 200); });
  CHECK(Bench::soon([&] { return bench.metrics.running.value() == 1; }));
  leave_after(1, bench.server.port());
  CHECK(Bench::soon([&] { return bench.num_ended(EndReason::kCancelled) == 1; }));
  CHECK(bench.metrics.running.value() == 1);
  staying.join();
  CHECK(bench.metrics.generated_tokens.value() == 200);
}

TEST_CASE("a full queue is 429 with Retry-After") {
  Gate gate;
  Bench bench({.max_queued = 1, .batch = {.max_running = 1}}, [&](auto) { gate.pass(); });
  std::vector<std::thread> clients;
  std::atomic<int> num_served{0};
  const auto ask = [&] {
    httplib::Client client("127.0.0.1", bench.server.port());
    client.set_read_timeout(20);
    const auto result = client.Post(kPath, question(2).dump(), "application/json");
    if (result && result->status == 200) ++num_served;
  };
  clients.emplace_back(ask);
  gate.wait_for_arrival();
  clients.emplace_back(ask);
  CHECK(Bench::soon([&] { return bench.metrics.queued.value() == 1; }));
  const auto refused = bench.post(question(2));
  REQUIRE(refused);
  CHECK(refused->status == 429);
  CHECK(refused->get_header_value("Retry-After") == "1");
  gate.open();
  for (std::thread& client : clients) client.join();
  CHECK(num_served == 2);
}

TEST_CASE("shutdown with requests in flight: each is answered, whole or with an error, and later ones get 503") {
  Bench bench({}, [](auto) { std::this_thread::sleep_for(milliseconds(2)); });
  std::string streamed;
  int whole_status = 0;
  const auto ask = [&](bool is_stream) {
    json body = question(220);
    body["stream"] = is_stream;
    httplib::Client client("127.0.0.1", bench.server.port());
    client.set_read_timeout(20);
    const auto result = client.Post(kPath, body.dump(), "application/json");
    if (!result) return;
    if (is_stream) {
      streamed = result->body;
    } else {
      whole_status = result->status;
    }
  };
  std::thread streaming([&] { ask(true); }), waiting([&] { ask(false); });
  CHECK(Bench::soon([&] { return bench.metrics.running.value() == 2; }));
  CHECK(Bench::soon([&] { return bench.metrics.generated_tokens.value() > 4; }));
  bench.scheduler.stop(milliseconds(10));
  CHECK(bench.post(question(1))->status == 503);
  CHECK(bench.client.Get("/health")->status == 503);
  streaming.join();
  waiting.join();
  bench.server.stop();
  CHECK(whole_status == 503);
  const std::vector<json> events = events_of(streamed);
  CHECK(events.back().at("error").at("code") == "shutting_down");
  CHECK(bench.num_ended(EndReason::kShutdown) == 2);
  CHECK_FALSE(bench.client.Get("/health"));
}

TEST_CASE("what the model throws is a server error with its message") {
  Bench bench({}, [](auto) { throw Error("no power"); });
  const auto whole = bench.post(question(2));
  REQUIRE(whole);
  CHECK(whole->status == 500);
  CHECK(json::parse(whole->body).at("error").at("message") == "no power");
  json body = question(2);
  body["stream"] = true;
  CHECK(events_of(bench.post(body)->body).back().at("error").at("message") == "no power");
}

TEST_CASE("an address that is taken is an error at construction") {
  Bench bench;
  CHECK_THROWS_AS(
      HttpServer(bench.scheduler, bench.tokenizer, bench.metrics, {.port = bench.server.port(), .model_id = "tiny"}),
      Error);
}

}  // namespace
