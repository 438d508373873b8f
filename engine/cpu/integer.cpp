// integer: linear layers on 8-bit codes. A product is cut into tiles whose sums stay in the cache until
// scale, bias and the next quantizer have been there.
#include <cstring>

#include "engine/cpu/code_tiles.h"
#include "engine/cpu/families.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine {

int64_t packed_bytes(int64_t rows, int64_t columns) { return cpu::CodeLayout{rows, columns}.bytes(); }

namespace cpu {
namespace {

/// Factor and bias of a layer's sums.
struct Affine {
    float factor;
    const float* bias;

    Affine(Arg scale, Arg of_bias)
        : factor(scale.defined() ? *scale.data<float>() : 1.0f),
          bias(of_bias.defined() ? of_bias.data<float>() : nullptr) {}
    void row(const int32_t* sums, int64_t first, int64_t n, float* y) const {
        affine_row(sums, factor, bias == nullptr ? nullptr : bias + first, n, y);
    }
};

}  // namespace

void pack_codes(Arg w, Arg packed) {
    const CodeLayout layout{w.shape().rows(), w.shape().cols()};
    check_size(packed, layout.bytes(), DType::i8);
    const int8_t* pw = w.data<int8_t>();
    std::vector<const int8_t*> rows;
    for (int64_t n = 0; n < layout.rows; ++n) rows.push_back(pw + n * layout.columns);
    pack_rows(rows.data(), layout, packed.data<int8_t>());
}

void linear_codes(Arg x, Arg packed, Arg scale, Arg bias, bool gelu, const QuantParams& quantizer, Arg y) {
    const CodeLayout layout{y.shape().cols(), x.shape().cols()};
    const int64_t rows = x.shape().rows(), outputs = layout.rows;
    check_size(packed, layout.bytes(), DType::i8);
    check_size(y, rows * outputs, y.dtype());
    VVTQ_CHECK(quantizer.defined() ? quantizer.groups() == 1 : !gelu, "GELU needs a quantizer behind it");
    if (bias.defined()) check_size(bias, outputs, DType::f32);
    const Affine affine(scale, bias);
    if (!quantizer.defined()) {
        float* py = y.data<float>();
        for_each_code_tile(code_rows(x), rows, packed.data<int8_t>(), layout, [&](const CodeTile& tile) {
            for (int64_t r = 0; r < tile.rows; ++r) {
                affine.row(tile.row(r), tile.column, tile.columns,
                           py + (tile.first + r) * outputs + tile.column);
            }
        });
        return;
    }
    const Step<float> step(quantizer);
    with_codes(y.dtype(), [&]<typename Q>() {
        Q* py = y.data<Q>();
        for_each_code_tile(code_rows(x), rows, packed.data<int8_t>(), layout, [&](const CodeTile& tile) {
            alignas(64) float values[kTileRows * kTileColumns];
            alignas(64) Q codes[kTileRows * kTileColumns];
            for (int64_t r = 0; r < tile.rows; ++r) {
                affine.row(tile.row(r), tile.column, tile.columns, values + r * tile.columns);
            }
            const int64_t n = tile.rows * tile.columns;
            if (gelu) gelu_row(values, n, values);
            codes_row(values, step, n, codes);
            for (int64_t r = 0; r < tile.rows; ++r) {
                std::memcpy(py + (tile.first + r) * outputs + tile.column, codes + r * tile.columns,
                            static_cast<size_t>(tile.columns));
            }
        });
    });
}

}  // namespace cpu
}  // namespace vvtq::engine
