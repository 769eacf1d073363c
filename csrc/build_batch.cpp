#include "build_batch.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "random.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace albert_fast {

ExampleRules::ExampleRules(const Corpus& corpus, const LoaderConfig& loader_config)
    : config(loader_config),
      cls_id(static_cast<int32_t>(corpus.header().cls_id)),
      sep_id(static_cast<int32_t>(corpus.header().sep_id)),
      mask_id(static_cast<int32_t>(corpus.header().mask_id)),
      pad_id(static_cast<int32_t>(corpus.header().pad_id)),
      token_bytes(corpus.header().token_bytes),
      ordinary(corpus.ordinary()) {
  if (ordinary.empty()) throw std::invalid_argument("the vocabulary has only special ids; prepare with a larger one");
  ordinary_is_range = ordinary.back() - ordinary.front() + 1 == ordinary.size();
  for (uint32_t length = 0; length <= config.max_chunk(); ++length) {
    budget.push_back(albert_fast::budget(config, length + config.num_specials()));
  }
  constexpr uint32_t kCommonMultiple = 2520;  // of 1..10
  uint32_t sum = 0;
  for (uint32_t n = 1; n <= config.max_ngram; ++n) ngram_end[n - 1] = sum += kCommonMultiple / n;
}

ExampleScratch::ExampleScratch(uint32_t max_seq_length) {
  const size_t words = max_seq_length / 64 + 2;
  starts.resize(words);
  maskable.resize(words);
  masked.resize(words);
  units.resize(words * 64 + 1);
  positions.resize(2 * words * 64 + 16);
}

// build_batch.inc and its includes are compiled once per instruction set, each in its own namespace. The pragmas must
// follow every standard header: an inline function of theirs compiled for AVX could otherwise run on any processor.
namespace portable {
#define ALBERT_FAST_VECTORS 0
#include "build_batch.inc"
#undef ALBERT_FAST_VECTORS
}  // namespace portable

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#endif
namespace avx2 {
#define ALBERT_FAST_VECTORS 1
#include "build_batch.inc"
#undef ALBERT_FAST_VECTORS
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                                             \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2")
#endif
namespace avx512 {
#define ALBERT_FAST_VECTORS 2
#include "build_batch.inc"
#undef ALBERT_FAST_VECTORS
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

InstructionSet best_instruction_set() {
#if defined(__x86_64__)
  // On Zen 1 and Zen 2 pdep is microcoded and slower than the portable loop.
  const bool slow_pdep = __builtin_cpu_is("znver1") || __builtin_cpu_is("znver2");
  if (!slow_pdep && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
      __builtin_cpu_supports("popcnt")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi2");
    return wide ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
  }
#endif
  return InstructionSet::kPortable;
}

BuildBatch build_batch_for(InstructionSet set, uint32_t token_bytes) {
  const bool narrow = token_bytes == 2;
#if defined(__x86_64__)
  if (set == InstructionSet::kAvx512) return narrow ? avx512::build_batch<uint16_t> : avx512::build_batch<uint32_t>;
  if (set == InstructionSet::kAvx2) return narrow ? avx2::build_batch<uint16_t> : avx2::build_batch<uint32_t>;
#endif
  static_cast<void>(set);
  return narrow ? portable::build_batch<uint16_t> : portable::build_batch<uint32_t>;
}

}  // namespace albert_fast
