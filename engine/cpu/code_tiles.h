// code_tiles: tiles of integer products, spread over threads. Their bounds depend on the shape alone.
#pragma once

#include "engine/cpu/code_products.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {

inline constexpr int64_t kTileRows = 24;
inline constexpr int64_t kTileColumns = kPanel * kPanels;

/// Calls f.operator()<Q>() with the C++ type of codes of this dtype.
template <typename F>
void with_codes(DType dtype, F&& f) {
    if (dtype == DType::u8) return f.template operator()<uint8_t>();
    VVTQ_CHECK(dtype == DType::i8, "codes of ", name_of(dtype));
    f.template operator()<int8_t>();
}

/// x (..., K) of codes as rows.
inline CodeRows code_rows(Arg x) {
    VVTQ_CHECK(x.dtype() == DType::u8 || x.dtype() == DType::i8, "codes of ", name_of(x.dtype()));
    const int64_t columns = x.shape().cols();
    VVTQ_CHECK(columns <= kMostInputs, columns, " inputs");
    return {static_cast<const uint8_t*>(x.raw()), columns, x.dtype() == DType::i8};
}

/// Sums of rows first .. first + rows and columns column .. column + columns.
struct CodeTile {
    int64_t first, rows, column, columns;
    const int32_t* sums;
    const int32_t* row(int64_t r) const { return sums + r * kTileColumns; }
};

/// f(tile) of x (rows, K) . w^T.
template <typename F>
void for_each_code_tile(CodeRows x, int64_t rows, const int8_t* packed, CodeLayout layout, F&& f) {
    const int64_t across = (layout.rows + kTileColumns - 1) / kTileColumns;
    const int64_t down = (rows + kTileRows - 1) / kTileRows;
    parallel_chunks(across * down, 1, [&](int64_t index, int64_t, int64_t) {
        alignas(64) int32_t sums[kTileRows * kTileColumns];
        const int64_t first = index / across * kTileRows, block = index % across;
        CodeTile tile{first, std::min(kTileRows, rows - first), block * kTileColumns, 0, sums};
        tile.columns = std::min(kTileColumns, layout.rows - tile.column);
        const int64_t panels = std::min(kPanels, layout.panels() - block * kPanels);
        code_product({x.data + first * x.stride, x.stride, x.is_signed}, tile.rows, packed, layout,
                     block * kPanels, panels, sums, kTileColumns);
        f(tile);
    });
}

}  // namespace vvtq::engine::cpu
