#include "quant/export/onnx_values.h"

namespace vvtq::quant {

using autograd::Variable;
using engine::Convolution;
using engine::QuantParams;
using engine::Shape;
using engine::Tensor;

namespace {

bool has_groups(const OnnxValue& x) { return x.quantizer.defined() && x.quantizer.groups() > 1; }

double offset_of(const OnnxValue& x) { return x.quantizer.offset.defined() ? x.quantizer.offset.item() : 0; }

/// The sizes behind the first.
std::vector<int64_t> behind_first(const Shape& shape) {
    const std::vector<int64_t> sizes = shape.vec();
    return {sizes.begin() + 1, sizes.end()};
}

/// bias + offset sum_k w_ok for each output o.
std::vector<float> shifted_bias(const OnnxWeight& weight, const Variable& bias, double offset) {
    const int64_t outputs = weight.values.shape()[0];
    std::vector<double> sums(static_cast<size_t>(outputs));
    if (bias.defined()) sums = bias.value().to_vector();
    if (offset != 0) {
        const std::vector<double> w = weight.plain();
        const size_t columns = w.size() / sums.size();
        for (size_t i = 0; i < w.size(); ++i) sums[i / columns] += offset * w[i];
    }
    return {sums.begin(), sums.end()};
}

/// (O, 9 C) of taps (3, 3, C) as (O, C, 3, 3).
Tensor channels_first(const Tensor& w) {
    constexpr int64_t kTaps = 9;
    const int64_t outputs = w.shape()[0], channels = w.numel() / outputs / kTaps;
    const std::vector<double> from = w.to_vector();
    std::vector<double> to(from.size());
    for (int64_t i = 0; i < w.numel(); ++i) {
        const int64_t o = i / (kTaps * channels), tap = i / channels % kTaps, c = i % channels;
        to[static_cast<size_t>((o * channels + c) * kTaps + tap)] = from[static_cast<size_t>(i)];
    }
    return Tensor::from(to, {outputs, channels, 3, 3}, w.dtype());
}

}  // namespace

void OnnxValues::set(const Variable& variable, OnnxValue value) {
    kept_.push_back(variable);
    values_[variable.id()] = std::move(value);
}

void OnnxValues::set_weight(const Variable& variable, OnnxWeight weight) {
    kept_.push_back(variable);
    weights_[variable.id()] = std::move(weight);
}

const OnnxValue* OnnxValues::find(const Variable& variable) const {
    const auto found = values_.find(variable.id());
    return found == values_.end() ? nullptr : &found->second;
}

const OnnxWeight* OnnxValues::find_weight(const Variable& variable) const {
    const auto found = weights_.find(variable.id());
    return found == weights_.end() ? nullptr : &found->second;
}

const OnnxValue& OnnxValues::at(const Variable& variable) const {
    const OnnxValue* value = find(variable);
    VVTQ_CHECK(value != nullptr, "an op of pictures took a constant ", variable.shape().str());
    return *value;
}

OnnxWeight OnnxValues::weight_of(const Variable& variable) const {
    const OnnxWeight* weight = find_weight(variable);
    return weight != nullptr ? *weight : OnnxWeight{variable.value(), {}};
}

std::string OnnxValues::name(const Variable& variable) {
    const OnnxValue* value = find(variable);
    return value != nullptr ? name(*value) : graph_.constant(variable.value());
}

std::string OnnxValues::name(const OnnxValue& value) {
    std::string y = operand(value);
    if (has_groups(value)) y = graph_.add("Mul", {y, group_steps(graph_, value.shape, value.quantizer)});
    const double offset = offset_of(value);
    return offset == 0 ? y : graph_.add("Add", {y, graph_.scalar(static_cast<float>(offset))});
}

std::string OnnxValues::operand(const OnnxValue& x) {
    VVTQ_CHECK(!x.windows, "the surroundings of pixels outside of a convolution");
    if (!x.quantizer.defined()) return x.name;
    const std::string key = engine::concat(x.name, ' ', x.quantizer.scale.raw(), ' ', x.quantizer.inner);
    const auto known = quantized_.find(key);
    if (known != quantized_.end()) return known->second;
    return quantized_[key] = quantized(graph_, style_, x.name, x.shape, x.quantizer);
}

OnnxValue OnnxValues::linear(const OnnxValue& x, const Variable& w, const Variable& bias) {
    OnnxWeight weight = weight_of(w);
    if (x.windows) {
        const Convolution shape = *x.windows;
        OnnxValue picture = x;
        picture.windows.reset();
        weight.values = channels_first(weight.values);
        return convolution(picture, shape, std::move(weight), 1, bias);
    }
    const bool coded = x.quantizer.defined() && !has_groups(x);
    const double offset = coded ? offset_of(x) : 0;
    const std::string left = coded ? operand(x) : name(x);
    std::string y = graph_.add("MatMul", {left, weight_name(graph_, style_, weight, true, coded)});
    const std::vector<float> shifted = shifted_bias(weight, bias, offset);
    const auto outputs = static_cast<int64_t>(shifted.size());
    if (bias.defined() || offset != 0) y = graph_.add("Add", {y, graph_.constant(shifted, {outputs})});
    std::vector<int64_t> sizes = x.shape.vec();
    sizes.back() = outputs;
    return {y, Shape(sizes)};
}

OnnxValue OnnxValues::convolution(const OnnxValue& x, const Convolution& shape, OnnxWeight weight,
                                  int64_t groups, const Variable& bias) {
    OnnxValue picture = x;
    if (shape.channels_last) {
        picture.name =
            graph_.reshape(graph_.transpose(x.name, {0, 2, 1}), {shape.channels, shape.height, shape.width});
        picture.shape = {x.shape[0], shape.channels, shape.height, shape.width};
    }
    VVTQ_CHECK(!has_groups(x) && offset_of(x) == 0, "a convolution takes one step and no offset");
    const std::string codes = operand(picture);
    const int64_t outputs = weight.values.shape()[0];
    weight.values = weight.values.reshape({outputs, shape.channels / groups, 3, 3});
    const std::string y =
        graph_.add("Conv",
                   {codes, weight_name(graph_, style_, weight, false, x.quantizer.defined()),
                    graph_.constant(shifted_bias(weight, bias, 0), {outputs})},
                   {{"group", groups},
                    {"pads", std::vector<int64_t>{1, 1, 1, 1}},
                    {"strides", std::vector<int64_t>{shape.stride, shape.stride}}});
    return {graph_.transpose(graph_.reshape(y, {outputs, shape.positions()}), {0, 2, 1}),
            {x.shape[0], shape.positions(), outputs}};
}

OnnxValue OnnxValues::heads_of(const OnnxValue& x, int64_t heads, bool turned) {
    const int64_t tokens = x.shape[1], width = x.shape[2] / heads;
    OnnxValue y = x;
    y.name = graph_.transpose(graph_.reshape(x.name, {tokens, heads, width}),
                              turned ? std::vector<int64_t>{0, 2, 3, 1} : std::vector<int64_t>{0, 2, 1, 3});
    y.shape = turned ? Shape({x.shape[0], heads, width, tokens}) : Shape({x.shape[0], heads, tokens, width});
    if (x.quantizer.defined() && x.quantizer.groups() > 1) {
        VVTQ_CHECK(x.quantizer.groups() == heads && x.quantizer.inner == width, x.quantizer.groups(),
                   " steps for ", heads, " heads");
        y.quantizer.inner = tokens * width;
    }
    return y;
}

std::string OnnxValues::product(const OnnxValue& a, const OnnxValue& b) {
    const auto side = [&](const OnnxValue& x) { return offset_of(x) == 0 ? operand(x) : name(x); };
    const std::string left = side(a), right = side(b);
    std::string y = graph_.add("MatMul", {left, right});
    for (const OnnxValue* x : {&a, &b}) {  // (H, 1, 1)
        if (has_groups(*x)) y = graph_.add("Mul", {y, group_steps(graph_, x->shape, x->quantizer)});
    }
    return y;
}

OnnxValue OnnxValues::scores(const OnnxValue& q, const OnnxValue& k, int64_t heads) {
    return {product(heads_of(q, heads, false), heads_of(k, heads, true)),
            {q.shape[0], heads, q.shape[1], q.shape[1]}};
}

OnnxValue OnnxValues::apply(const OnnxValue& p, const OnnxValue& v) {
    const std::string y = graph_.transpose(product(p, heads_of(v, p.shape[1], false)), {0, 2, 1, 3});
    return {graph_.reshape(y, behind_first(v.shape)), v.shape};
}

OnnxValue OnnxValues::softmax(const OnnxValue& z, double s, const std::string& bias, const Tensor& mask) {
    std::string y = name(z);
    if (s != 1) y = graph_.add("Mul", {y, graph_.scalar(static_cast<float>(s))});
    if (!bias.empty()) y = graph_.add("Add", {y, bias});
    if (mask.defined()) {
        const Shape& m = mask.shape();  // (W, N, N)
        y = graph_.reshape(y, {m[0], z.shape[1], m[1], m[2]});
        y = graph_.add("Add", {y, graph_.constant(mask, {m[0], 1, m[1], m[2]})});
        y = graph_.reshape(y, behind_first(z.shape));
    }
    return {graph_.add("Softmax", {y}, {{"axis", int64_t{-1}}}), z.shape};
}

OnnxValue OnnxValues::gather_tokens(const OnnxValue& x, const Tensor& index) {
    OnnxValue y = x;
    const std::vector<double> order = index.to_vector();
    const std::string places = graph_.integers({order.begin(), order.end()});
    y.name = graph_.add("Gather", {x.name, places}, {{"axis", int64_t{1}}});
    return y;
}

OnnxValue OnnxValues::reshape(const OnnxValue& x, const Shape& shape) {
    OnnxValue y = x;  // groups follow one another in the same order
    y.name = graph_.reshape(x.name, behind_first(shape));
    y.shape = shape;
    return y;
}

}  // namespace vvtq::quant
