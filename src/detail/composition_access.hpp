// What the library's other parts may see of a Composition.
#pragma once

#include <cstdint>
#include <vector>

#include "pikv/composer.hpp"

namespace pikv::detail {

struct CompositionAccess {
  [[nodiscard]] static const KvGeometry& geometry(const Composition& composition) noexcept {
    return composition.geometry_;
  }
  [[nodiscard]] static Backend& backend(const Composition& composition) noexcept { return *composition.backend_; }
  [[nodiscard]] static RopeTableView rope(const Composition& composition) noexcept { return composition.table_.view(); }

  /// One run for each cached piece, in order; its slab is the whole chunk's. rows: checked to be one slot for each row
  /// and to be sliceable; the backend checks the slices.
  [[nodiscard]] static Result<std::vector<KvRun>> runs(const Composition& composition, const SlotMap& rows);
};

}  // namespace pikv::detail
