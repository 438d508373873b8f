// quant/export/: a trained model for other programs.
//
// bit_codes: the codes of a quantizer of b bits as a row of bits. Code c is stored as c + 2^(b-1), of 1 bit
// as (c + 1) / 2; code i stands in bits i b .. (i+1) b - 1, the lowest first, bit k of the row being bit k %
// 8 of byte k / 8. docs/packed_format.md tells it to readers of other languages.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vvtq::quant {

/// Bytes that `count` codes of 1..8 bits take.
inline uint64_t packed_size(uint64_t count, int bits) {
    const auto b = static_cast<uint64_t>(bits);
    return count / 8 * b + (count % 8 * b + 7) / 8;
}

/// Codes -2^(b-1) .. 2^(b-1) - 1, of 1 bit -1 and 1. The bits behind the last code are 0. Throws
/// Error(Fault::internal) where a code is out of its range.
std::vector<uint8_t> pack_codes(std::span<const int8_t> codes, int bits);

/// The inverse; `bytes` has packed_size(count, bits).
std::vector<int8_t> unpack_codes(std::span<const uint8_t> bytes, uint64_t count, int bits);

}  // namespace vvtq::quant
