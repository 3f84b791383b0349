#include "mini_engine/serve/chat_reply.hpp"

#include <utility>

namespace mini_engine::serve {

Reply::Reaction ChatReply::push(TokenId token) {
  if (!is_wanted()) return Reaction::kCancel;
  const std::string text = stop_matcher_.push(text_.push(token));
  if (!text.empty()) {
    {
      const std::lock_guard lock(mutex_);
      ready_ += text;
    }
    news_.notify_one();
  }
  return stop_matcher_.has_stopped() ? Reaction::kStop : Reaction::kContinue;
}

void ChatReply::finish(const Outcome& outcome) noexcept {
  std::string text = stop_matcher_.push(text_.finish());
  text += stop_matcher_.finish();
  const std::lock_guard lock(mutex_);
  ready_ += text;
  end_ = outcome;
  // Under the lock: the other side may let go of this object as soon as it sees the end.
  news_.notify_one();
}

std::optional<ChatReply::News> ChatReply::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!news_.wait_for(lock, timeout, [this] { return end_ || !ready_.empty(); })) return std::nullopt;
  return News{.text = std::exchange(ready_, {}), .end = end_};
}

ChatReply::News ChatReply::wait_for_end() {
  std::unique_lock lock(mutex_);
  news_.wait(lock, [this] { return end_.has_value(); });
  return News{.text = std::exchange(ready_, {}), .end = end_};
}

}  // namespace mini_engine::serve
