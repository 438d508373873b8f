#include "engine/cpu/code_products.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

#include "engine/kernels.h"

namespace vvtq::engine {
namespace cpu {
namespace {

/// Where row n begins.
int8_t* place(int8_t* packed, CodeLayout layout, int64_t n) {
    return packed + n / kPanel * layout.panel_bytes() + n % kPanel * 4;
}

/// Up to four codes of x from column k on, 0 beyond `end`.
uint32_t four_codes(const uint8_t* x, int64_t k, int64_t end) {
    uint32_t codes = 0;
    std::memcpy(&codes, x + k, static_cast<size_t>(std::min<int64_t>(4, end - k)));
    return codes;
}

}  // namespace

void pack_rows(const int8_t* const* rows, CodeLayout layout, int8_t* packed) {
    const int64_t columns = layout.columns, whole = columns / 4 * 4;
    auto* sums = const_cast<int32_t*>(layout.sums(packed));
    for (int64_t n = 0; n < layout.panels() * kPanel; ++n) {
        int8_t* to = place(packed, layout, n);
        if (n >= layout.rows) {
            for (int64_t k = 0; k < columns; k += 4) std::memset(to + k * kPanel, 0, 4);
            sums[n] = 0;
            continue;
        }
        const auto* from = reinterpret_cast<const uint8_t*>(rows[n]);
        for (int64_t k = 0; k < whole; k += 4) std::memcpy(to + k * kPanel, from + k, 4);
        if (whole < columns) {
            const uint32_t rest = four_codes(from, whole, columns);
            std::memcpy(to + whole * kPanel, &rest, sizeof rest);
        }
        int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < columns; ++k) sum += rows[n][k];
        sums[n] = sum;
    }
}

void pack_columns(const int8_t* const* rows, CodeLayout layout, int8_t* packed) {
    auto* sums = const_cast<int32_t*>(layout.sums(packed));
    std::fill_n(sums, layout.panels() * kPanel, 0);
    for (int64_t k = 0; k < layout.columns; k += 4) {
        for (int64_t first = 0; first < layout.rows; first += kPanel) {
            const int64_t there = std::min(kPanel, layout.rows - first);
            int8_t from[4][kPanel] = {};
            for (int64_t t = 0; t < std::min<int64_t>(4, layout.columns - k); ++t) {
                std::memcpy(from[t], rows[k + t] + first, static_cast<size_t>(there));
            }
            int8_t* to = place(packed, layout, first) + k * kPanel;
#pragma omp simd
            for (int64_t n = 0; n < kPanel; ++n) {
                const auto at = [&](int t) {
                    return static_cast<uint32_t>(static_cast<uint8_t>(from[t][n]));
                };
                const uint32_t four = at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24;
                std::memcpy(to + 4 * n, &four, sizeof four);
                sums[first + n] += from[0][n] + from[1][n] + from[2][n] + from[3][n];
            }
        }
    }
}

namespace {

void plain_product(CodeRows x, int64_t rows, const int8_t* packed, CodeLayout layout, int64_t first,
                   int64_t count, int32_t* y, int64_t stride) {
    const auto sums_of = [&]<typename X>(X) {
        for (int64_t r = 0; r < rows; ++r) {
            const auto* codes = reinterpret_cast<const X*>(x.data + r * x.stride);
            for (int64_t p = 0; p < count; ++p) {
                int32_t* out = y + r * stride + p * kPanel;
                std::fill_n(out, kPanel, 0);
                const int8_t* w = layout.panel(packed, first + p);
                for (int64_t k = 0; k < layout.columns; ++k) {
                    const int32_t code = codes[k];
                    const int8_t* of_k = w + k / 4 * 4 * kPanel + k % 4;
#pragma omp simd
                    for (int64_t n = 0; n < kPanel; ++n) out[n] += code * of_k[4 * n];
                }
            }
        }
    };
    x.is_signed ? sums_of(int8_t{}) : sums_of(uint8_t{});
}

#ifdef __AVX512VNNI__

std::atomic<bool> instructions = true;

/// `Rows` rows of x and `Panels` panels, whose sums stay in registers. A signed code c counts as c + 128;
/// what that adds is taken off at the start.
template <int Rows, int Panels>
void tile(const uint8_t* x, int64_t x_stride, bool is_signed, const int8_t* w, CodeLayout layout,
          const int32_t* w_sums, int32_t* y, int64_t y_stride) {
    const __m512i flip = is_signed ? _mm512_set1_epi8(-128) : _mm512_setzero_si512();
    const __m512i shift = _mm512_set1_epi32(is_signed ? -128 : 0);
    const int64_t panel = layout.panel_bytes(), whole = layout.columns / 4 * 4;
    __m512i sums[Rows][Panels];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
        const __m512i start = _mm512_mullo_epi32(_mm512_loadu_si512(w_sums + p * kPanel), shift);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) sums[r][p] = start;
    }
    const auto add = [&](int64_t k, auto&& codes_of) __attribute__((always_inline)) {
        __m512i of_w[Panels];
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) of_w[p] = _mm512_loadu_si512(w + p * panel + k * kPanel);
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            const __m512i codes =
                _mm512_xor_si512(_mm512_set1_epi32(static_cast<int>(codes_of(x + r * x_stride))), flip);
#pragma GCC unroll 8
            for (int p = 0; p < Panels; ++p) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], codes, of_w[p]);
        }
    };
    for (int64_t k = 0; k < whole; k += 4) {
        add(k, [k](const uint8_t* row) {
            uint32_t codes;
            std::memcpy(&codes, row + k, sizeof codes);
            return codes;
        });
    }
    if (whole < layout.columns) {
        add(whole, [&](const uint8_t* row) { return four_codes(row, whole, layout.columns); });
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < Panels; ++p) _mm512_storeu_si512(y + r * y_stride + p * kPanel, sums[r][p]);
    }
}

constexpr int kRows = 6;
using Tile = decltype(&tile<1, 1>);
template <int Panels>
constexpr Tile kTilesOf[kRows] = {tile<1, Panels>, tile<2, Panels>, tile<3, Panels>,
                                  tile<4, Panels>, tile<5, Panels>, tile<6, Panels>};
constexpr const Tile* kTiles[kPanels] = {kTilesOf<1>, kTilesOf<2>, kTilesOf<3>, kTilesOf<4>};

#endif

}  // namespace

void code_product(CodeRows x, int64_t rows, const int8_t* packed, CodeLayout layout, int64_t first,
                  int64_t count, int32_t* y, int64_t stride) {
#ifdef __AVX512VNNI__
    if (instructions.load(std::memory_order_relaxed)) {
        for (int64_t r = 0; r < rows; r += kRows) {
            const int64_t of_tile = std::min<int64_t>(kRows, rows - r);
            kTiles[count - 1][of_tile - 1](x.data + r * x.stride, x.stride, x.is_signed,
                                           layout.panel(packed, first), layout,
                                           layout.sums(packed) + first * kPanel, y + r * stride, stride);
        }
        return;
    }
#endif
    plain_product(x, rows, packed, layout, first, count, y, stride);
}

}  // namespace cpu

void use_code_instructions([[maybe_unused]] bool on) {
#ifdef __AVX512VNNI__
    cpu::instructions = on;
#endif
}

}  // namespace vvtq::engine
