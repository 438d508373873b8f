#include "quant/export/onnx_quantize.h"

#include <algorithm>

#include "engine/check.h"

namespace vvtq::quant {

using engine::CodeRange;
using engine::QuantParams;
using engine::Shape;

namespace {

CodeRange range_of(const QuantParams& quantizer) {
    const std::vector<double> range = quantizer.range.to_vector();
    return {static_cast<int>(range[0]), static_cast<int>(range[1])};
}

std::vector<float> steps_of(const QuantParams& quantizer) {
    std::vector<float> steps;
    for (const double step : quantizer.scale.to_vector()) {
        steps.push_back(static_cast<float>(std::max(step, engine::kLeastStep)));
    }
    return steps;
}

/// The bits that a range's codes need.
int width_of(CodeRange range) {
    int bits = 1;
    while ((range.low < 0 && (range.low < -(1 << (bits - 1)) || range.high >= 1 << (bits - 1))) ||
           (range.low >= 0 && range.high >= 1 << bits)) {
        ++bits;
    }
    return bits;
}

/// The narrowest type of a range's codes, of at least `least` bits.
OnnxType type_of(CodeRange range, int least) {
    const int bits = std::max(width_of(range), least);
    const bool is_signed = range.low < 0;
    if (bits <= 2) return is_signed ? OnnxType::i2 : OnnxType::u2;
    if (bits <= 4) return is_signed ? OnnxType::i4 : OnnxType::u4;
    return is_signed ? OnnxType::i8 : OnnxType::u8;
}

/// What QuantizeLinear and DequantizeLinear of one tensor share.
struct Scaling {
    OnnxGraph& graph;
    std::string scale, zero;
    OnnxGraph::Attributes attributes;

