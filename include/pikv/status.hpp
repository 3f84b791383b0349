// How pikv reports that something did not work: a Status, or a Result<T> that holds a value or a Status.
//
// pikv throws nothing of its own except from Result<T>::value(). A cache miss, a chunk that was not admitted or a row
// that must be computed are ordinary values of their own types and never errors.
//
//   pikv::Result<pikv::RopeTable> table = pikv::RopeTable::build(rope, geometry, 8192);
//   if (!table.ok()) return table.status();
//
// Thread-safety: values; const access from several threads is safe.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "pikv/version.hpp"

namespace pikv {
inline namespace v0 {

/// What kind of failure it was, which is also what a caller can do about it.
enum class ErrorCode : std::uint8_t {
  kOk = 0,
  kInvalidArgument,  ///< the call is wrong; fix the caller
  kUnsupported,      ///< correct, but not something this build, backend or model can do; take another path
  kOutOfMemory,      ///< the memory resource refused; free something or ask for less
  kQuotaExceeded,    ///< a configured limit refused; raise it or wait for eviction
  kCorruption,       ///< stored bytes are not what was written; the entry has been dropped, compute instead
  kIoError,          ///< a file or device of storage failed
  kUnavailable,      ///< temporarily out of reach; retry later or compute instead
  kDeviceError,      ///< the accelerator failed; sticky, the backend refuses further work
  kInternal,         ///< a defect in pikv; please report it
};

/// The enumerator's name, for messages ("InvalidArgument"). Never null.
[[nodiscard]] PIKV_API const char* error_code_name(ErrorCode code) noexcept;

/// Success, or a code with a message that names what was wrong and where. One pointer wide; success allocates nothing.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;

  /// Requires: code != kOk.
  PIKV_API Status(ErrorCode code, std::string message);

  [[nodiscard]] bool ok() const noexcept { return failure_ == nullptr; }
  [[nodiscard]] ErrorCode code() const noexcept { return ok() ? ErrorCode::kOk : failure_->code; }
  [[nodiscard]] std::string_view message() const noexcept {
    return ok() ? std::string_view() : std::string_view(failure_->message);
  }
  /// "OK", or "<code name>: <message>".
  [[nodiscard]] PIKV_API std::string to_string() const;

 private:
  struct Failure {
    ErrorCode code;
    std::string message;
  };
  std::shared_ptr<const Failure> failure_;
};

[[nodiscard]] inline Status invalid_argument(std::string message) {
  return Status(ErrorCode::kInvalidArgument, std::move(message));
}
[[nodiscard]] inline Status unsupported(std::string message) {
  return Status(ErrorCode::kUnsupported, std::move(message));
}
[[nodiscard]] inline Status out_of_memory(std::string message) {
  return Status(ErrorCode::kOutOfMemory, std::move(message));
}
[[nodiscard]] inline Status corruption(std::string message) {
  return Status(ErrorCode::kCorruption, std::move(message));
}

/// Thrown by Result<T>::value() alone, for applications that prefer exceptions.
class BadResult : public std::runtime_error {
 public:
  explicit BadResult(const Status& status) : std::runtime_error(status.to_string()), status_(status) {}
  [[nodiscard]] const Status& status() const noexcept { return status_; }

 private:
  Status status_;
};

/// A T, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: a value is a result
  /// Requires: !status.ok(). An OK status without a value becomes kInternal rather than a Result in no state.
  Result(Status status)  // NOLINT: a failure is a result
      : state_(std::in_place_index<1>,
               status.ok() ? Status(ErrorCode::kInternal, "a Result was made of an OK status") : std::move(status)) {}

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  [[nodiscard]] Status status() const { return ok() ? Status() : std::get<1>(state_); }

  /// The value; throws BadResult when there is none.
  [[nodiscard]] T& value() & { return check(), std::get<0>(state_); }
  [[nodiscard]] const T& value() const& { return check(), std::get<0>(state_); }
  [[nodiscard]] T&& value() && { return check(), std::get<0>(std::move(state_)); }

  // Requires: ok().
  [[nodiscard]] T& operator*() & noexcept { return *std::get_if<0>(&state_); }
  [[nodiscard]] const T& operator*() const& noexcept { return *std::get_if<0>(&state_); }
  [[nodiscard]] T&& operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
  [[nodiscard]] T* operator->() noexcept { return std::get_if<0>(&state_); }
  [[nodiscard]] const T* operator->() const noexcept { return std::get_if<0>(&state_); }

 private:
  void check() const {
    if (!ok()) throw BadResult(std::get<1>(state_));
  }
  std::variant<T, Status> state_;
};

}  // namespace v0
}  // namespace pikv

/// Leaves the enclosing function with the Status of `expression` unless it is OK.
#define PIKV_TRY(expression)                                                                 \
  do {                                                                                       \
    if (::pikv::Status pikv_status_ = (expression); !pikv_status_.ok()) return pikv_status_; \
  } while (false)
