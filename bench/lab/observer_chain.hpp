// Several observers of one pass.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "mini_engine/model.hpp"

namespace lab {

/// Calls its observers in order. What only one can decide, the first one decides that wants to.
class ObserverChain final : public mini_engine::PassObserver {
 public:
  /// Null observers are left out; the others must outlive the chain.
  explicit ObserverChain(std::vector<mini_engine::PassObserver*> observers) : observers_(std::move(observers)) {
    std::erase(observers_, nullptr);
  }

  void before_layer(int layer) override {
    for (PassObserver* const observer : observers_) observer->before_layer(layer);
  }
  void on_projected(int layer, const mini_engine::ProjectedRows& rows) override {
    for (PassObserver* const observer : observers_) observer->on_projected(layer, rows);
  }
  [[nodiscard]] std::optional<std::vector<std::int32_t>> rows_that_go_on(int layer) override {
    for (PassObserver* const observer : observers_) {
      if (auto rows = observer->rows_that_go_on(layer)) return rows;
    }
    return std::nullopt;
  }
  void on_queries(int layer, const mini_engine::TurnedQueries& queries) override {
    for (PassObserver* const observer : observers_) observer->on_queries(layer, queries);
  }
  [[nodiscard]] bool attend(int layer, const mini_engine::TurnedQueries& queries, void* out) override {
    for (PassObserver* const observer : observers_) {
      if (observer->attend(layer, queries, out)) return true;
    }
    return false;
  }

 private:
  std::vector<mini_engine::PassObserver*> observers_;
};

}  // namespace lab
