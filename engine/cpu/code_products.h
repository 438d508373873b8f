// code_products: integer products of 8-bit codes. Sums are exact i32. One operand is laid out for them: rows
// in panels of 16, of each panel four neighbouring columns of a row side by side, which is how VNNI
// instructions take them.
#pragma once

#include <cstdint>

namespace vvtq::engine::cpu {

inline constexpr int64_t kPanel = 16;          // rows of w in a panel
inline constexpr int64_t kPanels = 4;          // that a product takes at once
inline constexpr int64_t kMostInputs = 65536;  // of a sum, so that 255 * 128 each stay within i32

/// The sizes of w (N, K) in this layout: panels (N / 16, K / 4, 16, 4), zero beyond N and K, and behind them
/// the sum over k of each row, i32.
struct CodeLayout {
    int64_t rows, columns;
    int64_t panels() const { return (rows + kPanel - 1) / kPanel; }
    int64_t panel_bytes() const { return (columns + 3) / 4 * 4 * kPanel; }
    int64_t bytes() const { return panels() * (panel_bytes() + kPanel * int64_t{sizeof(int32_t)}); }
    const int8_t* panel(const int8_t* packed, int64_t p) const { return packed + p * panel_bytes(); }
    const int32_t* sums(const int8_t* packed) const {
        return reinterpret_cast<const int32_t*>(packed + panels() * panel_bytes());
    }
};

/// packed = w, whose row n lies at rows[n]. packed is aligned to 64 bytes.
void pack_rows(const int8_t* const* rows, CodeLayout layout, int8_t* packed);
/// packed = the transpose of v (K, N), whose row k lies at rows[k].
void pack_columns(const int8_t* const* rows, CodeLayout layout, int8_t* packed);

/// Codes (rows, K), u8 or i8, one row every `stride` bytes.
struct CodeRows {
    const uint8_t* data;
    int64_t stride;
    bool is_signed;
};

/// y (rows, 16 count) = x . w^T for the rows of `count` <= kPanels panels from `first` on.
void code_product(CodeRows x, int64_t rows, const int8_t* packed, CodeLayout layout, int64_t first,
                  int64_t count, int32_t* y, int64_t stride);

}  // namespace vvtq::engine::cpu
