// Small arrays on their way to where a backend works and back, for whoever measures with a RowScorer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mini_engine/pikv_errors.hpp"
#include "pikv/pikv.hpp"

namespace mini_engine {

/// The backend must outlive it and what it uploads. Throws Error as pikv's calls fail.
class ProbeMemory {
 public:
  ProbeMemory(pikv::Backend& backend, pikv::StreamRef stream) : backend_(backend), stream_(stream) {}

  /// Room for so many elements, whose values are undefined.
  template <class T>
  [[nodiscard]] pikv::Buffer allocate(std::size_t count) const {
    return take(
        pikv::Buffer::allocate(std::max<std::size_t>(count, 1) * sizeof(T), backend_.memory_resource(), stream_));
  }
  template <class T>
  [[nodiscard]] pikv::Buffer upload(const std::vector<T>& values) const {
    pikv::Buffer buffer = allocate<T>(values.size());
    if (!values.empty()) {
      check(backend_.copy_async(buffer.data(), values.data(), values.size() * sizeof(T), stream_));
    }
    return buffer;
  }
  /// Waits until the scores are there.
  [[nodiscard]] std::vector<float> download(const pikv::Buffer& buffer, std::size_t count) const {
    std::vector<float> values(count);
    if (count == 0) return values;
    check(backend_.copy_async(values.data(), buffer.data(), count * sizeof(float), stream_));
    check(backend_.synchronize(stream_));
    return values;
  }

 private:
  pikv::Backend& backend_;
  pikv::StreamRef stream_;
};

template <class T>
std::span<const T> elements(const pikv::Buffer& buffer, std::size_t count) {
  return {reinterpret_cast<const T*>(buffer.data()), count};
}
inline pikv::SlotMap slots_of(const pikv::Buffer& buffer, std::size_t count) {
  return pikv::SlotMap::per_token(reinterpret_cast<const pikv::Slot*>(buffer.data()), static_cast<std::int64_t>(count));
}
inline std::span<float> scores_of(pikv::Buffer& buffer, std::size_t count) {
  return {reinterpret_cast<float*>(buffer.data()), count};
}

}  // namespace mini_engine
