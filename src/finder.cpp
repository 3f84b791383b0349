// At a place of the prompt, which chunk is the longest that matches?
//
// Chunks are grouped by the hash of their first window. Where a group's window turns up, a binary search over prefix
// lengths finds the answer in a logarithmic number of probes, however many chunks the group has and however alike they
// are. For that, a chunk of window + r tokens leaves a marker at each length that a search for it passes through: the
// window plus the 1, 2, 3, ... highest set bits of r. A search tries the bits from the highest down and keeps those
// that lead to a marker.
//
// A search may follow markers of a longer chunk past the end of the one it should find. So every marker knows its
// `best`: the longest chunk that its string begins with. When a search stands on a marker, the prompt begins with that
// marker's string, hence with its best; and the longest chunk C that matches is never lost, because the search passes
// either through C's own last marker or through one whose string begins with C.
//
// Hashes decide where to look, and tokens decide what is reported. A collision can hide a chunk and never invent one.
#include "pikv/finder.hpp"

#include <openssl/rand.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>

#include "counting_filter.hpp"
#include "detail/flat_map.hpp"
#include "rolling_hash.hpp"

namespace pikv {
inline namespace v0 {
namespace {

using detail::kHashPrime;

/// A chunk's tokens with the hashes of all their prefixes.
struct Entry {
  ChunkKey key;
  std::vector<TokenId> tokens;
  std::vector<std::uint64_t> hashes;  // [num tokens + 1]

  [[nodiscard]] std::size_t length() const noexcept { return tokens.size(); }
  [[nodiscard]] std::uint64_t hash() const noexcept { return hashes.back(); }
  [[nodiscard]] bool begins_with(const Entry& other) const noexcept {
    return length() >= other.length() && hashes[other.length()] == other.hash();
  }
};

struct WindowKey {
  std::uint64_t hash = 0;
  friend bool operator==(const WindowKey&, const WindowKey&) = default;
  [[nodiscard]] std::uint64_t spread() const noexcept { return hash ^ hash >> 32; }
};

/// A string of `length` tokens.
struct MarkerKey {
  std::uint64_t hash = 0;
  std::uint32_t length = 0;
  friend bool operator==(const MarkerKey&, const MarkerKey&) = default;
  [[nodiscard]] std::uint64_t spread() const noexcept {
    return WindowKey{hash + length * 0x9E3779B97F4A7C15U}.spread();
  }
};

struct Marker {
  std::int32_t num_chunks = 0;  // that left it
  const Entry* best = nullptr;
};

/// The chunks that begin with one window.
using Group = std::vector<const Entry*>;

/// What a search needs of a group.
struct Window {
  const Entry* best = nullptr;    // a chunk of just the window's tokens
  std::uint32_t highest_bit = 0;  // of r over the group's chunks; 0 when all r are 0
};

[[nodiscard]] std::uint64_t splitmix(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9U;
  x = (x ^ x >> 27) * 0x94D049BB133111EBU;
  return x ^ x >> 31;
}

/// Calls `visit(length)` for each marker of a chunk beyond its window, shortest first.
template <class Visit>
void for_each_marker(std::size_t window, std::size_t length, Visit visit) {
  std::size_t rest = length - window;
  std::size_t at = window;
  while (rest != 0) {
    const std::size_t bit = std::bit_floor(rest);
    at += bit;
    rest -= bit;
    visit(at);
  }
}

}  // namespace

struct ChunkFinder::Impl {
  explicit Impl(std::size_t window_tokens, std::uint64_t base_) : window(window_tokens), base(base_), powers{1} {
    extend_powers(window);
  }

  void extend_powers(std::size_t length) {
    while (powers.size() <= length) powers.push_back(detail::multiply(powers.back(), base));
  }

  void reserve_in_filter() {
    if (!filter.crowded()) return;
    filter.rebuild();
    for (const auto& [hash, group] : groups) filter.insert(hash);
  }

  [[nodiscard]] static MarkerKey marker_key(const Entry& entry, std::size_t length) noexcept {
    return {entry.hashes[length], static_cast<std::uint32_t>(length)};
  }
  [[nodiscard]] WindowKey window_key(const Entry& entry) const noexcept { return {entry.hashes[window]}; }

  void link(const Entry& entry, Group& group) noexcept;
  void unlink(const Entry& entry, Group& group) noexcept;
  void summarize(const Group& group, Window& summary) const noexcept;
  [[nodiscard]] const Entry* longest(const Group& group, const Entry& entry, std::size_t length) const noexcept;
  [[nodiscard]] const Entry* search(const std::vector<std::uint64_t>& hashes, std::size_t begin,
                                    std::uint64_t window_hash) const noexcept;

  std::size_t window;
  std::uint64_t base;
  std::vector<std::uint64_t> powers;  // of the base, up to the longest chunk there ever was
  std::unordered_map<ChunkKey, std::unique_ptr<Entry>, ChunkKeyHash> entries;
  std::unordered_map<std::uint64_t, Group> groups;  // by the window's hash
  detail::FlatMap<WindowKey, Window> windows;       // one for each group
  detail::CountingFilter filter;                    // of the windows' hashes
  detail::FlatMap<MarkerKey, Marker> markers;
};

/// The longest chunk of the group, of at most `length` tokens, that `entry` begins with. Null when there is none.
const Entry* ChunkFinder::Impl::longest(const Group& group, const Entry& entry, std::size_t length) const noexcept {
  const Entry* best = nullptr;
  for (const Entry* other : group) {
    if (other->length() <= length && (best == nullptr || other->length() > best->length()) &&
        entry.begins_with(*other)) {
      best = other;
    }
  }
  return best;
}

void ChunkFinder::Impl::summarize(const Group& group, Window& summary) const noexcept {
  summary = Window();
  for (const Entry* entry : group) {
    const std::size_t rest = entry->length() - window;
    if (rest == 0) summary.best = entry;
    summary.highest_bit = std::max(summary.highest_bit, static_cast<std::uint32_t>(std::bit_floor(rest)));
  }
}

/// The entry is in the group already; room for its markers and its window was reserved.
void ChunkFinder::Impl::link(const Entry& entry, Group& group) noexcept {
  const auto [summary, new_window] = windows.insert(window_key(entry));
  if (new_window) filter.insert(window_key(entry).hash);
  summarize(group, *summary);
  for_each_marker(window, entry.length(), [&](std::size_t length) {
    const auto [marker, inserted] = markers.insert(marker_key(entry, length));
    ++marker->num_chunks;
    if (inserted) marker->best = longest(group, entry, length);
  });
  // Markers of longer chunks that begin with this one, and its own last marker if it was there.
  for (const Entry* other : group) {
    if (!other->begins_with(entry)) continue;
    for_each_marker(window, other->length(), [&](std::size_t length) {
      if (length < entry.length()) return;
      Marker* marker = markers.find(marker_key(*other, length));
      if (marker != nullptr && (marker->best == nullptr || marker->best->length() < entry.length())) {
        marker->best = &entry;
      }
    });
  }
}

/// The entry has left the group already.
void ChunkFinder::Impl::unlink(const Entry& entry, Group& group) noexcept {
  if (group.empty()) {
    windows.erase(window_key(entry));
    filter.erase(window_key(entry).hash);
  } else {
    summarize(group, *windows.find(window_key(entry)));
  }
  for_each_marker(window, entry.length(), [&](std::size_t length) {
    const MarkerKey key = marker_key(entry, length);
    if (Marker* marker = markers.find(key); marker != nullptr && --marker->num_chunks == 0) markers.erase(key);
  });
  const Entry* next = longest(group, entry, entry.length());
  for (const Entry* other : group) {
    if (!other->begins_with(entry)) continue;
    for_each_marker(window, other->length(), [&](std::size_t length) {
      Marker* marker = markers.find(marker_key(*other, length));
      if (marker != nullptr && marker->best == &entry) marker->best = next;
    });
  }
}

/// The longest chunk whose hash matches the prompt from `begin` on, where the window of hash `window_hash` stands.
const Entry* ChunkFinder::Impl::search(const std::vector<std::uint64_t>& hashes, std::size_t begin,
                                       std::uint64_t window_hash) const noexcept {
  const Window* found = windows.find({window_hash});
  if (found == nullptr) return nullptr;
  const std::uint64_t before = hashes[begin];
  const Entry* best = found->best;
  const std::size_t num_tokens = hashes.size() - 1;
  std::size_t length = window;
  for (std::size_t bit = found->highest_bit; bit != 0; bit >>= 1) {
    const std::size_t tried = length + bit;
    if (tried > num_tokens - begin || tried >= powers.size()) continue;
    const std::uint64_t hash = detail::remove_prefix(hashes[begin + tried], before, powers[tried]);
    if (const Marker* marker = markers.find({hash, static_cast<std::uint32_t>(tried)}); marker != nullptr) {
      length = tried;
      if (marker->best != nullptr) best = marker->best;
    }
  }
  return best;
}

Result<ChunkFinder> ChunkFinder::create(const FinderOptions& options) try {
  if (options.window_tokens < 1 || options.window_tokens > 4096) {
    return invalid_argument("ChunkFinder: window_tokens is " + std::to_string(options.window_tokens) +
                            ", outside [1, 4096]");
  }
  std::uint64_t random = splitmix(options.seed);
  if (options.seed == 0 && RAND_bytes(reinterpret_cast<unsigned char*>(&random), sizeof random) != 1) {
    return Status(ErrorCode::kUnavailable, "ChunkFinder: the system gives no random bytes");
  }
  // A base above every token id, so that short strings do not collide by construction.
  constexpr std::uint64_t kSmallest = std::uint64_t{1} << 32;
  const std::uint64_t base = kSmallest + random % (kHashPrime - 1 - kSmallest);
  return ChunkFinder(std::make_unique<Impl>(static_cast<std::size_t>(options.window_tokens), base));
} catch (const std::bad_alloc&) {
  return out_of_memory("ChunkFinder: no memory for its tables");
}

ChunkFinder::ChunkFinder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChunkFinder::~ChunkFinder() = default;
ChunkFinder::ChunkFinder(ChunkFinder&&) noexcept = default;
ChunkFinder& ChunkFinder::operator=(ChunkFinder&&) noexcept = default;

Status ChunkFinder::add(const ChunkKey& key, std::span<const TokenId> tokens) try {
  Impl& impl = *impl_;
  if (tokens.size() < impl.window) {
    return invalid_argument("ChunkFinder: chunk " + key.to_hex() + " has " + std::to_string(tokens.size()) +
                            " tokens, fewer than the window of " + std::to_string(impl.window));
  }
  if (tokens.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return invalid_argument("ChunkFinder: chunk " + key.to_hex() + " has 2^31 tokens or more");
  }
  if (const auto known = impl.entries.find(key); known != impl.entries.end()) {
    if (std::equal(tokens.begin(), tokens.end(), known->second->tokens.begin(), known->second->tokens.end())) return {};
    return invalid_argument("ChunkFinder: chunk " + key.to_hex() + " is known with other tokens");
  }

  // Everything that allocates comes first, and leaves nothing behind that is seen.
  auto entry = std::make_unique<Entry>();
  entry->key = key;
  entry->tokens.assign(tokens.begin(), tokens.end());
  entry->hashes = detail::prefix_hashes(tokens, impl.base);
  impl.extend_powers(tokens.size());
  impl.windows.reserve_more(1);
  impl.reserve_in_filter();
  impl.markers.reserve_more(static_cast<std::size_t>(std::popcount(tokens.size() - impl.window)));
  const Entry& added = *entry;
  const std::uint64_t window_hash = added.hashes[impl.window];
  Group& group = impl.groups[window_hash];
  try {
    group.push_back(&added);
    impl.entries.emplace(key, std::move(entry));
  } catch (...) {
    std::erase(group, &added);
    if (group.empty()) impl.groups.erase(window_hash);
    throw;
  }
  impl.link(added, group);
  return {};
} catch (const std::bad_alloc&) {
  return out_of_memory("ChunkFinder: no memory for a chunk of " + std::to_string(tokens.size()) + " tokens");
}

bool ChunkFinder::remove(const ChunkKey& key) {
  const auto known = impl_->entries.find(key);
  if (known == impl_->entries.end()) return false;
  const Entry& entry = *known->second;
  const auto group = impl_->groups.find(entry.hashes[impl_->window]);
  std::erase(group->second, &entry);
  impl_->unlink(entry, group->second);
  if (group->second.empty()) impl_->groups.erase(group);
  impl_->entries.erase(known);
  return true;
}

std::vector<FoundChunk> ChunkFinder::find(std::span<const TokenId> prompt) const {
  std::vector<FoundChunk> found;
  if (impl_->entries.empty() || prompt.size() < impl_->window) return found;
  const std::vector<std::uint64_t> hashes = detail::prefix_hashes(prompt, impl_->base);
  const std::size_t window = impl_->window;
  const std::uint64_t window_power = impl_->powers[window];
  for (std::size_t begin = 0; begin + window <= prompt.size();) {
    const std::uint64_t window_hash = detail::remove_prefix(hashes[begin + window], hashes[begin], window_power);
    const Entry* entry = impl_->filter.may_contain(window_hash) ? impl_->search(hashes, begin, window_hash) : nullptr;
    if (entry == nullptr || !std::equal(entry->tokens.begin(), entry->tokens.end(), prompt.begin() + begin)) {
      ++begin;
      continue;
    }
    found.push_back({entry->key, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(entry->length())});
    begin += entry->length();
  }
  return found;
}

std::int64_t ChunkFinder::size() const noexcept { return static_cast<std::int64_t>(impl_->entries.size()); }

}  // namespace v0
}  // namespace pikv
