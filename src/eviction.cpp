// Invariant of the LRU: `order_` holds every key between its on_insert() and its on_remove() exactly once, the most
// recently inserted or accessed one in front, and `places_` maps each of them to its node in `order_`.
#include <list>
#include <unordered_map>

#include "pikv/tier.hpp"

namespace pikv {
inline namespace v0 {
namespace {

class LruEviction final : public EvictionPolicy {
 public:
  void on_insert(const ChunkKey& key, std::int64_t /*footprint_bytes*/) override {
    order_.push_front(key);
    try {
      places_.emplace(key, order_.begin());
    } catch (...) {
      order_.pop_front();
      throw;
    }
  }

  void on_access(const ChunkKey& key) override {
    if (const auto place = places_.find(key); place != places_.end()) {
      order_.splice(order_.begin(), order_, place->second);
    }
  }

  void on_remove(const ChunkKey& key) override {
    if (const auto place = places_.find(key); place != places_.end()) {
      order_.erase(place->second);
      places_.erase(place);
    }
  }

  void visit_victims(Visitor& visitor) const override {
    for (auto key = order_.rbegin(); key != order_.rend() && visitor.visit(*key); ++key) {
    }
  }

 private:
  std::list<ChunkKey> order_;
  std::unordered_map<ChunkKey, std::list<ChunkKey>::iterator, ChunkKeyHash> places_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> make_lru_eviction() { return std::make_unique<LruEviction>(); }

}  // namespace v0
}  // namespace pikv
