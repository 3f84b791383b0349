// Copies of host memory on a GPU, and transfers that refer to them: what a test built for the CPU backend runs on CUDA
// without being built anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "pikv/backend.hpp"
#include "pikv/cuda.hpp"
#include "pikv/drift.hpp"
#include "pikv/row_scores.hpp"

namespace test_support {

/// The backend of the first GPU; null, after a loud message, where there is none. Made once.
[[nodiscard]] pikv::Backend* gpu_or_skip();

class DeviceMirror {
 public:
  explicit DeviceMirror(pikv::Backend& backend) : backend_(backend) {}
  DeviceMirror(const DeviceMirror&) = delete;
  DeviceMirror& operator=(const DeviceMirror&) = delete;

  /// Copies a range to the device, between guards, with the alignment that it has within 64 bytes on the host. Adding a
  /// range again copies it again.
  void add(const void* host, std::int64_t size_bytes);
  template <class T>
  void add(const std::vector<T>& values) {
    if (!values.empty()) add(values.data(), static_cast<std::int64_t>(values.size() * sizeof(T)));
  }

  /// Where a byte of an added range lies on the device; null for null.
  template <class T>
  [[nodiscard]] T* at(T* host) const {
    return static_cast<T*>(const_cast<void*>(find(host)));
  }

  /// The same over device memory. Slot, page and position arrays are added on the way; what else is pointed to must
  /// have been added. The result refers to arrays that the mirror owns.
  [[nodiscard]] pikv::KvTransfer translate(const pikv::KvTransfer& transfer, const pikv::RopeTable& table);
  [[nodiscard]] pikv::SlabEncode translate(const pikv::SlabEncode& encode, const pikv::RopeTable& table);
  [[nodiscard]] pikv::DeviationScoring translate(const pikv::DeviationScoring& scoring, const pikv::RopeTable& table);
  [[nodiscard]] pikv::AttentionScoring translate(const pikv::AttentionScoring& scoring);
  /// Adds all arrays of rows, and of weights those that are read.
  [[nodiscard]] pikv::DriftWeighing translate(const pikv::DriftWeighing& weighing, const pikv::RopeTable& table);
  [[nodiscard]] pikv::DriftCorrection translate(const pikv::DriftCorrection& correction, const pikv::RopeTable& table);
  template <class View>
  [[nodiscard]] View translate_view(const View& view, std::int32_t num_layers);

  /// What the device holds of an added range now, once the default stream is done.
  [[nodiscard]] std::vector<std::byte> download(const void* host, std::int64_t size_bytes);
  /// True when no guard of any range was touched.
  [[nodiscard]] bool guards_intact();

 private:
  template <class T>
  [[nodiscard]] std::span<T> translate(std::span<T> array) {
    return {at(array.data()), array.size()};
  }
  template <class T>
  [[nodiscard]] std::span<const T> add_array(std::span<const T> array) {
    if (array.empty()) return {};
    add(array.data(), static_cast<std::int64_t>(array.size_bytes()));
    return translate(array);
  }
  struct Range {
    std::int64_t size_bytes;
    std::int64_t begin;  // within the buffer
    pikv::Buffer buffer;
  };
  [[nodiscard]] const void* find(const void* host) const;
  [[nodiscard]] std::vector<std::byte> read(const Range& range);
  [[nodiscard]] pikv::SlotMap translate(const pikv::SlotMap& map);
  [[nodiscard]] pikv::PositionMap translate(const pikv::PositionMap& map, std::int64_t num_tokens);
  [[nodiscard]] pikv::RopeTableView translate(const pikv::RopeTableView& view, const pikv::RopeTable& table);

  pikv::Backend& backend_;
  std::map<const std::byte*, Range> ranges_;
  std::vector<std::unique_ptr<std::vector<std::byte*>>> layer_bases_;
  std::vector<std::unique_ptr<std::vector<pikv::KvRun>>> runs_;
};

}  // namespace test_support
