// libFuzzer target: any file must either be rejected with an exception or be read without an out-of-bounds access, and
// accepted files must give identical batches for every instruction set.
//
// The first byte selects the checksums to repair before reading, so that the fuzzer gets past them. The second byte
// selects the loader settings; the rest is the file. `fuzz_shard --seeds FOLDER` writes the seeds of tests/csrc/corpus.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "build_batch.h"
#include "group.h"
#include "shard_builder.h"

namespace albert_fast {
namespace {

template <typename T>
T at(const Bytes& bytes, uint64_t offset) {
  T value{};
  if (offset <= bytes.size() && sizeof(T) <= bytes.size() - offset)
    std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

bool inside(const Bytes& bytes, uint64_t offset, uint64_t size) {
  return offset <= bytes.size() && size <= bytes.size() - offset;
}

void repair(Bytes& file, uint8_t which) {
  if (file.size() < kHeaderBytes) return;
  if (which & 1) put(file, 24, uint64_t{file.size()});
  const auto pages = at<uint64_t>(file, 56), lengths = at<uint64_t>(file, 64), table = at<uint64_t>(file, 72);
  const auto token_bytes = at<uint32_t>(file, 12);
  if ((which & 2) && pages < 4096 && inside(file, table, pages * 32)) {
    for (uint64_t entry = table; entry < table + pages * 32; entry += 32) {
      const auto offset = at<uint64_t>(file, entry), sentence = at<uint64_t>(file, entry + 8);
      const auto tokens = at<uint32_t>(file, entry + 16), sentences = at<uint32_t>(file, entry + 20);
      const uint64_t bytes = padded(uint64_t{tokens} * (token_bytes % 8)) + padded((uint64_t{tokens} + 7) / 8);
      if (inside(file, offset, bytes)) put(file, entry + 24, crc32c(file.data() + offset, bytes));
      const uint64_t own = lengths + sentence * 2;
      if (inside(file, own, uint64_t{sentences} * 2)) put(file, entry + 28, crc32c(file.data() + own, sentences * 2ul));
    }
  }
  if ((which & 4) && pages < 4096 && inside(file, table, pages * 32)) {
    put(file, 100, crc32c(file.data() + table, pages * 32));
  }
  const auto vocab_size = at<uint32_t>(file, 16);
  const auto ordinary = at<uint64_t>(file, 144);
  const uint64_t bare = (uint64_t{vocab_size} + 7) / 8;
  if ((which & 8) && inside(file, ordinary, padded(bare) + 4)) {
    put(file, ordinary + padded(bare), crc32c(file.data() + ordinary, bare));
  }
  if (which & 16) put(file, 252, crc32c(file.data(), 252));
}

void read_everything(const std::string& path, uint8_t choice) {
  check_shard(path);
  const Corpus corpus({path});
  LoaderConfig config;
  config.max_seq_length = 5 + choice % 200;
  config.tokens_per_batch = config.max_seq_length * 3;
  config.max_sequences = 1 + choice % 60;
  config.max_predictions = 1 + choice % 50;
  config.predictions_per_batch = config.tokens_per_batch;
  config.masked_lm_millionths = 1000u * (1 + choice % 250);
  config.max_ngram = 1 + choice % 10;
  config.sentence_order = choice % 3 != 0;
  config.seed = choice;
  config.check();
  Planner planner(corpus, config);
  const ExampleRules rules(corpus, config);
  ExampleScratch scratch(config.max_seq_length);
  Group group;
  planner.make(choice, 0, group.plan);
  group.load(corpus);
  const uint32_t batches = std::min(group.plan.num_batches(), 50u);
  Batch first(config);
  Batch other(config);
  for (uint32_t number = 0; number < batches; ++number) {
    build_batch_for(InstructionSet::kPortable, rules.token_bytes)(rules, group, number, scratch, first);
    build_batch_for(best_instruction_set(), rules.token_bytes)(rules, group, number, scratch, other);
    const size_t tokens = config.tokens_per_batch * size_t{4};
    if (std::memcmp(first.input_ids, other.input_ids, tokens) != 0 ||
        std::memcmp(first.masked_lm_positions, other.masked_lm_positions, tokens) != 0 ||
        std::memcmp(first.masked_lm_ids, other.masked_lm_ids, tokens) != 0) {
      std::abort();
    }
    for (uint32_t i = 0; i < config.tokens_per_batch; ++i) {
      if (static_cast<uint32_t>(first.input_ids[i]) >= corpus.header().vocab_size) std::abort();
    }
  }
}

}  // namespace
}  // namespace albert_fast

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace albert_fast;
  if (size < 2) return 0;
  Bytes file(data + 2, data + size);
  repair(file, data[0]);
  const int descriptor = ::memfd_create("shard", MFD_CLOEXEC);
  if (descriptor < 0) std::abort();
  if (::write(descriptor, file.data(), file.size()) != static_cast<ssize_t>(file.size())) std::abort();
  try {
    read_everything("/proc/self/fd/" + std::to_string(descriptor), data[1]);
  } catch (const std::runtime_error&) {
  } catch (const std::invalid_argument&) {
  }
  ::close(descriptor);
  return 0;
}

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  using namespace albert_fast;
  if (*count == 3 && std::string((*arguments)[1]) == "--seeds") {
    for (uint32_t i = 0; i < 6; ++i) {
      ShardSpec spec;
      spec.vocab_size = i % 2 == 0 ? 40 : 70000;
      spec.token_bytes = i % 2 == 0 ? 2 : 4;
      if (i >= 2) spec.vocab_size = 40;
      spec.num_pages = 1 + i % 3;
      spec.documents_per_page = 1 + i;
      spec.max_tokens = i == 4 ? 1 : 12;
      spec.seed = i;
      Bytes seed = {0x1F, static_cast<uint8_t>(40 * i + 20)};
      const Bytes shard = build_shard(spec);
      seed.insert(seed.end(), shard.begin(), shard.end());
      std::ofstream((*arguments)[2] + ("/seed-" + std::to_string(i)), std::ios::binary)
          .write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
    }
    std::exit(0);
  }
  return 0;
}
