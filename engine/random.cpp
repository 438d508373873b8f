#include "engine/random.h"

#include <cmath>
#include <numbers>

#include "engine/check.h"

namespace vvtq::engine {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
    uint32_t k0 = static_cast<uint32_t>(key);
    uint32_t k1 = static_cast<uint32_t>(key >> 32);
    std::array<uint32_t, 4> c{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                              static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * c[0];
        const uint64_t b = uint64_t{0xCD9E8D57} * c[2];
        c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return c;
}

uint64_t mix_key(std::initializer_list<uint64_t> words) {
    uint64_t key = 0x9E3779B97F4A7C15ULL;
    for (uint64_t word : words) {
        const auto mixed = philox(key, words.size(), word);
        key = (uint64_t{mixed[1]} << 32) | mixed[0];
    }
    return key;
}

uint32_t Random::bits() {
    if (left_ == 0) {
        words_ = philox(key_, 0, counter_++);
        left_ = 4;
    }
    return words_[static_cast<size_t>(--left_)];
}

double Random::uniform() {
    const uint64_t high = bits() >> 5;
    const uint64_t low = bits() >> 6;
    return static_cast<double>((high << 26) | low) * 0x1p-53;
}

uint64_t Random::below(uint64_t n) {
    VVTQ_CHECK(n > 0, "empty range");
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t draw;
    do {
        const uint64_t high = bits();  // which call comes first must not be the compiler's choice
        draw = (high << 32) | bits();
    } while (draw >= limit);
    return draw % n;
}

double Random::normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

}  // namespace vvtq::engine
