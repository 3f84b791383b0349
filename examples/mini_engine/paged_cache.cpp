#include "paged_cache.hpp"

#include <limits>
#include <new>
#include <string>
#include <utility>

#include "error.hpp"

namespace mini_engine {
namespace {

// Throws rather than wraps around.
std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) throw Error("the size of the KV cache overflows 63 bits");
  return out;
}

int positive(const char* field, int value) {
  if (value <= 0) throw Error("KV cache: " + std::string(field) + " is " + std::to_string(value) + ", not positive");
  return value;
}

}  // namespace

PagedCache::PagedCache(const ModelConfig& config, Precision precision, int num_pages, int page_size)
    : PagedCache(config, precision, num_pages, page_size, CacheMemory::kHost, [](std::size_t size_bytes) {
        // Zeroed, so that a slot nobody has written holds numbers.
        return std::shared_ptr<std::byte>(new (std::nothrow) std::byte[size_bytes](),
                                          std::default_delete<std::byte[]>());
      }) {}

PagedCache::PagedCache(const ModelConfig& config, Precision precision, int num_pages, int page_size, CacheMemory memory,
                       const CacheAllocator& allocate)
    : precision_(precision),
      memory_(memory),
      num_pages_(positive("number of pages", num_pages)),
      page_size_(positive("page size", page_size)) {
  strides_.head = positive("head size", config.head_dim);
  strides_.token = product(strides_.head, positive("number of KV heads", config.num_kv_heads));
  strides_.value_offset = product(strides_.token, page_size);
  strides_.page = product(strides_.value_offset, 2);
  strides_.layer = product(strides_.page, num_pages);
  const std::int64_t num_elements = product(strides_.layer, positive("number of layers", config.num_layers));
  const std::int64_t element_bytes = precision == Precision::kFloat32 ? 4 : 2;
  size_bytes_ = static_cast<std::size_t>(product(num_elements, element_bytes));
  data_ = allocate(size_bytes_);
  if (!data_) throw Error("cannot allocate " + std::to_string(size_bytes_) + " bytes for the KV cache");

  free_pages_.reserve(static_cast<std::size_t>(num_pages));
  for (std::int32_t page = num_pages; page-- > 0;) free_pages_.push_back(page);
}

std::vector<std::int32_t> PagedCache::take_pages(int count) {
  if (count < 0) throw Error("cannot take " + std::to_string(count) + " pages");
  if (count > num_free_pages()) {
    throw Error("the KV cache has " + std::to_string(num_free_pages()) + " of " + std::to_string(num_pages_) +
                " pages free, " + std::to_string(count) + " are needed");
  }
  std::vector<std::int32_t> taken(free_pages_.rbegin(), free_pages_.rbegin() + count);
  free_pages_.resize(free_pages_.size() - static_cast<std::size_t>(count));
  return taken;
}

void PagedCache::give_back(const std::vector<std::int32_t>& pages) {
  // Capacity for all pages was reserved at construction, so this does not allocate.
  free_pages_.insert(free_pages_.end(), pages.begin(), pages.end());
}

Sequence::~Sequence() {
  if (!pages_.empty()) cache_->give_back(pages_);
}

Sequence::Sequence(Sequence&& other) noexcept
    : cache_(other.cache_), slots_(std::move(other.slots_)), pages_(std::move(other.pages_)) {
  other.slots_.clear();
  other.pages_.clear();
}

void Sequence::grow(int num_rows) {
  if (num_rows < 0 || num_rows > std::numeric_limits<std::int32_t>::max() - size()) {
    throw Error("cannot add " + std::to_string(num_rows) + " rows to a sequence of " + std::to_string(size()));
  }
  const int page_size = cache_->page_size();
  const int new_size = size() + num_rows;
  const int num_pages = new_size / page_size + (new_size % page_size != 0);
  const int num_missing = num_pages - static_cast<int>(pages_.size());
  // Room first: once pages are taken, nothing may throw.
  slots_.reserve(static_cast<std::size_t>(new_size));
  pages_.reserve(static_cast<std::size_t>(num_pages));
  if (num_missing > 0) {
    for (const std::int32_t page : cache_->take_pages(num_missing)) pages_.push_back(page);
  }
  for (int row = size(); row < new_size; ++row) {
    slots_.push_back(Slot{pages_[static_cast<std::size_t>(row / page_size)]} * page_size + row % page_size);
  }
}

void Sequence::truncate(int new_size) {
  if (new_size < 0 || new_size > size()) {
    throw Error("cannot truncate a sequence of " + std::to_string(size()) + " rows to " + std::to_string(new_size));
  }
  const int page_size = cache_->page_size();
  const int num_pages = new_size / page_size + (new_size % page_size != 0);
  cache_->give_back({pages_.begin() + num_pages, pages_.end()});
  pages_.resize(static_cast<std::size_t>(num_pages));
  slots_.resize(static_cast<std::size_t>(new_size));
}

}  // namespace mini_engine
