// The ops of a transformer block in bf16 on the GPU, forward and backward, against a float64 composition of
// simple ops on the CPU that has in bf16 what the ops have: products before their quantizers, and attention's
// output. Without that, codes that lie beside a tie would move, and the gradients of steps with them, by more
// than any useful tolerance. Steps are such that no sum of products lies on a tie by construction.
//
// Gradients of steps and biases are sums of terms that cancel, so their errors are taken against the norm of
// the terms.
#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/ops.h"
#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using autograd::Quantized;
using autograd::QuantParams;
using autograd::Variable;
using engine::CodeRange;
using engine::Device;
using engine::DType;
using engine::Shape;
using engine::Tensor;

namespace {

/// The limit. Measured on an H200, against the cancelled sums themselves: attention 9.3e-3
/// (proj_k.bias).
constexpr double kTolerance = 1e-2;

/// `values` in the place of x; the gradient passes as it is.
Variable replaced(const Variable& x, const std::vector<double>& values) {
    return autograd::record("test.replaced", Tensor::from(values, x.shape(), DType::f64), {x},
                            [](const Tensor& dy, autograd::Gradients& dx) { dx.set(0, dy); });
}
Variable rounded(const Variable& x) { return replaced(x, rounded_to(DType::bf16, x.value().to_vector())); }

/// Of a gradient that is a sum: the squares of its terms, and what terms beside a tie or an end of the range
/// may add where rounding takes them across.
struct Terms {
    double squares = 0, beside = 0;
    double norm() const { return std::sqrt(squares); }
};
using AllTerms = std::map<std::string, Terms>;

/// The same leaves on the GPU (activations bf16, parameters f32) or on the CPU in f64.
class Leaves {
  public:
    explicit Leaves(Device device) : device_(device) {}

    Variable activation(const std::string& name, const Shape& shape, double scale) {
        return leaf(name, exact_fill(DType::bf16, name, shape.numel(), scale, 0.05), shape,
                    device_ == kGpu ? DType::bf16 : DType::f64);
    }
    /// Values that bf16 holds: a bias is rounded to it.
    Variable parameter(const std::string& name, const Shape& shape, double scale) {
        return leaf(name, exact_fill(DType::bf16, name, shape.numel(), scale), shape, master());
    }
    QuantParams step(const std::string& name, CodeRange range, double alpha, double beta = 0.0) {
        const Variable scale = leaf(name + ".alpha", rounded_to(DType::f32, {alpha}), {1}, master());
        Variable offset;
        if (beta != 0) offset = leaf(name + ".beta", rounded_to(DType::f32, {beta}), {1}, master());
        return quant_params(scale, offset, range, Tensor::from({0.25}, {1}, master(), device_));
    }
    DType master() const { return device_ == kGpu ? DType::f32 : DType::f64; }
    const std::vector<std::pair<std::string, Variable>>& all() const { return all_; }

