// What the scheduler takes in and gives back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mini_engine/sampler.hpp"
#include "mini_engine/types.hpp"

namespace mini_engine::serve {

/// A run of prompt tokens. Documents are the runs that a PromptPlacer may have rows of.
struct PromptSegment {
  enum class Kind : std::uint8_t { kText, kDocument };
  Kind kind = Kind::kText;
  std::vector<TokenId> tokens;
};

struct Request {
  std::vector<PromptSegment> segments;  ///< the prompt is their tokens in order; at least one token
  int max_tokens = 0;                   ///< at least 1
  SamplerOptions sampling;
};

[[nodiscard]] std::vector<TokenId> prompt_tokens(const Request& request);
[[nodiscard]] std::size_t num_prompt_tokens(const Request& request);

enum class EndReason : std::uint8_t {
  kEndOfText,     ///< the model gave one of its end tokens
  kTokenLimit,    ///< max_tokens are generated
  kContextLimit,  ///< the model has no further positions
  kStopped,       ///< Reply::push() said that the answer is complete
  kCancelled,     ///< nobody wants the answer any more
  kShutdown,      ///< the server stops
  kFailed         ///< the message says why
};
inline constexpr int kNumEndReasons = 7;
/// As metrics show it.
[[nodiscard]] std::string_view name_of(EndReason reason);

/// How an accepted request ended.
struct Outcome {
  EndReason reason = EndReason::kFailed;
  std::string message;  ///< of kFailed; else empty
  int num_prompt_tokens = 0;
  int num_cached_tokens = 0;     ///< of them, rows that the placer provided
  int num_generated_tokens = 0;  ///< given to push()
};

/// Why a request was not accepted.
struct Refusal {
  enum class Reason : std::uint8_t {
    kInvalid,    ///< can never be served
    kTooLong,    ///< more rows than the model has positions or the cache has slots
    kQueueFull,  ///< try again later
    kStopping    ///< the server shuts down
  };
  Reason reason = Reason::kInvalid;
  std::string message;
};
inline constexpr int kNumRefusalReasons = 4;
[[nodiscard]] std::string_view name_of(Refusal::Reason reason);

/// Where the answer to one request goes. All members are called on the engine's thread, one at a time and with no lock
/// held; they hold up every running request, so they must be quick and must not wait for a client.
class Reply {
 public:
  enum class Reaction : std::uint8_t {
    kContinue,
    kStop,   ///< the answer is complete
    kCancel  ///< nobody wants it
  };
  virtual ~Reply() = default;
  /// A token as soon as it is chosen. An exception fails the request.
  [[nodiscard]] virtual Reaction push(TokenId token) = 0;
  /// Asked before every step, also while the request waits; false cancels it.
  [[nodiscard]] virtual bool is_wanted() const noexcept { return true; }
  /// The last call, exactly once for every accepted request. The request's pages are free by then.
  virtual void finish(const Outcome& outcome) noexcept = 0;
};

}  // namespace mini_engine::serve
