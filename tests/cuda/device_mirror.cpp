#include "cuda/device_mirror.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace test_support {
namespace {

constexpr std::int64_t kGuardBytes = 256;
constexpr std::byte kGuard{0xA5};
const pikv::StreamRef kStream = pikv::StreamRef::legacy_default();

void require_ok(const pikv::Status& status) { REQUIRE_MESSAGE(status.ok(), status.to_string()); }

}  // namespace

pikv::Backend* gpu_or_skip() {
  static const pikv::Result<std::unique_ptr<pikv::Backend>> backend = pikv::make_cuda_backend();
  if (backend.ok()) return backend->get();
  std::printf("SKIPPED, no GPU was tested: %s\n", backend.status().to_string().c_str());
  return nullptr;
}

void DeviceMirror::add(const void* host, std::int64_t size_bytes) {
  if (size_bytes == 0) return;
  const auto* const begin = static_cast<const std::byte*>(host);
  auto found = ranges_.find(begin);
  if (found == ranges_.end()) {
    Range range{.size_bytes = size_bytes,
                .begin = kGuardBytes + static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(host) % 64),
                .buffer = {}};
    auto buffer = pikv::Buffer::allocate(static_cast<std::size_t>(size_bytes + 2 * kGuardBytes + 64),
                                         backend_.memory_resource(), kStream);
    require_ok(buffer.status());
    range.buffer = std::move(*buffer);
    found = ranges_.emplace(begin, std::move(range)).first;
  }
  Range& range = found->second;
  REQUIRE(range.size_bytes == size_bytes);
  std::vector<std::byte> image(range.buffer.size_bytes(), kGuard);
  std::copy_n(begin, size_bytes, image.begin() + range.begin);
  require_ok(backend_.copy_async(range.buffer.data(), image.data(), image.size(), kStream));
  require_ok(backend_.synchronize(kStream));
}

const void* DeviceMirror::find(const void* host) const {
  if (host == nullptr) return nullptr;
  const auto* const address = static_cast<const std::byte*>(host);
  auto after = ranges_.upper_bound(address);
  REQUIRE_MESSAGE(after != ranges_.begin(), "an address that was not added");
  const auto& [begin, range] = *std::prev(after);
  REQUIRE_MESSAGE(address <= begin + range.size_bytes, "an address that was not added");
  return range.buffer.data() + range.begin + (address - begin);
}

template <class View>
View DeviceMirror::translate_view(const View& view, std::int32_t num_layers) {
  View there = view;
  there.space = pikv::MemorySpace::kDevice;
  there.k_base = at(view.k_base);
  there.v_base = at(view.v_base);
  there.scales.k = at(view.scales.k);
  there.scales.v = at(view.scales.v);
  if (view.k_layers == nullptr) return there;
  layer_bases_.push_back(std::make_unique<std::vector<std::byte*>>());
  std::vector<std::byte*>& bases = *layer_bases_.back();
  for (auto* const* layers : {view.k_layers, view.v_layers}) {
    for (std::int32_t layer = 0; layer < num_layers; ++layer)
      bases.push_back(const_cast<std::byte*>(at(layers[layer])));
  }
  there.k_layers = bases.data();
  there.v_layers = bases.data() + num_layers;
  return there;
}
template pikv::KvView DeviceMirror::translate_view(const pikv::KvView&, std::int32_t);
template pikv::ConstKvView DeviceMirror::translate_view(const pikv::ConstKvView&, std::int32_t);

pikv::SlotMap DeviceMirror::translate(const pikv::SlotMap& map) {
  const std::int64_t num_tokens = map.num_tokens();
  if (num_tokens == 0) return map;
  switch (map.kind()) {
    case pikv::SlotMap::Kind::kConsecutive:
      return map;
    case pikv::SlotMap::Kind::kPerToken:
      add(map.slots(), num_tokens * static_cast<std::int64_t>(sizeof(pikv::Slot)));
      return pikv::SlotMap::per_token(at(map.slots()), num_tokens);
    case pikv::SlotMap::Kind::kPageTable: {
      const std::int64_t num_pages = (map.first() + num_tokens + map.page_size() - 1) / map.page_size();
      add(map.pages(), num_pages * static_cast<std::int64_t>(sizeof(std::int32_t)));
      return pikv::SlotMap::page_table(at(map.pages()), map.page_size(), map.first(), num_tokens);
    }
  }
  return map;
}

pikv::PositionMap DeviceMirror::translate(const pikv::PositionMap& map, std::int64_t num_tokens) {
  if (!map.is_per_token() || num_tokens == 0) return map;
  add(map.array(), num_tokens * static_cast<std::int64_t>(sizeof(pikv::Position)));
  return pikv::PositionMap::per_token(at(map.array()));
}

pikv::RopeTableView DeviceMirror::translate(const pikv::RopeTableView& view, const pikv::RopeTable& table) {
  if (!view.turns()) return view;
  // Tables are large and shared by many cases, so each is copied once.
  static std::map<const float*, pikv::RopeTable> copies;
  auto found = copies.find(view.values);
  if (found == copies.end()) {
    auto copy = pikv::copy_table(table, backend_, backend_.memory_resource());
    require_ok(copy.status());
    found = copies.emplace(view.values, std::move(*copy)).first;
  }
  pikv::RopeTableView there = view;
  there.values = found->second.view().values;
  return there;
}

