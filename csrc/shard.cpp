#include "shard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "crc32c.h"

namespace albert_fast {
namespace {

constexpr char kMagic[8] = {'A', 'L', 'B', 'E', 'R', 'T', 'F', 'S'};
constexpr uint32_t kVersion = 1;

template <typename T>
T load(const uint8_t* bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes + offset, sizeof(T));
  return value;
}

std::string number(uint64_t value) { return std::to_string(value); }

uint64_t ordinary_section_bytes(uint64_t vocab_size) { return padded((vocab_size + 7) / 8) + kAlignment; }

// Whether every id is in the vocabulary. Vectorized, because a plain loop takes as long as the checksum.
template <typename Token>
bool within_vocabulary(const uint8_t* bytes, size_t count, uint32_t vocab_size) {
  if (sizeof(Token) == 2 && vocab_size == 65536) return true;
  using Tokens __attribute__((vector_size(16), may_alias)) = Token;
  constexpr size_t kLanes = 16 / sizeof(Token);
  const auto* tokens = reinterpret_cast<const Token*>(bytes);
  const auto bound = static_cast<Token>(vocab_size);
  auto bad = Tokens{} >= bound;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) bad |= *reinterpret_cast<const Tokens*>(tokens + i) >= bound;
  uint64_t lanes[2];
  std::memcpy(lanes, &bad, sizeof(lanes));
  for (; i < count; ++i) lanes[0] |= tokens[i] >= bound;
  return (lanes[0] | lanes[1]) == 0;
}

}  // namespace

// O_NONBLOCK: opening a pipe must not wait for a writer.
File::File(const std::string& path)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) throw std::runtime_error(path + ": cannot be opened: " + std::strerror(errno));
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw std::runtime_error(path + ": is not a regular file; give a shard");
  }
}

File::~File() { ::close(descriptor_); }

uint64_t File::size() const {
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0) throw std::runtime_error(path_ + ": " + std::strerror(errno));
  return static_cast<uint64_t>(status.st_size);
}

