// idx: arrays of bytes in the idx format of the MNIST family, plain or gzipped.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::data {

struct Idx {
    std::vector<int64_t> dims;
    Bytes values;  // dims in row-major order
};

/// Reads an idx file of unsigned bytes with `rank` dimensions. gzip is recognized by its first bytes.
/// Errors: input_error naming the file where it is missing, truncated, damaged, of another type or rank,
/// where its size does not match its header, or is more than 16 MiB and 16 times that of its gzip data.
Idx read_idx(const std::string& path, int rank);
/// The same of a file in memory; `path` appears in messages.
Idx parse_idx(std::span<const uint8_t> bytes, const std::string& path, int rank);

}  // namespace vvtq::data