pikv::KvTransfer DeviceMirror::translate(const pikv::KvTransfer& transfer, const pikv::RopeTable& table) {
  const std::int32_t num_layers = transfer.geometry.num_layers;
  runs_.push_back(std::make_unique<std::vector<pikv::KvRun>>(transfer.runs.begin(), transfer.runs.end()));
  for (pikv::KvRun& run : *runs_.back()) {
    const std::int64_t num_tokens = run.target_slots.num_tokens();
    if (run.slab.data != nullptr) {
      run.slab.data = at(run.slab.data);
      run.slab.encoding.key_bias = at(run.slab.encoding.key_bias);
      run.slab.space = pikv::MemorySpace::kDevice;
    } else {
      run.source = translate_view(run.source, num_layers);
    }
    run.source_slots = translate(run.source_slots);
    run.target_slots = translate(run.target_slots);
    if (transfer.rope.turns()) run.positions = translate(run.positions, num_tokens);
  }
  pikv::KvTransfer there = transfer;
  there.runs = *runs_.back();
  there.target = translate_view(transfer.target, num_layers);
  there.rope = translate(transfer.rope, table);
  return there;
}

pikv::SlabEncode DeviceMirror::translate(const pikv::SlabEncode& encode, const pikv::RopeTable& table) {
  pikv::SlabEncode there = encode;
  there.source = translate_view(encode.source, encode.geometry.num_layers);
  there.source_slots = translate(encode.source_slots);
  if (encode.rope.turns()) there.positions = translate(encode.positions, encode.source_slots.num_tokens());
  there.rope = translate(encode.rope, table);
  there.target.data = at(encode.target.data);
  there.target.encoding.key_bias = at(encode.target.encoding.key_bias);
  there.target.space = pikv::MemorySpace::kDevice;
  return there;
}

pikv::DeviationScoring DeviceMirror::translate(const pikv::DeviationScoring& scoring, const pikv::RopeTable& table) {
  pikv::DeviationScoring there = scoring;
  there.fresh = translate_view(scoring.fresh, 1);
  there.fresh_slots = translate(scoring.fresh_slots);
  there.cached = translate_view(scoring.cached, scoring.geometry.num_layers);
  there.cached_slots = translate(scoring.cached_slots);
  if (scoring.rope.turns()) there.positions = translate(scoring.positions, scoring.fresh_slots.num_tokens());
  there.rope = translate(scoring.rope, table);
  there.scores = translate(scoring.scores);
  return there;
}

pikv::AttentionScoring DeviceMirror::translate(const pikv::AttentionScoring& scoring) {
  pikv::AttentionScoring there = scoring;
  there.keys = translate_view(scoring.keys, scoring.geometry.num_layers);
  there.key_slots = translate(scoring.key_slots);
  there.queries = at(scoring.queries);
  there.query_rows = translate(scoring.query_rows);
  there.key_scores = translate(scoring.key_scores);
  there.key_segments = translate(scoring.key_segments);
  there.segment_scores = translate(scoring.segment_scores);
  return there;
}

pikv::DriftWeighing DeviceMirror::translate(const pikv::DriftWeighing& weighing, const pikv::RopeTable& table) {
  pikv::DriftWeighing there = weighing;
  there.cached = translate_view(weighing.cached, weighing.geometry.num_layers);
  there.row_slots = translate(weighing.row_slots);
  there.sample_rows = add_array(weighing.sample_rows);
  there.target_rows = add_array(weighing.target_rows);
  there.sample_chunks = add_array(weighing.sample_chunks);
  there.target_chunks = add_array(weighing.target_chunks);
  there.rope = translate(weighing.rope, table);
  there.weights = translate(weighing.weights);
  return there;
}

pikv::DriftCorrection DeviceMirror::translate(const pikv::DriftCorrection& correction, const pikv::RopeTable& table) {
  pikv::DriftCorrection there = correction;
  there.fresh = translate_view(correction.fresh, 1);
  there.fresh_slots = translate(correction.fresh_slots);
  there.cached = translate_view(correction.cached, correction.geometry.num_layers);
  there.row_slots = translate(correction.row_slots);
  there.sample_rows = add_array(correction.sample_rows);
  there.target_rows = add_array(correction.target_rows);
  there.weights = add_array(correction.weights);
  there.rope = translate(correction.rope, table);
  return there;
}

std::vector<std::byte> DeviceMirror::read(const Range& range) {
  std::vector<std::byte> image(range.buffer.size_bytes());
  require_ok(backend_.copy_async(image.data(), range.buffer.data(), image.size(), kStream));
  require_ok(backend_.synchronize(kStream));
  return image;
}

std::vector<std::byte> DeviceMirror::download(const void* host, std::int64_t size_bytes) {
  const Range& range = ranges_.at(static_cast<const std::byte*>(host));
  REQUIRE(range.size_bytes == size_bytes);
  const std::vector<std::byte> image = read(range);
  return {image.begin() + range.begin, image.begin() + range.begin + size_bytes};
}

bool DeviceMirror::guards_intact() {
  return std::all_of(ranges_.begin(), ranges_.end(), [&](const auto& entry) {
    const Range& range = entry.second;
    const std::vector<std::byte> image = read(range);
    const auto is_guard = [](std::byte byte) { return byte == kGuard; };
    return std::all_of(image.begin(), image.begin() + range.begin, is_guard) &&
           std::all_of(image.begin() + range.begin + range.size_bytes, image.end(), is_guard);
  });
}

}  // namespace test_support
