// tar_blocks: what stands between the bytes of files in a tar archive (POSIX.1-1988, "ustar").
#pragma once

#include <cstdint>
#include <string>

#include "data/bytes.h"

namespace vvtq::data {

constexpr uint64_t kTarBlock = 512;          ///< bytes; every file begins at a multiple
constexpr uint64_t kTarEnd = 2 * kTarBlock;  ///< bytes of zeros at the end of an archive

/// The block in front of a file of `size` bytes, owned by nobody, of the year 1970. `name` has at most 100
/// bytes, the file less than 8 GiB.
Bytes tar_header(const std::string& name, uint64_t size);

/// Zeros behind a file of `size` bytes, up to the next block.
inline uint64_t tar_padding(uint64_t size) { return (kTarBlock - size % kTarBlock) % kTarBlock; }

}  // namespace vvtq::data
