// Tests of the C++ core alone, for AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer. Statistics and
// equality with the Python reference are tested in tests/data/test_batches.py.

#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "loader.h"
#include "shard_builder.h"

namespace albert_fast {
namespace {

LoaderConfig small_config() {
  LoaderConfig config;
  config.tokens_per_batch = 256;
  config.max_seq_length = 48;
  config.max_sequences = 40;
  config.predictions_per_batch = 64;
  config.max_predictions = 48;
  config.seed = 5;
  return config;
}

std::string bytes_of(const Batch& b, const LoaderConfig& c) {
  std::string out;
  const auto add = [&out](const void* data, size_t count) { out.append(static_cast<const char*>(data), count * 4); };
  add(b.input_ids, c.tokens_per_batch);
  add(b.token_type_ids, c.tokens_per_batch);
  add(b.position_ids, c.tokens_per_batch);
  add(b.cu_seqlens, c.sequence_slots() + size_t{1});
  add(b.masked_lm_positions, c.predictions_per_batch);
  add(b.masked_lm_ids, c.predictions_per_batch);
  add(b.masked_lm_weights, c.predictions_per_batch);
  add(b.sentence_order_labels, c.max_sequences);
  add(b.sentence_order_weights, c.max_sequences);
  return out;
}

std::shared_ptr<Batch> next_of(Loader& loader) {
  for (;;) {
    if (auto batch = loader.next(1.0)) return batch;
  }
}

std::vector<std::string> stream(const std::shared_ptr<const Corpus>& corpus, const LoaderConfig& config,
                                uint32_t threads, size_t count) {
  Loader loader(corpus, config, Cursor{}, 0, 1, threads);
  std::vector<std::string> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) out.push_back(bytes_of(*next_of(loader), config));
  return out;
}

TEST_CASE("checksum") {
  CHECK(crc32c("123456789", 9) == 0xE3069283u);  // RFC 3720's check value
  CHECK(crc32c("6789", 4, crc32c("12345", 5)) == 0xE3069283u);
  CHECK(crc32c("", 0) == 0);
}

TEST_CASE("every changed byte is detected") {
  ShardSpec spec;
  spec.num_pages = 2;
  spec.documents_per_page = 2;
  spec.max_tokens = 6;
  const Bytes good = build_shard(spec);
  const TemporaryFile file(good);
  check_shard(file.path());
  for (size_t i = 0; i < good.size(); ++i) {
    for (const uint8_t change : {0x01, 0x80}) {
      file.write_byte(i, good[i] ^ change);
      CHECK_THROWS_WITH(check_shard(file.path()), doctest::Contains(file.path().c_str()));
    }
    file.write_byte(i, good[i]);
  }
  check_shard(file.path());
  for (size_t size = good.size(); size-- > 0;) {
    file.resize(size);
    CHECK_THROWS_WITH(check_shard(file.path()), doctest::Contains(file.path().c_str()));
  }
  Bytes longer = good;
  longer.push_back(0);
  file.write(longer);
  CHECK_THROWS_WITH(check_shard(file.path()), doctest::Contains("bytes were added"));
}

TEST_CASE("instruction sets produce identical bytes") {
  for (const uint32_t token_bytes : {2u, 4u}) {
    ShardSpec spec;
    spec.token_bytes = token_bytes;
    spec.max_tokens = 90;
    const TemporaryFile file(build_shard(spec));
    const Corpus corpus({file.path()});
    for (const uint32_t length : {5u, 33u, 64u, 128u, 700u}) {
      for (const bool sentence_order : {true, false}) {
        LoaderConfig config = small_config();
        config.max_seq_length = length;
        config.tokens_per_batch = 2 * length;
        config.max_sequences = 2 * length;
        config.predictions_per_batch = 2 * length;
        config.max_predictions = length;
        config.sentence_order = sentence_order;
        config.check();
        Planner planner(corpus, config);
        const ExampleRules rules(corpus, config);
        ExampleScratch scratch(length);
        Group group;
        planner.make(0, 0, group.plan);
        group.load(corpus);
        for (uint32_t number = 0; number < group.plan.num_batches(); ++number) {
          std::vector<std::string> written;
          for (int set = 0; set <= static_cast<int>(best_instruction_set()); ++set) {
            Batch batch(config);
            build_batch_for(static_cast<InstructionSet>(set), token_bytes)(rules, group, number, scratch, batch);
            written.push_back(bytes_of(batch, config));
          }
          for (const std::string& bytes : written) CHECK(bytes == written.front());
        }
      }
    }
  }
}

TEST_CASE("bytes do not depend on the number of threads") {
  ShardSpec spec;
  spec.num_pages = 600;
  spec.documents_per_page = 1;
  const TemporaryFile file(build_shard(spec));
  const auto corpus = std::make_shared<const Corpus>(std::vector<std::string>{file.path()});
  const auto one = stream(corpus, small_config(), 1, 400);
  CHECK(one == stream(corpus, small_config(), 2, 400));
  CHECK(one == stream(corpus, small_config(), 8, 400));
}

TEST_CASE("batches outlive the loader") {
  const TemporaryFile file(build_shard(ShardSpec{}));
  const auto corpus = std::make_shared<const Corpus>(std::vector<std::string>{file.path()});
  const LoaderConfig config = small_config();
  std::vector<std::shared_ptr<Batch>> held;
  std::vector<std::string> copies;
  {
    Loader loader(corpus, config, Cursor{}, 0, 1, 3);
    for (int i = 0; i < 50; ++i) {
      held.push_back(next_of(loader));
      copies.push_back(bytes_of(*held.back(), config));
    }
  }
  for (size_t i = 0; i < held.size(); ++i) CHECK(bytes_of(*held[i], config) == copies[i]);
}

// The file is truncated, changed or removed while it is read: batches read before come first, then always the error.
TEST_CASE("damage in mid-stream") {
  ShardSpec spec;
  spec.num_pages = 40;
  const Bytes good = build_shard(spec);
  for (const uint32_t threads : {1u, 4u}) {
    for (int damage = 0; damage < 3; ++damage) {
      const TemporaryFile file(good);
      const auto corpus = std::make_shared<const Corpus>(std::vector<std::string>{file.path()});
      Loader loader(corpus, small_config(), Cursor{}, 0, 1, threads);
      for (int i = 0; i < 5; ++i) next_of(loader);
      Bytes bad = good;
      if (damage == 0) bad.resize(good.size() / 2);
      if (damage == 1) bad[300] ^= 1;
      damage == 2 ? static_cast<void>(std::remove(file.path().c_str())) : file.write(bad);
      const auto consume = [&] {
        for (int i = 0; i < 100000; ++i) next_of(loader);
      };
      CHECK_THROWS_WITH(consume(), doctest::Contains(file.path().c_str()));
      CHECK_THROWS_WITH(next_of(loader), doctest::Contains(file.path().c_str()));
    }
  }
}

TEST_CASE("close at any moment") {
  ShardSpec spec;
  spec.num_pages = 300;
  const TemporaryFile file(build_shard(spec));
  const auto corpus = std::make_shared<const Corpus>(std::vector<std::string>{file.path()});
  for (int taken = 0; taken < 40; ++taken) {
    Loader loader(corpus, small_config(), Cursor{}, 0, 1, 1 + static_cast<uint32_t>(taken) % 4);
    for (int i = 0; i < taken % 13; ++i) next_of(loader);
    if (taken % 2 == 0) {
      std::thread closer([&] { loader.close(); });
      closer.join();
      CHECK_THROWS_WITH(next_of(loader), doctest::Contains("closed"));
    }
  }
}

TEST_CASE("cursor and statistics from another thread") {
  const TemporaryFile file(build_shard(ShardSpec{}));
  const auto corpus = std::make_shared<const Corpus>(std::vector<std::string>{file.path()});
  Loader loader(corpus, small_config(), Cursor{}, 1, 3, 2);
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) {
      CHECK(loader.cursor().index % 3 == 0);
      CHECK(loader.statistics().batches <= 300);
    }
  });
  for (int i = 0; i < 300; ++i) next_of(loader);
  done = true;
  reader.join();
  CHECK(loader.cursor().index == 900);
  CHECK(loader.statistics().batches == 300);
}

}  // namespace
}  // namespace albert_fast
