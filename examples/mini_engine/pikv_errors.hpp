// pikv's status values as the engine's exceptions.
#pragma once

#include <utility>

#include "mini_engine/error.hpp"
#include "pikv/status.hpp"

namespace mini_engine {

/// Throws Error with pikv's own message unless `status` is OK.
inline void check(const pikv::Status& status) {
  if (!status.ok()) throw Error("pikv: " + status.to_string());
}

/// The value, or Error.
template <class T>
[[nodiscard]] T take(pikv::Result<T> result) {
  check(result.status());
  return std::move(*result);
}

}  // namespace mini_engine
