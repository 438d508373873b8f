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

/// x between `low` and `high` steps.
std::string clipped(OnnxGraph& graph, const std::string& x, const Shape& shape, CodeRange range,
                    const std::vector<float>& steps, std::optional<GroupAxis> at) {
    std::vector<float> low, high;
    for (const float step : steps) {
        low.push_back(static_cast<float>(range.low) * step);
        high.push_back(static_cast<float>(range.high) * step);
    }
    if (!at) return graph.add("Clip", {x, graph.scalar(low[0]), graph.scalar(high[0])});
    const auto axis = static_cast<int>(at->axis);
    std::vector<int64_t> sizes(static_cast<size_t>(shape.rank() - axis), 1);  // broadcast over the others
    const int64_t size = sizes[0] = shape[axis];
    const std::string above = graph.add("Max", {x, graph.constant(along(low, *at, size), sizes)});
    return graph.add("Min", {above, graph.constant(along(high, *at, size), sizes)});
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
    const std::vector<float> steps = steps_of(quantizer);
    std::optional<GroupAxis> at;
    if (steps.size() > 1) at = axis_of(shape, quantizer);
    const int64_t size = at ? shape[static_cast<int>(at->axis)] : 1;
    std::string y = x;
    if (quantizer.offset.defined()) {
        VVTQ_CHECK(!at, "offsets of heads");
        y = graph.add("Sub", {y, graph.scalar(static_cast<float>(quantizer.offset.item()))});
    }
    if (style == OnnxStyle::int8_clip) {
        const OnnxType type = type_of(range, 8);
        const Scaling scaling = scaling_of(graph, steps, 0, type, at, size);
        std::string codes = scaling.quantize(y);
        if (range.count() < kByte) {
            codes = graph.add(
                "Clip", {codes, graph.codes({range.low}, type, {}), graph.codes({range.high}, type, {})});
        }
        return scaling.dequantize(codes);
    }
    const bool native = style == OnnxStyle::native;
    const OnnxType type = native ? type_of(range, 2) : OnnxType::u8;
    if (range.count() < 1 << bits_of(type)) y = clipped(graph, y, shape, range, steps, at);
    const Scaling scaling = scaling_of(graph, steps, native ? 0 : -range.low, type, at, size);
    return scaling.dequantize(scaling.quantize(y));
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

std::string weight_name(OnnxGraph& graph, OnnxStyle style, const OnnxWeight& weight, bool transposed) {
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
    const bool cast = style == OnnxStyle::uint8 && stored != OnnxType::i8;
    const OnnxType used = cast ? OnnxType::i8 : stored;
    if (cast) name = graph.add("Cast", {name}, {{"to", static_cast<int64_t>(OnnxType::i8)}});
    return scaling_of(graph, steps, 0, used, at, size).dequantize(name);
}

}  // namespace vvtq::quant
