// Replies that remember, and a model that can be watched, held and made to fail, for tests of the server.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "mini_engine/model.hpp"
#include "mini_engine/serve/request.hpp"

namespace test_support {

/// Keeps what it is told. Any thread may wait for it.
class RecordingReply final : public mini_engine::serve::Reply {
 public:
  using Reaction = mini_engine::serve::Reply::Reaction;

  /// The reaction to the token that makes `count`; kContinue to all others.
  void react(int count, Reaction reaction) {
    const std::lock_guard lock(mutex_);
    reactions_.emplace_back(count, reaction);
  }
  void abandon() {
    const std::lock_guard lock(mutex_);
    is_wanted_ = false;
  }

  Reaction push(mini_engine::TokenId token) override {
    const std::lock_guard lock(mutex_);
    tokens_.push_back(token);
    changed_.notify_all();
    for (const auto& [count, reaction] : reactions_) {
      if (count == static_cast<int>(tokens_.size())) return reaction;
    }
    return Reaction::kContinue;
  }
  [[nodiscard]] bool is_wanted() const noexcept override {
    const std::lock_guard lock(mutex_);
    return is_wanted_;
  }
  void finish(const mini_engine::serve::Outcome& outcome) noexcept override {
    const std::lock_guard lock(mutex_);
    outcome_ = outcome;
    ++num_ends_;
    changed_.notify_all();
  }

  /// Waits for the end; nothing when it does not come within 20 seconds.
  std::optional<mini_engine::serve::Outcome> outcome() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [this] { return num_ends_ > 0; });
    return outcome_;
  }
  void wait_for_tokens(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return tokens_.size() >= count; });
  }
  std::vector<mini_engine::TokenId> tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  int num_ends() const {
    const std::lock_guard lock(mutex_);
    return num_ends_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<int, Reaction>> reactions_;
  std::vector<mini_engine::TokenId> tokens_;
  bool is_wanted_ = true;
  std::optional<mini_engine::serve::Outcome> outcome_;
  int num_ends_ = 0;
};

/// Another model, with a look at every batch before it is computed; what `before` throws is thrown.
class WatchedModel final : public mini_engine::Model {
 public:
  using Watch = std::function<void(std::span<const mini_engine::SequencePass>)>;
  WatchedModel(mini_engine::Model& model, Watch before) : model_(model), before_(std::move(before)) {}
  [[nodiscard]] const mini_engine::ModelConfig& config() const override { return model_.config(); }
  [[nodiscard]] const mini_engine::RotaryTable& rotary() const override { return model_.rotary(); }
  std::vector<std::vector<float>> forward(std::span<const mini_engine::SequencePass> passes) override {
    before_(passes);
    return model_.forward(passes);
  }

 private:
  mini_engine::Model& model_;
  Watch before_;
};

/// Holds a thread until another opens it.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++num_arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return is_open_; });
  }
  void wait_for_arrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return num_arrived_ > 0; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int num_arrived_ = 0;
  bool is_open_ = false;
};

}  // namespace test_support