void File::read(void* destination, size_t bytes, uint64_t offset) const {
  auto* to = static_cast<uint8_t*>(destination);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, to, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw std::runtime_error(path_ + ": reading at byte " + number(offset) + ": " + std::strerror(errno));
    if (got == 0) {
      throw std::runtime_error(path_ + ": ends at byte " + number(offset) + ", " + number(bytes) +
                               " bytes before the expected end; the file was truncated");
    }
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

Shard::Shard(std::string path) : path_(std::move(path)) {
  const File file(path_);
  parse_header(file);
  check_layout();
  read_table(file);
  read_ordinary(file);
}

void Shard::fail(const std::string& what) const {
  throw std::runtime_error(path_ + ": " + what + "; restore the file or run `albert-fast prepare` again");
}

void Shard::parse_header(const File& file) {
  const uint64_t size = file.size();
  if (size < kHeaderBytes) fail("has " + number(size) + " bytes, fewer than the 256 of a shard header");
  uint8_t bytes[kHeaderBytes];
  file.read(bytes, kHeaderBytes, 0);
  if (std::memcmp(bytes, kMagic, 8) != 0) fail("does not begin with ALBERTFS, so it is not a shard (byte 0)");
  header_.header_crc = crc32c(bytes, kHeaderBytes - 4);
  if (header_.header_crc != load<uint32_t>(bytes, 252)) fail("header is damaged: CRC32C mismatch (bytes 0 to 255)");
  const auto version = load<uint32_t>(bytes, 8);
  if (version != kVersion)
    fail("has format version " + number(version) + ", but this program reads version 1 (byte 8)");

  header_.token_bytes = load<uint32_t>(bytes, 12);
  header_.vocab_size = load<uint32_t>(bytes, 16);
  header_.file_bytes = load<uint64_t>(bytes, 24);
  header_.num_tokens = load<uint64_t>(bytes, 32);
  header_.num_sentences = load<uint64_t>(bytes, 40);
  header_.num_documents = load<uint64_t>(bytes, 48);
  header_.num_pages = load<uint64_t>(bytes, 56);
  header_.lengths_offset = load<uint64_t>(bytes, 64);
  header_.table_offset = load<uint64_t>(bytes, 72);
  header_.cls_id = load<uint32_t>(bytes, 80);
  header_.sep_id = load<uint32_t>(bytes, 84);
  header_.mask_id = load<uint32_t>(bytes, 88);
  header_.unk_id = load<uint32_t>(bytes, 92);
  header_.pad_id = load<uint32_t>(bytes, 96);
  header_.table_crc = load<uint32_t>(bytes, 100);
  std::memcpy(header_.fingerprint.data(), bytes + 104, 32);
  header_.num_ordinary = load<uint64_t>(bytes, 136);
  header_.ordinary_offset = load<uint64_t>(bytes, 144);
  if (header_.file_bytes != size) {
    fail("has " + number(size) + " bytes, its header says " + number(header_.file_bytes) +
         (size < header_.file_bytes ? "; the file was truncated" : "; bytes were added"));
  }
}

void Shard::check_layout() const {
  const ShardHeader& h = header_;
  if (h.token_bytes != 2 && h.token_bytes != 4) fail("token_bytes=" + number(h.token_bytes) + ", must be 2 or 4");
  if (h.vocab_size == 0 || h.vocab_size > 0x7FFFFFFFu || (h.token_bytes == 2 && h.vocab_size > 65536)) {
    fail("vocab_size=" + number(h.vocab_size) + " does not fit tokens of " + number(h.token_bytes) + " bytes");
  }
  for (const uint32_t id : {h.cls_id, h.sep_id, h.mask_id, h.unk_id, h.pad_id}) {
    if (id >= h.vocab_size) fail("special id " + number(id) + " is outside the vocabulary");
  }
  // Check bounds first, so that the products below cannot overflow.
  if (h.num_pages > h.file_bytes / sizeof(PageEntry) || h.num_sentences > h.file_bytes / 2 ||
      h.num_tokens > h.file_bytes / h.token_bytes || h.num_documents > h.num_sentences) {
    fail("header counts more pages, sentences, documents or tokens than fit in the file");
  }
  for (const uint64_t offset : {h.lengths_offset, h.table_offset, h.ordinary_offset}) {
    if (offset % kAlignment != 0 || offset < kHeaderBytes || offset > h.file_bytes) {
      fail("section at byte " + number(offset) + " is outside the file or not aligned to 64 bytes");
    }
  }
}

uint64_t Shard::page_bytes(size_t page) const {
  return token_section_bytes(page) + padded((uint64_t{pages_[page].num_tokens} + 7) / 8);
}

void Shard::check_zeros(const File& file, uint64_t begin, uint64_t end, const char* what) const {
  uint8_t bytes[kAlignment];
  file.read(bytes, end - begin, begin);
  for (uint64_t i = begin; i < end; ++i) {
    if (bytes[i - begin] != 0) fail(std::string("padding after ") + what + " is not zero at byte " + number(i));
  }
}

void Shard::read_table(const File& file) {
  const uint64_t table_bytes = header_.num_pages * sizeof(PageEntry);
  const uint64_t lengths_bytes = header_.num_sentences * 2;
  if (table_bytes > header_.file_bytes - header_.table_offset) fail("page table extends past the end of the file");
  pages_.resize(header_.num_pages);
  file.read(pages_.data(), table_bytes, header_.table_offset);
  if (crc32c(pages_.data(), table_bytes) != header_.table_crc) {
    fail("page table is damaged: CRC32C mismatch (from byte " + number(header_.table_offset) + ")");
  }

  uint64_t offset = kHeaderBytes, sentences = 0, tokens = 0;
  for (size_t i = 0; i < pages_.size(); ++i) {
    const PageEntry& page = pages_[i];
    if (page.num_tokens == 0 || page.num_tokens > kMaxPageTokens || page.num_sentences == 0 ||
        page.num_sentences > page.num_tokens || page.offset != offset || page.first_sentence != sentences) {
      fail("page " + number(i) + " of the table contradicts the previous pages or the limit of 65,536 tokens");
    }
    offset += page_bytes(i);
    sentences += page.num_sentences;
    tokens += page.num_tokens;
  }
  if (sentences != header_.num_sentences || tokens != header_.num_tokens) {
    fail("page table counts " + number(tokens) + " tokens and " + number(sentences) + " sentences, the header " +
         number(header_.num_tokens) + " and " + number(header_.num_sentences));
  }
  // The sections after the pages must cover the rest of the file exactly, so that every byte is verified.
  std::array<std::pair<uint64_t, uint64_t>, 3> sections = {
      {{header_.ordinary_offset, ordinary_section_bytes(header_.vocab_size)},
       {header_.lengths_offset, padded(lengths_bytes)},
       {header_.table_offset, padded(table_bytes)}}};
  std::sort(sections.begin(), sections.end());
  for (const auto& [begin, bytes] : sections) {
    if (begin != offset) fail("section expected at byte " + number(offset) + ", found at " + number(begin));
    offset += bytes;
  }
  if (offset != header_.file_bytes) fail("sections end at byte " + number(offset) + ", not at the end of the file");
  check_zeros(file, header_.table_offset + table_bytes, header_.table_offset + padded(table_bytes), "the page table");
  check_zeros(file, header_.lengths_offset + lengths_bytes, header_.lengths_offset + padded(lengths_bytes),
              "the lengths");
}

void Shard::read_ordinary(const File& file) {
  const uint64_t section = ordinary_section_bytes(header_.vocab_size);
  const uint64_t bitmap_bytes = section - kAlignment;
  std::vector<uint8_t> bytes(section);
  file.read(bytes.data(), section, header_.ordinary_offset);
  // The checksum excludes the padding of the bitmap, which must be zero like the bits past the vocabulary.
  const auto crc = load<uint32_t>(bytes.data(), bitmap_bytes);
  const uint64_t bare = (uint64_t{header_.vocab_size} + 7) / 8;
  if (crc != crc32c(bytes.data(), bare)) {
    fail("ordinary ids are damaged: CRC32C mismatch (from byte " + number(header_.ordinary_offset) + ")");
  }
  for (uint64_t i = bitmap_bytes + 4; i < section; ++i) {
    if (bytes[i] != 0)
      fail("padding after the ordinary ids is not zero at byte " + number(header_.ordinary_offset + i));
  }
  ordinary_.reserve(std::min<uint64_t>(header_.num_ordinary, header_.vocab_size));
  for (uint64_t id = 0; id < bitmap_bytes * 8; ++id) {
    if ((bytes[id / 8] >> (id % 8) & 1) == 0) continue;
    if (id >= header_.vocab_size) {
      fail("ordinary id " + number(id) + " is outside the vocabulary, at byte " +
           number(header_.ordinary_offset + id / 8));
    }
    ordinary_.push_back(static_cast<uint32_t>(id));
  }
  if (ordinary_.size() != header_.num_ordinary) {
    fail("has " + number(ordinary_.size()) + " ordinary ids, its header says " + number(header_.num_ordinary));
  }
}

void Shard::read_page(const File& file, size_t page, uint8_t* destination) const {
  const PageEntry& entry = pages_[page];
  const uint64_t bytes = page_bytes(page);
  file.read(destination, bytes, entry.offset);
  const auto where = [&] { return " (page " + number(page) + ", from byte " + number(entry.offset) + ")"; };
  if (crc32c(destination, bytes) != entry.page_crc) fail("a page is damaged: CRC32C mismatch" + where());
  const bool known = token_bytes() == 2
                         ? within_vocabulary<uint16_t>(destination, entry.num_tokens, header_.vocab_size)
                         : within_vocabulary<uint32_t>(destination, entry.num_tokens, header_.vocab_size);
  if (!known) fail("a token id is outside the vocabulary of " + number(header_.vocab_size) + where());
  // Word-start bits are read 64 at a time, so bits past the last token must be zero.
  const uint64_t ids = uint64_t{entry.num_tokens} * token_bytes(), begin = token_section_bytes(page);
  const uint64_t end = begin + (uint64_t{entry.num_tokens} + 7) / 8;
  uint32_t rest = entry.num_tokens % 8 == 0 ? 0 : destination[end - 1] >> (entry.num_tokens % 8);
  for (uint64_t i = ids; i < begin; ++i) rest |= destination[i];
  for (uint64_t i = end; i < bytes; ++i) rest |= destination[i];
  if (rest != 0) fail("the padding after the last token of a page is not zero" + where());
}

void Shard::read_lengths(const File& file, size_t page, uint16_t* destination) const {
  const PageEntry& entry = pages_[page];
  const uint64_t offset = header_.lengths_offset + entry.first_sentence * 2;
  file.read(destination, size_t{entry.num_sentences} * 2, offset);
  const auto where = [&] { return " (page " + number(page) + ", from byte " + number(offset) + ")"; };
  if (crc32c(destination, size_t{entry.num_sentences} * 2) != entry.lengths_crc) {
    fail("sentence lengths are damaged: CRC32C mismatch" + where());
  }
  uint64_t tokens = 0;
  bool empty = false;
  for (uint32_t i = 0; i < entry.num_sentences; ++i) {
    const uint16_t length = destination[i] & kLengthMask;
    tokens += length;
    empty |= length == 0;
  }
  if (empty) fail("a sentence has no tokens" + where());
  if (tokens != entry.num_tokens) {
    fail("sentences sum to " + number(tokens) + " tokens in a page of " + number(entry.num_tokens) + where());
  }
}

void check_shard(const std::string& path) {
  const Shard shard(path);
  const File file(path);
  std::vector<uint8_t> page;
  std::vector<uint16_t> lengths;
  uint64_t documents = 0;
  for (size_t i = 0; i < shard.pages().size(); ++i) {
    page.resize(shard.page_bytes(i));
    lengths.resize(shard.pages()[i].num_sentences);
    shard.read_page(file, i, page.data());
    shard.read_lengths(file, i, lengths.data());
    if ((lengths.front() & kFirstOfDocument) == 0) {
      shard.fail("page " + number(i) + " does not begin with a document (lengths from byte " +
                 number(shard.header().lengths_offset + shard.pages()[i].first_sentence * 2) + ")");
    }
    for (const uint16_t length : lengths) documents += length >> 15;
  }
  if (documents != shard.header().num_documents) {
    shard.fail("has " + number(documents) + " documents, its header says " + number(shard.header().num_documents) +
               " (byte 48)");
  }
}

}  // namespace albert_fast
