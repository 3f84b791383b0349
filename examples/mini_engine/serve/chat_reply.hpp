// The way of an answer's text from the engine's thread to the thread that serves the client.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "mini_engine/serve/request.hpp"
#include "mini_engine/serve/stop_matcher.hpp"
#include "mini_engine/text_stream.hpp"

namespace mini_engine::serve {

/// What the engine pushes on one thread, another takes out at its own pace; the engine never waits for it. What is not
/// taken yet is bounded by the request's max_tokens. The tokenizer must outlive it.
class ChatReply final : public Reply {
 public:
  ChatReply(const Tokenizer& tokenizer, std::vector<std::string> stops)
      : text_(tokenizer), stop_matcher_(std::move(stops)) {}

  // The engine's side.
  [[nodiscard]] Reaction push(TokenId token) override;
  [[nodiscard]] bool is_wanted() const noexcept override { return !is_abandoned_.load(std::memory_order_relaxed); }
  void finish(const Outcome& outcome) noexcept override;

  // The client's side.
  struct News {
    std::string text;            ///< all that came since the last call
    std::optional<Outcome> end;  ///< nothing more will come
  };
  /// Waits for text or the end; nothing when neither came in time.
  [[nodiscard]] std::optional<News> wait_for(std::chrono::milliseconds timeout);
  /// Waits for the end; `text` is the whole answer, less what wait_for() has taken.
  [[nodiscard]] News wait_for_end();
  /// The client is gone: the request ends at the engine's next step.
  void abandon() noexcept { is_abandoned_.store(true, std::memory_order_relaxed); }

 private:
  TextStream text_;           // engine's thread only
  StopMatcher stop_matcher_;  // engine's thread only
  std::atomic<bool> is_abandoned_{false};
  std::mutex mutex_;
  std::condition_variable news_;
  std::string ready_;           // guarded by mutex_
  std::optional<Outcome> end_;  // guarded by mutex_
};

}  // namespace mini_engine::serve