    std::string quantize(const std::string& x) const {
        return graph.add("QuantizeLinear", {x, scale, zero}, attributes);
    }
    std::string dequantize(const std::string& codes) const {
        return graph.add("DequantizeLinear", {codes, scale, zero}, attributes);
    }
};

/// One value for each entry of the axis: those of the groups, repeated.
template <typename T>
std::vector<T> along(const std::vector<T>& groups, GroupAxis at, int64_t size) {
    std::vector<T> values;
    for (int64_t i = 0; i < size; ++i) {
        values.push_back(groups[static_cast<size_t>(i / at.repeat) % groups.size()]);
    }
    return values;
}

GroupAxis axis_of(const Shape& shape, const QuantParams& quantizer) {
    const auto at = group_axis(shape, quantizer.groups(), quantizer.inner);
    VVTQ_CHECK(at.has_value(), quantizer.groups(), " steps in a tensor ", shape.str());
    return *at;
}

Scaling scaling_of(OnnxGraph& graph, const std::vector<float>& steps, int zero, OnnxType type,
                   std::optional<GroupAxis> at, int64_t size) {
    if (!at) return {graph, graph.scalar(steps[0]), graph.codes({zero}, type, {}), {}};
    return {graph,
            graph.constant(along(steps, *at, size), {size}),
            graph.codes(std::vector<int>(static_cast<size_t>(size), zero), type, {size}),
            {{"axis", at->axis}}};
}

/// The values of the axis as a constant that is broadcast over the other dimensions.
std::string broadcast(OnnxGraph& graph, const std::vector<float>& groups, GroupAxis at, const Shape& shape) {
    const int64_t size = shape[static_cast<int>(at.axis)];
    std::vector<int64_t> sizes(static_cast<size_t>(shape.rank() - at.axis), 1);
    sizes[0] = size;
    return graph.constant(along(groups, at, size), sizes);
}

}  // namespace

OnnxStyle parse_onnx_style(const std::string& name) {
    if (name == "uint8") return OnnxStyle::uint8;
    if (name == "int8-clip") return OnnxStyle::int8_clip;
    if (name == "native") return OnnxStyle::native;
    engine::input_error("`style` ", name, ": choose uint8, int8-clip or native");
}

std::optional<GroupAxis> group_axis(const Shape& shape, int64_t groups, int64_t inner) {
    int64_t behind = 1;  // elements for each entry of the dimension
    for (int axis = shape.rank() - 1; axis >= 0; behind *= shape[axis--]) {
        if (inner % behind != 0 || shape[axis] % groups != 0) continue;
        const int64_t repeat = inner / behind;
        if (repeat * groups == shape[axis]) return GroupAxis{axis, repeat};
    }
    return std::nullopt;
}

std::string quantized(OnnxGraph& graph, OnnxStyle style, const std::string& x, const Shape& shape,
                      const QuantParams& quantizer) {
    constexpr int kByte = 256;
    const CodeRange range = range_of(quantizer);
    float step = steps_of(quantizer)[0];
    std::string y = x;
    if (quantizer.groups() > 1) {
        y = graph.add("Div", {y, group_steps(graph, shape, quantizer)});
        step = 1;
    }
    if (quantizer.offset.defined()) {
        VVTQ_CHECK(quantizer.groups() == 1, "offsets of heads");
        y = graph.add("Sub", {y, graph.scalar(static_cast<float>(quantizer.offset.item()))});
    }
    const auto scaling = [&](OnnxType type, int zero) {
        return scaling_of(graph, {step}, zero, type, std::nullopt, 1);
    };
    if (style == OnnxStyle::int8_clip) {
        const OnnxType type = type_of(range, 8);
        std::string codes = scaling(type, 0).quantize(y);
        if (range.count() < kByte) {
            codes = graph.add(
                "Clip", {codes, graph.codes({range.low}, type, {}), graph.codes({range.high}, type, {})});
        }
        return scaling(type, 0).dequantize(codes);
    }
    const bool native = style == OnnxStyle::native;
    const OnnxType type = native ? type_of(range, 2) : OnnxType::u8;
    if (range.count() < 1 << bits_of(type)) {
        const auto bound = [&](int code) { return graph.scalar(static_cast<float>(code) * step); };
        y = graph.add("Clip", {y, bound(range.low), bound(range.high)});
    }
    const Scaling used = scaling(type, native ? 0 : -range.low);
    return used.dequantize(used.quantize(y));
}

std::string group_steps(OnnxGraph& graph, const Shape& shape, const QuantParams& quantizer) {
    return broadcast(graph, steps_of(quantizer), axis_of(shape, quantizer), shape);
}

std::vector<double> OnnxWeight::plain() const {
    std::vector<double> w = values.to_vector();
    if (!quantizer.defined()) return w;
    const std::vector<float> steps = steps_of(quantizer);
    for (size_t i = 0; i < w.size(); ++i) {
        w[i] *= static_cast<double>(steps[i / static_cast<size_t>(quantizer.inner) % steps.size()]);
    }
    return w;
}

std::string weight_name(OnnxGraph& graph, OnnxStyle style, const OnnxWeight& weight, bool transposed,
                        bool beside_codes) {
    const Shape shape = weight.values.shape();  // (O, ...)
    const std::vector<double> values = weight.values.to_vector();
    std::vector<int64_t> sizes = shape.vec();
    if (transposed) sizes = {shape.numel() / shape[0], shape[0]};
    const auto rows = static_cast<size_t>(shape[0]), columns = values.size() / rows;
    const auto place = [&](size_t i) { return transposed ? i % columns * rows + i / columns : i; };
    if (!weight.quantizer.defined()) {
        std::vector<float> floats(values.size());
        for (size_t i = 0; i < values.size(); ++i) floats[place(i)] = static_cast<float>(values[i]);
        return graph.constant(floats, sizes);
    }
    std::vector<int> codes(values.size());
    for (size_t i = 0; i < values.size(); ++i) codes[place(i)] = static_cast<int>(values[i]);
    const OnnxType stored =
        style == OnnxStyle::int8_clip ? OnnxType::i8 : type_of(range_of(weight.quantizer), 2);
    std::optional<GroupAxis> at;
    const std::vector<float> steps = steps_of(weight.quantizer);
    if (steps.size() > 1) {
        at = axis_of({shape[0], static_cast<int64_t>(columns)}, weight.quantizer);
        VVTQ_CHECK(transposed, "several steps in a convolution");
        at->axis = 1 - at->axis;
    }
    const int64_t size = at ? sizes[static_cast<size_t>(at->axis)] : 1;
    std::string name = graph.codes(codes, stored, sizes);
    const auto cast_to = [&](OnnxType type) {
        name = graph.add("Cast", {name}, {{"to", static_cast<int64_t>(type)}});
    };
    if (!beside_codes && style != OnnxStyle::native) {
        cast_to(OnnxType::f32);
        const std::string factor = at ? broadcast(graph, steps, *at, Shape(sizes)) : graph.scalar(steps[0]);
        return graph.add("Mul", {name, factor});
    }
    const bool cast = style == OnnxStyle::uint8 && stored != OnnxType::i8;
    const OnnxType used = cast ? OnnxType::i8 : stored;
    if (cast) cast_to(OnnxType::i8);
    return scaling_of(graph, steps, 0, used, at, size).dequantize(name);
}

}  // namespace vvtq::quant
