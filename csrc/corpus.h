#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "shard.h"

namespace albert_fast {

// The shards of a prepared folder as one list of pages, numbered across shards in the given order. Immutable and
// thread-safe. Uses 32 bytes per page, about half a megabyte per billion tokens.
class Corpus {
 public:
  // Throws std::runtime_error if a shard is damaged or shards disagree on vocabulary or token width, and
  // std::invalid_argument if there is no shard or no token.
  explicit Corpus(const std::vector<std::string>& paths);

  const std::vector<Shard>& shards() const { return shards_; }
  const ShardHeader& header() const { return shards_.front().header(); }  // common fields only
  const std::vector<uint32_t>& ordinary() const { return shards_.front().ordinary(); }

  uint64_t num_tokens() const { return num_tokens_; }
  uint64_t num_sentences() const { return num_sentences_; }
  uint64_t num_documents() const { return num_documents_; }
  uint32_t num_pages() const { return first_page_.back(); }

  struct Location {
    uint32_t shard;
    uint32_t page;  // within the shard
  };
  Location locate(uint32_t page) const;

  // Identifies content and order of the shards: a hash of the checksums of headers and page tables.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  std::vector<Shard> shards_;
  std::vector<uint32_t> first_page_;  // by shard, then the total number of pages
  uint64_t num_tokens_ = 0, num_sentences_ = 0, num_documents_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace albert_fast
