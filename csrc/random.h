#pragma once

#include <cstdint>

namespace albert_fast {

// Counter-based random numbers: every value is a pure function of a key and an index, independent of threads, ranks
// and order. The generator is SplitMix64 (Steele, Lea, Flood 2014) with Stafford's variant 13 of the finalizer. The
// start of a stream is itself mixed; otherwise value 1 of example i would equal value 0 of example i + 1.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ull;

constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Value `index` of the stream that begins at `start`; also used as the start of a sub-stream.
constexpr uint64_t draw(uint64_t start, uint64_t index) { return mix(start + index * kGolden); }

// The purpose of a stream. Different domains have independent streams.
enum class Domain : uint64_t { kPages = 1, kDocuments = 2, kShuffle = 3, kExamples = 4 };

constexpr uint64_t domain_start(uint64_t seed, uint64_t epoch, Domain domain) {
  return draw(draw(mix(seed), epoch), static_cast<uint64_t>(domain));
}

// Maps 64 or 32 random bits to a uniform value in [0, n) by multiplication.
inline uint64_t bounded(uint64_t value, uint64_t n) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(value) * n) >> 64);
}
constexpr uint32_t bounded32(uint32_t value, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(value) * n) >> 32);
}

}  // namespace albert_fast