  private:
    Variable leaf(const std::string& name, const std::vector<double>& values, const Shape& shape,
                  DType dtype) {
        all_.emplace_back(name, Variable(Tensor::from(values, shape, dtype, device_), true));
        return all_.back().second;
    }
    Device device_;
    std::vector<std::pair<std::string, Variable>> all_;
};

/// How far f32 arithmetic takes a value from the exact one: of inputs, and of values on the way.
constexpr double kSlack = 1e-7, kSlackOnTheWay = 2e-6;

/// x behind its quantizer; backward notes the terms of the gradients of `name`'s step and offset, and under
/// `source`, where it is given, of what is added to x. `unrounded`: what x was rounded to bf16 from.
Variable behind(const Variable& x, const QuantParams& lsq, const std::string& name, AllTerms& terms,
                double slack = kSlack, const std::string& source = "",
                const std::vector<double>& unrounded = {}) {
    const Variable y = autograd::lsq(x, lsq);
    const double a = lsq.scale.value().item(), o = lsq.offset.defined() ? lsq.offset.value().item() : 0.0;
    const CodeRange range = range_of(lsq.values());
    const double low = range.low, high = range.high, g = lsq.grad_scale.item();
    const std::vector<double> values = x.value().to_vector();
    const auto moved = [&](double by) {
        std::vector<double> result = unrounded.empty() ? values : unrounded;
        for (double& value : result) value += by * std::max(std::abs(value), a);
        return unrounded.empty() ? result : rounded_to(DType::bf16, result);
    };
    const std::vector<double> below = moved(-slack), above = moved(slack);
    const auto note = [=, &terms](const Tensor& dy, autograd::Gradients& dx) {
        const std::vector<double> d = dy.to_vector();
        Terms &alpha = terms[name + ".alpha"], &beta = terms[name + ".beta"], &sum = terms[source];
        const auto factors = [=](double value) {  // of dy in the gradients of alpha and beta
            const double v = (value - o) / a, clamped = std::clamp(v, low, high);
            const bool in = clamped == v;
            return std::pair(g * (std::nearbyint(clamped) - (in ? v : 0.0)), in ? 0.0 : 1.0);
        };
        for (size_t i = 0; i < d.size(); ++i) {
            const auto [of_alpha, of_beta] = factors(values[i]);
            alpha.squares += std::pow(d[i] * of_alpha, 2);
            beta.squares += d[i] * d[i];
            sum.squares += of_beta == 0 ? d[i] * d[i] : 0.0;
            const auto [alpha_below, beta_below] = factors(below[i]);
            const auto [alpha_above, beta_above] = factors(above[i]);
            if (std::abs(alpha_above - alpha_below) > 0.5 * g)
                alpha.beside += std::abs(d[i]) * std::abs(alpha_above - alpha_below);
            if (beta_above != beta_below) beta.beside += std::abs(d[i]);
        }
        dx.set(0, dy);
    };
    return autograd::record("test.terms", y.value(), {y}, note);
}

struct Layer {
    Variable w, alpha, bias;
    CodeRange range;
};

Layer layer_of(Leaves& leaves, const std::string& name, int64_t outputs, int64_t inputs) {
    Layer layer;
    layer.range = CodeRange::signed_bits(4);
    layer.w =
        leaves.parameter(name + ".weight", {outputs, inputs}, std::sqrt(3.0 / static_cast<double>(inputs)));
    layer.alpha = leaves.step(name, layer.range, 0.2513 / std::sqrt(static_cast<double>(inputs))).scale;
    layer.bias = leaves.parameter(name + ".bias", {outputs}, 0.3);
    return layer;
}

/// The quantized weights as the model's pass makes them.
std::vector<Quantized> codes_of(const std::vector<Layer>& layers, DType dtype) {
    std::vector<autograd::WeightParameters> weights;
    for (const Layer& layer : layers) {
        weights.push_back({layer.w, quant_params(layer.alpha, {}, layer.range), layer.range.count()});
    }
    return autograd::quantize_weights(weights, dtype, false).weights;
}

/// The same on the CPU, as values.
Variable values_of(const Layer& layer, const std::string& name, AllTerms& terms) {
    const Tensor g({1}, DType::f64);
    const QuantParams params = quant_params(layer.alpha, {}, layer.range, g);
    on_cpu().lsq_weight_grad_scale(layer.w.value(), params.values(), g);
    return behind(layer.w, params, name, terms);
}

/// What an op gave: its output's values, and the leaves with their gradients.
struct Outcome {
    std::vector<double> y;
    Leaves leaves;
    AllTerms terms = {};  // of the composition
};

/// `y` is the op's output; `factor` turns it into values.
Outcome outcome_of(const Variable& y, double factor, const Leaves& leaves) {
    const auto dy = exact_fill(DType::bf16, "upstream", y.shape().numel(), 1.0, 0.1);
    const Device device = y.value().device();
    y.backward(Tensor::from(dy, y.shape(), y.value().dtype(), device));
    return {scaled(y.value().to_vector(), factor), leaves};
}

void compare(const std::string& op, const Outcome& gpu, const Outcome& cpu) {
    Worst worst, sums;
    const double output = l2_error(gpu.y, cpu.y);
    worst.note(output, "output");
    CHECK(output <= kTolerance);
    REQUIRE(gpu.leaves.all().size() == cpu.leaves.all().size());
    for (size_t i = 0; i < gpu.leaves.all().size(); ++i) {
        const auto& [name, leaf] = gpu.leaves.all()[i];
        REQUIRE(leaf.grad().defined());
        const std::vector<double> gradient = leaf.grad().to_vector();
        const std::vector<double> expected = cpu.leaves.all()[i].second.grad().to_vector();
        const auto entry = cpu.terms.find(name);
        const Terms terms = entry == cpu.terms.end() ? Terms{} : entry->second;
        const double size = std::max(l2_norm(expected), terms.norm());
        const auto error = [&](const std::vector<double>& of) {
            return l2_error(of, expected) * l2_norm(expected) / size;
        };
        INFO("gradient of " << name << ": error " << error(gradient) << ", norms " << l2_norm(gradient)
                            << " and " << l2_norm(expected) << ", of terms " << terms.norm()
                            << ", beside ties " << terms.beside);
        (entry == cpu.terms.end() ? worst : sums).note(error(gradient), name);
        CHECK(terms.beside <= 0.03 * size);  // 0.019 of probability.alpha, (3, 50, 64)
        CHECK(error(gradient) <= kTolerance + terms.beside / size);
        // where the sum does not cancel
        if (l2_norm(expected) > 0.5 * size) CHECK_FALSE(error(scaled(gradient, 1.05)) <= kTolerance);
    }
    WARN(op << ", bf16: " << worst.str() << "; of sums " << sums.str());
}

/// What mlp's first product gives on the GPU: of rows of a multiple of 8 values.
std::vector<double> hidden_on_gpu(const Shape& shape, int64_t hidden) {
    Leaves leaves(kGpu);
    const Variable x = leaves.activation("x", shape, 1.4);
    const QuantParams input = leaves.step("input", CodeRange::signed_bits(4), 0.2137);
    const Layer first = layer_of(leaves, "fc1", hidden, shape.cols());
    const std::vector<Quantized> w = codes_of({first}, DType::bf16);
    const int64_t padded = (hidden + 7) / 8 * 8;
    const auto widened = [&](const Tensor& rows, const Shape& to) {
        std::vector<double> values = rows.to_vector();
        values.resize(static_cast<size_t>(to.numel()), 0.0);
        return Variable(Tensor::from(values, to, rows.dtype(), kGpu));
    };
    Quantized weight = w[0];
    weight.q = widened(w[0].q.value(), {padded, shape.cols()});
    const Variable bias = widened(first.bias.value(), {padded});
    const Variable z = autograd::linear(autograd::quantize(x, input), weight, bias);
    const std::vector<double> rows = z.value().to_vector();
    std::vector<double> values;
    for (auto row = rows.begin(); row != rows.end(); row += padded)
        values.insert(values.end(), row, row + hidden);
    return values;
}

Outcome mlp_on(Device device, const Shape& shape, int64_t hidden) {
    Leaves leaves(device);
    const Variable x = leaves.activation("x", shape, 1.4);
    const QuantParams input = leaves.step("input", CodeRange::signed_bits(4), 0.2137);
    const QuantParams middle = leaves.step("hidden", CodeRange::unsigned_bits(4), 0.1219, -0.1613);
    const Layer first = layer_of(leaves, "fc1", hidden, shape.cols());
    const Layer second = layer_of(leaves, "fc2", shape.cols(), hidden);
    if (device == kGpu) {
        const std::vector<Quantized> w = codes_of({first, second}, DType::bf16);
        return outcome_of(
            autograd::mlp(autograd::quantize(x, input), w[0], first.bias, middle, w[1], second.bias), 1.0,
            leaves);
    }
    // z as the GPU has it: where rows are not aligned, as of width 49, cuBLASLt rounds the product to bf16
    // before it adds the bias, and then again, which moves 1 code in 200. (A composition that does so differs
    // from one that rounds once as the H200 did: fc2.weight by 0.01127, the output by 0.0135.)
    AllTerms terms;
    const Variable exact =
        autograd::linear(behind(x, input, "input", terms), values_of(first, "fc1", terms), first.bias);
    const std::vector<double> z = hidden_on_gpu(shape, hidden);
    const double once =
        l2_error(rounded_to(DType::bf16, exact.value().to_vector()), exact.value().to_vector());
    WARN("mlp " << shape.str() << ": hidden values " << l2_error(z, exact.value().to_vector())
                << ", rounded once " << once);
    const bool aligned = shape.cols() % 8 == 0 && hidden % 8 == 0;
    CHECK(l2_error(z, exact.value().to_vector()) <= (aligned ? 1.02 * once : 3e-3));  // once: 1.7e-3
    const Variable h = behind(autograd::gelu(replaced(exact, z)), middle, "hidden", terms, kSlackOnTheWay);
    Outcome outcome =
        outcome_of(autograd::linear(h, values_of(second, "fc2", terms), second.bias), 1.0, leaves);
    outcome.terms = terms;
    return outcome;
}

Outcome attention_on(Device device, const Shape& shape, int64_t heads) {
    Leaves leaves(device);
    const CodeRange four = CodeRange::signed_bits(4);
    const auto tokens = static_cast<double>(shape[1]);
    const double s = std::sqrt(static_cast<double>(heads) / static_cast<double>(shape.cols()));
    const Variable x = leaves.activation("x", shape, 1.4);
    const QuantParams input = leaves.step("input", four, 0.2137);
    const char* const names[] = {"q", "k", "v"};
    std::vector<Layer> layers;
    std::vector<QuantParams> steps;
    for (const std::string name : names) {
        layers.push_back(layer_of(leaves, "proj_" + name, shape.cols(), shape.cols()));
        steps.push_back(leaves.step(name, four, 0.2719));
    }
    const QuantParams probability = leaves.step("probability", CodeRange::unsigned_bits(4), 0.8123 / tokens);
    const QuantParams output = leaves.step("output", four, 0.6131 / std::sqrt(tokens));
    if (device == kGpu) {
        const std::vector<Quantized> w = codes_of(layers, DType::bf16);
        const auto projection = [&](size_t t) -> autograd::Projection {
            return {w[t], layers[t].bias, steps[t]};
        };
        const Quantized y = autograd::attention(autograd::quantize(x, input),
                                                {projection(0), projection(1), projection(2), {}},
                                                probability, output, heads, s);
        return outcome_of(y.q, output.scale.value().item(), leaves);
    }
    AllTerms terms;
    Variable projected[3];
    for (size_t t = 0; t < 3; ++t) {
        const std::string name = names[t], projection = "proj_" + name;
        const double unit = input.scale.value().item() * layers[t].alpha.value().item();
        const Variable product =
            autograd::linear(behind(x, input, "input", terms), values_of(layers[t], projection, terms), {});
        // of the codes, a whole number: beyond 256 every second odd one is a tie of bf16
        std::vector<double> codes = scaled(product.value().to_vector(), 1 / unit);
        for (double& code : codes) code = std::nearbyint(code);
        const Variable z = replaced(product, scaled(rounded_to(DType::bf16, codes), unit));
        projected[t] = behind(autograd::add_broadcast(z, layers[t].bias), steps[t], name, terms,
                              kSlackOnTheWay, projection + ".bias");
    }
    const Variable scores = autograd::attention_scores(projected[0], projected[1], heads);
    const Variable p =
        behind(autograd::softmax(scores, s), probability, "probability", terms, kSlackOnTheWay);
    const Variable o = autograd::attention_apply(p, projected[2]);
    Outcome outcome = outcome_of(
        behind(rounded(o), output, "output", terms, kSlackOnTheWay, "", o.value().to_vector()), 1.0, leaves);
    outcome.terms = terms;
    return outcome;
}

}  // namespace

TEST_CASE("gpu block: mlp in bf16", "[gpu]") {
    if (gpu_missing()) return;
    for (const Shape& shape : {Shape{3, 31, 49}, Shape{2, 50, 64}, Shape{4, 197, 192}}) {
        INFO(shape.str());
        const int64_t hidden = 4 * shape.cols();
        compare("mlp " + shape.str(), mlp_on(kGpu, shape, hidden), mlp_on(Device::cpu, shape, hidden));
    }
}

TEST_CASE("gpu block: attention in bf16", "[gpu]") {
    if (gpu_missing()) return;
    struct Size {
        Shape shape;
        int64_t heads;
    };
    for (const Size& size : {Size{{2, 31, 42}, 1}, Size{{3, 50, 64}, 2}, Size{{2, 197, 192}, 3}}) {
        INFO(size.shape.str() << ", " << size.heads << " heads");
        compare("attention " + size.shape.str(), attention_on(kGpu, size.shape, size.heads),
                attention_on(Device::cpu, size.shape, size.heads));
    }
}
