// bf16: the upper half of an f32, on the host.
#pragma once

#include <bit>
#include <cstdint>

namespace vvtq::engine {

/// The bits of the nearest bf16, ties to even; NaN stays NaN.
inline uint16_t bf16_bits(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    const uint32_t rounded = is_nan ? bits | 0x400000 : bits + 0x7FFF + ((bits >> 16) & 1);
    return static_cast<uint16_t>(rounded >> 16);
}

inline float bf16_value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

}  // namespace vvtq::engine
