// philox: the draws of engine/random.h on the device, word for word.
#pragma once

#include <cstdint>

namespace vvtq::engine::cuda {

/// Ten rounds of Philox 4x32.
__device__ inline uint4 philox(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    uint4 c = make_uint4(static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                         static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32));
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c.x;
        const uint64_t b = uint64_t{0xCD9E8D57} * c.z;
        c = make_uint4(static_cast<uint32_t>(b >> 32) ^ c.y ^ k0, static_cast<uint32_t>(b),
                       static_cast<uint32_t>(a >> 32) ^ c.w ^ k1, static_cast<uint32_t>(a));
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

/// mix_key({words...})
template <typename... Words>
__device__ uint64_t mix_key(Words... words) {
    uint64_t key = 0x9E3779B97F4A7C15ULL;
    for (const uint64_t word : {static_cast<uint64_t>(words)...}) {
        const uint4 mixed = philox(key, sizeof...(words), word);
        key = (uint64_t{mixed.y} << 32) | mixed.x;
    }
    return key;
}

/// The first Random(key).uniform().
__device__ inline double first_uniform(uint64_t key) {
    const uint4 words = philox(key, 0, 0);  // Random hands them out from the last one on
    const uint64_t high = words.w >> 5, low = words.z >> 6;
    return static_cast<double>((high << 26) | low) * 0x1p-53;
}

}  // namespace vvtq::engine::cuda
