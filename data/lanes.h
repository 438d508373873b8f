// lanes: sixteen 32-bit sums at once, with this processor's widest instructions. Compilers do not find these
// for bytes that are widened, weighed and summed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace vvtq::data {

/// Sums of weight * byte, sixteen side by side.
class Lanes {
  public:
    static constexpr size_t kCount = 16;

    explicit Lanes(int32_t start);
    /// sum[i] += weight * bytes[i]
    void add(const uint8_t* bytes, int32_t weight);
    /// bytes[i] = sum[i] >> shift, cut to 0..255.
    template <int shift>
    void store(uint8_t* bytes) const;
    /// The same, four bytes to each of four rows that are `stride` apart.
    template <int shift>
    void store(uint8_t* rows, size_t stride) const;

  private:
#if defined(__AVX512F__)
    __m512i sums_;
#elif defined(__AVX2__)
    __m256i low_, high_;
#else
    int32_t sums_[kCount];
#endif
};

#if defined(__AVX512F__)

inline Lanes::Lanes(int32_t start) : sums_(_mm512_set1_epi32(start)) {}

inline void Lanes::add(const uint8_t* bytes, int32_t weight) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    sums_ = _mm512_add_epi32(sums_, _mm512_mullo_epi32(wide, _mm512_set1_epi32(weight)));
}

template <int shift>
inline void Lanes::store(uint8_t* bytes) const {
    const __m512i positive = _mm512_max_epi32(_mm512_srai_epi32(sums_, shift), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtusepi32_epi8(positive));
}

#elif defined(__AVX2__)

inline Lanes::Lanes(int32_t start) : low_(_mm256_set1_epi32(start)), high_(low_) {}

inline void Lanes::add(const uint8_t* bytes, int32_t weight) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __m256i factor = _mm256_set1_epi32(weight);
    low_ = _mm256_add_epi32(low_, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(packed), factor));
    high_ = _mm256_add_epi32(
        high_, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(packed, packed)), factor));
}

template <int shift>
inline void Lanes::store(uint8_t* bytes) const {
    // Packing works in halves of 128 bits; the permutation puts these back in order.
    const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(low_, shift), _mm256_srai_epi32(high_, shift));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    const __m128i packed =
        _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), packed);
}

#else

inline Lanes::Lanes(int32_t start) { std::fill(sums_, sums_ + kCount, start); }

inline void Lanes::add(const uint8_t* bytes, int32_t weight) {
    for (size_t i = 0; i < kCount; ++i) sums_[i] += weight * bytes[i];
}

template <int shift>
inline void Lanes::store(uint8_t* bytes) const {
    for (size_t i = 0; i < kCount; ++i)
        bytes[i] = static_cast<uint8_t>(std::clamp(sums_[i] >> shift, 0, 255));
}

#endif

template <int shift>
inline void Lanes::store(uint8_t* rows, size_t stride) const {
    uint8_t bytes[kCount];
    store<shift>(bytes);
    for (size_t row = 0; row < 4; ++row) std::memcpy(rows + row * stride, bytes + 4 * row, 4);
}

}  // namespace vvtq::data
