#pragma once

#include <cstddef>
#include <cstdint>

namespace albert_fast {

// CRC32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720 appendix B.4) of `bytes` bytes at `data`, continuing
// from `crc`, the checksum of the preceding bytes (0 at the start). Uses SSE4.2 if available and a table otherwise.
// Thread-safe.
uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

}  // namespace albert_fast
