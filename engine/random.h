// random: counter-based random numbers (Philox 4x32-10, Salmon et al. 2011). A draw depends on its key and
// counter alone, so one thread or many, one process or several, a fresh run or a resumed one draw the same.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

namespace vvtq::engine {

/// Ten rounds of Philox 4x32: four independent 32-bit words for one (key, counter).
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_high, uint64_t counter_low);

/// Mixes words into one 64-bit key, for streams named by several numbers: (seed, epoch, index, purpose).
uint64_t mix_key(std::initializer_list<uint64_t> words);

/// A stream of draws from one key. Copies continue independently from the same place.
class Random {
  public:
    explicit Random(uint64_t key) : key_(key) {}

    uint32_t bits();
    /// Uniform in [0, 1), 53 bits.
    double uniform();
    /// Uniform in [low, high).
    double uniform(double low, double high) { return low + (high - low) * uniform(); }
    /// Uniform integer in [0, n), without modulo bias. n must be positive.
    uint64_t below(uint64_t n);
    /// Standard normal (Box-Muller).
    double normal();

  private:
    uint64_t key_;
    uint64_t counter_ = 0;
    std::array<uint32_t, 4> words_{};
    int left_ = 0;
};

}  // namespace vvtq::engine
