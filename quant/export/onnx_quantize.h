// onnx_quantize: how an ONNX model quantizes. The forms are those that onnxruntime multiplies as integers.
#pragma once

#include "engine/kernels.h"
#include "quant/export/onnx_graph.h"

namespace vvtq::quant {

/// How activations are quantized, and how the codes of weights are stored.
enum class OnnxStyle {
    /// Clip to [Qn a, Qp a], then UINT8 with zero point -Qn; weights of up to 4 bits as INT4 or INT2 that are
    /// cast to INT8. The fastest in onnxruntime.
    uint8,
    /// INT8 with zero point 0 (UINT8 where no code is negative), clipped as integers; weights as INT8.
    int8_clip,
    /// Types as wide as the codes, which saturate by themselves; weights are dequantized as they are stored.
    native,
};

/// Throws Error(Fault::input) naming `style`.
OnnxStyle parse_onnx_style(const std::string& name);

/// Where the groups of a quantizer lie in a tensor: entry i of dimension `axis` belongs to group
/// i / repeat % groups.
struct GroupAxis {
    int64_t axis = 0;
    int64_t repeat = 1;
};
/// Of a quantizer with several steps in a tensor of this shape; none where they follow no dimension.
std::optional<GroupAxis> group_axis(const engine::Shape& shape, int64_t groups, int64_t inner);

/// The name of a (code of x - o) in the graph, x (B, ...) of this shape, by nodes right behind x. Of a
/// quantizer with several steps the codes alone, as floats, which `group_steps` has to multiply: onnxruntime
/// has no integer product for an activation with several steps.
std::string quantized(OnnxGraph& graph, OnnxStyle style, const std::string& x, const engine::Shape& shape,
                      const engine::QuantParams& quantizer);
/// The constant of a quantizer's several steps, to be broadcast over x of this shape.
std::string group_steps(OnnxGraph& graph, const engine::Shape& shape, const engine::QuantParams& quantizer);

/// A weight (O, ...) as its codes and steps; without steps its values.
struct OnnxWeight {
    engine::Tensor values;  // codes, or the weight itself
    engine::QuantParams quantizer;

    /// Its values as floats in the order of `values`, without the offset.
    std::vector<double> plain() const;
};

/// The name of the weight in the graph; as (K, O) where `transposed`, for a product. Beside an operand that
/// is not quantized it is cast and multiplied: behind a DequantizeLinear onnxruntime would quantize the
/// operand to 8 bits (MatMulNBits). In the style `native` it is dequantized all the same.
std::string weight_name(OnnxGraph& graph, OnnxStyle style, const OnnxWeight& weight, bool transposed,
                        bool beside_codes);

}  // namespace vvtq::quant
