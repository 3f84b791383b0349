#include "pikv/status.hpp"

namespace pikv {
inline namespace v0 {

const char* error_code_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kOk:
      return "OK";
    case ErrorCode::kInvalidArgument:
      return "InvalidArgument";
    case ErrorCode::kUnsupported:
      return "Unsupported";
    case ErrorCode::kOutOfMemory:
      return "OutOfMemory";
    case ErrorCode::kQuotaExceeded:
      return "QuotaExceeded";
    case ErrorCode::kCorruption:
      return "Corruption";
    case ErrorCode::kIoError:
      return "IoError";
    case ErrorCode::kUnavailable:
      return "Unavailable";
    case ErrorCode::kDeviceError:
      return "DeviceError";
    case ErrorCode::kInternal:
      return "Internal";
  }
  return "Unknown";
}

Status::Status(ErrorCode code, std::string message) {
  // A failure that calls itself OK is a defect of the caller; it must not read as success.
  if (code == ErrorCode::kOk) code = ErrorCode::kInternal;
  failure_ = std::make_shared<const Failure>(Failure{code, std::move(message)});
}

std::string Status::to_string() const {
  if (ok()) return error_code_name(ErrorCode::kOk);
  return std::string(error_code_name(failure_->code)) + ": " + failure_->message;
}

}  // namespace v0
}  // namespace pikv
