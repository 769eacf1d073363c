#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace albert_fast {

// A shard file has a header, pages of tokens, the bitmap of ordinary ids, the sentence lengths and the page table. It
// is little-endian; every section is aligned to 64 bytes and padded with zeros.
constexpr size_t kHeaderBytes = 256;
constexpr size_t kAlignment = 64;
constexpr uint32_t kMaxPageTokens = 65536;
constexpr uint16_t kFirstOfDocument = 0x8000;  // flag in a sentence length
constexpr uint16_t kLengthMask = 0x7FFF;

constexpr uint64_t padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// An entry of the page table, as stored in the file.
struct PageEntry {
  uint64_t offset;          // bytes from the start of the file
  uint64_t first_sentence;  // index in this shard
  uint32_t num_tokens;
  uint32_t num_sentences;
  uint32_t page_crc;     // CRC32C of the page, padding included
  uint32_t lengths_crc;  // CRC32C of the page's sentence lengths
};
static_assert(sizeof(PageEntry) == 32);

struct ShardHeader {
  uint32_t token_bytes = 0;  // 2 or 4
  uint32_t vocab_size = 0;
  uint64_t file_bytes = 0;
  uint64_t num_tokens = 0;
  uint64_t num_sentences = 0;
  uint64_t num_documents = 0;
  uint64_t num_pages = 0;
  uint64_t lengths_offset = 0;
  uint64_t table_offset = 0;
  uint32_t cls_id = 0, sep_id = 0, mask_id = 0, unk_id = 0, pad_id = 0;
  uint32_t table_crc = 0;
  uint32_t header_crc = 0;
  std::array<uint8_t, 32> fingerprint{};  // of the vocabulary
  uint64_t num_ordinary = 0;
  uint64_t ordinary_offset = 0;
};

// A file opened for reading. Errors are std::runtime_error with the path.
class File {
 public:
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const;
  // Reads exactly `bytes` bytes at `offset`; throws if the file ends earlier. Thread-safe.
  void read(void* destination, size_t bytes, uint64_t offset) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_;
};

// A shard. The constructor reads and verifies the header, page table, ordinary ids and padding; pages are verified when
// they are read. Immutable and thread-safe. The file is not kept open, since a corpus may have more shards than a
// process may open files, and not mapped, since truncation would be a SIGBUS instead of an error. All errors are
// std::runtime_error with the path and the found and expected values.
class Shard {
 public:
  explicit Shard(std::string path);

  const std::string& path() const { return path_; }
  const ShardHeader& header() const { return header_; }
  const std::vector<PageEntry>& pages() const { return pages_; }
  // Ids of random replacements, ascending. Equal in all shards of a corpus, which therefore keeps only one copy.
  const std::vector<uint32_t>& ordinary() const { return ordinary_; }
  void release_ordinary() { std::vector<uint32_t>().swap(ordinary_); }

  uint64_t page_bytes(size_t page) const;
  // Offset of the word-start bits in a page.
  uint64_t token_section_bytes(size_t page) const { return padded(uint64_t{pages_[page].num_tokens} * token_bytes()); }
  uint32_t token_bytes() const { return header_.token_bytes; }

  // Reads page_bytes(page) bytes and verifies their CRC, the token ids, and that the padding is zero.
  void read_page(const File& file, size_t page, uint8_t* destination) const;
  // Reads the num_sentences lengths of the page and verifies their CRC and their sum.
  void read_lengths(const File& file, size_t page, uint16_t* destination) const;
  // Throws std::runtime_error with the path, `what` is wrong and the remedy.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  void parse_header(const File& file);
  void check_layout() const;
  void read_table(const File& file);
  void read_ordinary(const File& file);
  void check_zeros(const File& file, uint64_t begin, uint64_t end, const char* what) const;

  std::string path_;
  ShardHeader header_;
  std::vector<PageEntry> pages_;
  std::vector<uint32_t> ordinary_;
};

// Reads and verifies every byte of a shard, as `albert-fast verify` does. Throws std::runtime_error.
void check_shard(const std::string& path);

}  // namespace albert_fast
