#pragma once

// Builds shards in memory, so that the C++ tests do not depend on the Python writers.

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "crc32c.h"
#include "random.h"
#include "shard.h"

namespace albert_fast {

using Bytes = std::vector<uint8_t>;

template <typename T>
void put(Bytes& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <typename T>
void append(Bytes& bytes, T value) {
  bytes.resize(bytes.size() + sizeof(T));
  put(bytes, bytes.size() - sizeof(T), value);
}

inline void pad(Bytes& bytes) { bytes.resize(padded(bytes.size())); }

struct ShardSpec {
  uint32_t vocab_size = 300;
  uint32_t token_bytes = 2;
  uint32_t num_pages = 3;
  uint32_t documents_per_page = 4;
  uint32_t max_sentences = 5;
  uint32_t max_tokens = 30;  // per sentence
  uint64_t seed = 1;
};

// Ids 0 to 4 are [PAD] [UNK] [CLS] [SEP] [MASK]; the others are ordinary.
inline Bytes build_shard(const ShardSpec& spec) {
  uint64_t index = 0;
  const auto random = [&](uint32_t n) { return static_cast<uint32_t>(bounded(draw(spec.seed, index++), n)); };
  Bytes file(kHeaderBytes), lengths, table;
  uint64_t num_tokens = 0, num_sentences = 0, num_documents = 0;
  for (uint32_t page = 0; page < spec.num_pages; ++page) {
    Bytes tokens, bits, own;
    uint32_t page_tokens = 0, page_sentences = 0;
    for (uint32_t d = 0; d < spec.documents_per_page; ++d, ++num_documents) {
      const uint32_t sentences = 1 + random(spec.max_sentences);
      for (uint32_t s = 0; s < sentences; ++s, ++page_sentences) {
        const uint32_t count = 1 + random(spec.max_tokens);
        append(own, static_cast<uint16_t>(count | (s == 0 ? kFirstOfDocument : 0)));
        for (uint32_t t = 0; t < count; ++t, ++page_tokens) {
          const uint32_t id = random(50) == 0 ? 1 : 5 + random(spec.vocab_size - 5);
          for (uint32_t b = 0; b < spec.token_bytes; ++b) tokens.push_back(static_cast<uint8_t>(id >> (8 * b)));
          if (page_tokens % 8 == 0) bits.push_back(0);
          if (t == 0 || random(4) != 0) bits.back() |= static_cast<uint8_t>(1u << (page_tokens % 8));
        }
      }
    }
    pad(tokens);
    pad(bits);
    tokens.insert(tokens.end(), bits.begin(), bits.end());
    append(table, uint64_t{file.size()});
    append(table, num_sentences);
    append(table, page_tokens);
    append(table, page_sentences);
    append(table, crc32c(tokens.data(), tokens.size()));
    append(table, crc32c(own.data(), own.size()));
    file.insert(file.end(), tokens.begin(), tokens.end());
    lengths.insert(lengths.end(), own.begin(), own.end());
    num_tokens += page_tokens;
    num_sentences += page_sentences;
  }
  const uint64_t ordinary_offset = file.size();
  Bytes ordinary((spec.vocab_size + 7) / 8);
  for (uint32_t id = 5; id < spec.vocab_size; ++id) ordinary[id / 8] |= static_cast<uint8_t>(1u << (id % 8));
  const uint32_t ordinary_crc = crc32c(ordinary.data(), ordinary.size());
  pad(ordinary);
  append(ordinary, ordinary_crc);
  pad(ordinary);
  file.insert(file.end(), ordinary.begin(), ordinary.end());
  const uint64_t lengths_offset = file.size();
  pad(lengths);
  file.insert(file.end(), lengths.begin(), lengths.end());
  const uint64_t table_offset = file.size();
  const uint32_t table_crc = crc32c(table.data(), table.size());
  file.insert(file.end(), table.begin(), table.end());
  pad(file);

  std::memcpy(file.data(), "ALBERTFS", 8);
  const uint32_t sizes[] = {1, spec.token_bytes, spec.vocab_size, 0};
  const uint64_t counts[] = {file.size(),    num_tokens,     num_sentences, num_documents,
                             spec.num_pages, lengths_offset, table_offset};
  const uint32_t specials[] = {2, 3, 4, 1, 0, table_crc};
  std::memcpy(file.data() + 8, sizes, sizeof(sizes));
  std::memcpy(file.data() + 24, counts, sizeof(counts));
  std::memcpy(file.data() + 80, specials, sizeof(specials));
  put(file, 136, uint64_t{spec.vocab_size - 5});
  put(file, 144, ordinary_offset);
  put(file, 252, crc32c(file.data(), 252));
  return file;
}

// A temporary file, removed by the destructor.
class TemporaryFile {
 public:
  explicit TemporaryFile(const Bytes& bytes) {
    char name[] = "/tmp/albert_fast_test_XXXXXX";
    const int descriptor = ::mkstemp(name);
    if (descriptor < 0) std::abort();
    ::close(descriptor);
    path_ = name;
    write(bytes);
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const Bytes& bytes) const {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  void write_byte(size_t offset, uint8_t value) const {
    std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(value));
  }
  void resize(size_t size) const {
    if (::truncate(path_.c_str(), static_cast<off_t>(size)) != 0) std::abort();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace albert_fast
