#include "corpus.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "random.h"

namespace albert_fast {

Corpus::Corpus(const std::vector<std::string>& paths) {
  if (paths.empty()) throw std::invalid_argument("no shard given; name a prepared folder or its shard files");
  shards_.reserve(paths.size());
  uint64_t pages = 0;
  for (const std::string& path : paths) {
    shards_.emplace_back(path);
    Shard& shard = shards_.back();
    const ShardHeader& ours = shard.header();
    const ShardHeader& first = shards_.front().header();
    if (ours.fingerprint != first.fingerprint || ours.vocab_size != first.vocab_size ||
        ours.token_bytes != first.token_bytes || ours.cls_id != first.cls_id || ours.sep_id != first.sep_id ||
        ours.mask_id != first.mask_id || ours.unk_id != first.unk_id || ours.pad_id != first.pad_id ||
        shard.ordinary() != shards_.front().ordinary()) {
      throw std::runtime_error(path + ": prepared with a different vocabulary than " + paths.front() +
                               "; use the same for both");
    }
    if (shards_.size() > 1) shard.release_ordinary();
    first_page_.push_back(static_cast<uint32_t>(pages));
    pages += ours.num_pages;
    if (pages > std::numeric_limits<uint32_t>::max()) throw std::invalid_argument("over 2^32 pages; use less text");
    num_tokens_ += ours.num_tokens;
    num_sentences_ += ours.num_sentences;
    num_documents_ += ours.num_documents;
    fingerprint_ = draw(fingerprint_ ^ ours.header_crc, ours.table_crc);
  }
  first_page_.push_back(static_cast<uint32_t>(pages));
  if (num_tokens_ == 0) throw std::invalid_argument(paths.front() + ": the shards have no tokens; prepare some text");
}

Corpus::Location Corpus::locate(uint32_t page) const {
  const auto after = std::upper_bound(first_page_.begin(), first_page_.end(), page);
  const auto shard = static_cast<uint32_t>(after - first_page_.begin() - 1);
  return {shard, page - first_page_[shard]};
}

}  // namespace albert_fast
