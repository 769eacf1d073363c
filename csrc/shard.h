#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace albert_fast {

// One shard file: a header, pages of tokens, the ordinary ids, the sentence lengths and the page table. Little-endian;
// every section begins at a multiple of 64 bytes and is padded with zeros.
constexpr size_t kHeaderBytes = 256;
constexpr size_t kAlignment = 64;
constexpr uint32_t kMaxPageTokens = 65536;
constexpr uint16_t kFirstOfDocument = 0x8000;  // top bit of a sentence length
constexpr uint16_t kLengthMask = 0x7FFF;

constexpr uint64_t padded(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// 32 bytes of the page table, as they lie in the file.
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
  uint32_t flags = 0;
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

// A file descriptor that closes itself. Reads name the file and throw std::runtime_error.
class File {
 public:
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const;
  // Reads exactly `bytes` bytes at `offset`; a file that ends earlier was truncated. Any thread may call it.
  void read(void* destination, size_t bytes, uint64_t offset) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_;
};

// A shard whose header, page table, ordinary ids and paddings were read and checked at construction; pages are checked
// when they are read. Immutable afterwards: any thread may call it. The file is not kept open (a corpus may have more
// shards than a process may have files) and not mapped (a truncated mapping is SIGBUS; a truncated read, an error).
// Everything throws std::runtime_error with the path, what was found and what was expected.
class Shard {
 public:
  explicit Shard(std::string path);

  const std::string& path() const { return path_; }
  const ShardHeader& header() const { return header_; }
  const std::vector<PageEntry>& pages() const { return pages_; }
  // Ids that may replace a token at random, ascending. Released by `release_ordinary`, since shards share them.
  const std::vector<uint32_t>& ordinary() const { return ordinary_; }
  void release_ordinary() { std::vector<uint32_t>().swap(ordinary_); }

  uint64_t page_bytes(size_t page) const;
  // Bytes before the word-start bits of a page.
  uint64_t token_section_bytes(size_t page) const { return padded(uint64_t{pages_[page].num_tokens} * token_bytes()); }
  uint32_t token_bytes() const { return header_.token_bytes; }

  // Reads `page_bytes(page)` bytes and checks their CRC, the ids, and that all past the last token is zero.
  void read_page(const File& file, size_t page, uint8_t* destination) const;
  // Reads the page's `num_sentences` lengths and checks their CRC and their sum.
  void read_lengths(const File& file, size_t page, uint16_t* destination) const;
  // Throws what is wrong with this file, and the remedy.
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

// Opens a shard and reads every page and every length of it: what `verify` holds each shard to.
void check_shard(const std::string& path);

}  // namespace albert_fast
