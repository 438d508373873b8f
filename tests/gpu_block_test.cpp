// The ops of a transformer block in bf16 on the GPU, forward and backward, against a float64 composition of
// simple ops on the CPU that rounds to bf16 what the ops round: products before their quantizers, and
// attention's output. Without that, codes that lie beside a tie would move, and the gradients of steps with
// them, by more than any useful tolerance.
#include <cmath>

#include "autograd/ops.h"
#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using autograd::LsqParameters;
using autograd::Quantized;
using autograd::Variable;
using engine::CodeRange;
using engine::Device;
using engine::DType;
using engine::Shape;
using engine::Tensor;

namespace {

constexpr double kTolerance = 1e-2;  // the limit

/// x rounded to bf16; the gradient passes as it is.
Variable rounded(const Variable& x) {
    const Tensor y = Tensor::from(rounded_to(DType::bf16, x.value().to_vector()), x.shape(), DType::f64);
    return autograd::record("test.round_to_bf16", y, {x},
                            [](const Tensor& dy, autograd::Gradients& dx) { dx.set(0, dy); });
}

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
    LsqParameters step(const std::string& name, CodeRange range, double alpha, double beta = 0.0) {
        LsqParameters lsq;
        lsq.alpha = leaf(name + ".alpha", rounded_to(DType::f32, {alpha}), {1}, master());
        if (beta != 0) lsq.beta = leaf(name + ".beta", rounded_to(DType::f32, {beta}), {1}, master());
        lsq.range = range;
        lsq.g = Tensor::from({0.25}, {1}, master(), device_);
        return lsq;
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

Variable behind(const Variable& x, const LsqParameters& lsq) {
    return autograd::lsq(x, lsq.alpha, lsq.beta, lsq.range, lsq.g);
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
    layer.alpha = leaves.step(name, layer.range, 0.25 / std::sqrt(static_cast<double>(inputs))).alpha;
    layer.bias = leaves.parameter(name + ".bias", {outputs}, 0.3);
    return layer;
}

/// The quantized weights as the model's pass makes them.
std::vector<Quantized> codes_of(const std::vector<Layer>& layers, DType dtype) {
    std::vector<autograd::WeightParameters> weights;
    for (const Layer& layer : layers) weights.push_back({layer.w, layer.alpha, layer.range});
    return autograd::quantize_weights(weights, dtype, false).weights;
}

/// The same on the CPU, as values.
Variable values_of(const Layer& layer) {
    const Tensor g({1}, DType::f64);
    on_cpu().lsq_weight_grad_scale(layer.w.value(), layer.range, g);
    return autograd::lsq(layer.w, layer.alpha, {}, layer.range, g);
}

/// What an op gave: its output's values, and the leaves with their gradients.
struct Outcome {
    std::vector<double> y;
    Leaves leaves;
};

/// `y` is the op's output; `factor` turns it into values.
Outcome outcome_of(const Variable& y, double factor, const Leaves& leaves) {
    const auto dy = exact_fill(DType::bf16, "upstream", y.shape().numel(), 1.0, 0.1);
    const Device device = y.value().device();
    y.backward(Tensor::from(dy, y.shape(), y.value().dtype(), device));
    return {scaled(y.value().to_vector(), factor), leaves};
}

void compare(const std::string& op, const Outcome& gpu, const Outcome& cpu) {
    Worst worst;
    const double output = l2_error(gpu.y, cpu.y);
    worst.note(output, "output");
    CHECK(output <= kTolerance);
    REQUIRE(gpu.leaves.all().size() == cpu.leaves.all().size());
    for (size_t i = 0; i < gpu.leaves.all().size(); ++i) {
        const auto& [name, leaf] = gpu.leaves.all()[i];
        REQUIRE(leaf.grad().defined());
        const std::vector<double> gradient = leaf.grad().to_vector();
        const std::vector<double> expected = cpu.leaves.all()[i].second.grad().to_vector();
        const double error = l2_error(gradient, expected);
        INFO("gradient of " << name << ": error " << error << ", norms " << l2_norm(gradient) << " and "
                            << l2_norm(expected));
        worst.note(error, name);
        CHECK(error <= kTolerance);
        CHECK_FALSE(l2_error(scaled(gradient, 1.05), expected) <= kTolerance);
    }
    WARN(op << ", bf16: " << worst.str());
}

Outcome mlp_on(Device device, const Shape& shape, int64_t hidden) {
    Leaves leaves(device);
    const Variable x = leaves.activation("x", shape, 1.4);
    const LsqParameters input = leaves.step("input", CodeRange::signed_bits(4), 0.21);
    const LsqParameters middle = leaves.step("hidden", CodeRange::unsigned_bits(4), 0.12, -0.16);
    const Layer first = layer_of(leaves, "fc1", hidden, shape.cols());
    const Layer second = layer_of(leaves, "fc2", shape.cols(), hidden);
    if (device == kGpu) {
        const std::vector<Quantized> w = codes_of({first, second}, DType::bf16);
        return outcome_of(
            autograd::mlp(autograd::quantize(x, input), w[0], first.bias, middle, w[1], second.bias), 1.0,
            leaves);
    }
    const Variable z = rounded(autograd::linear(behind(x, input), values_of(first), first.bias));
    const Variable h = behind(autograd::gelu(z), middle);
    return outcome_of(autograd::linear(h, values_of(second), second.bias), 1.0, leaves);
}

Outcome attention_on(Device device, const Shape& shape, int64_t heads) {
    Leaves leaves(device);
    const CodeRange four = CodeRange::signed_bits(4);
    const auto tokens = static_cast<double>(shape[1]);
    const double s = std::sqrt(static_cast<double>(heads) / static_cast<double>(shape.cols()));
    const Variable x = leaves.activation("x", shape, 1.4);
    const LsqParameters input = leaves.step("input", four, 0.21);
    const char* const names[] = {"q", "k", "v"};
    std::vector<Layer> layers;
    std::vector<LsqParameters> steps;
    for (const std::string name : names) {
        layers.push_back(layer_of(leaves, "proj_" + name, shape.cols(), shape.cols()));
        steps.push_back(leaves.step(name, four, 0.27));
    }
    const LsqParameters probability = leaves.step("probability", CodeRange::unsigned_bits(4), 0.8 / tokens);
    const LsqParameters output = leaves.step("output", four, 0.6 / std::sqrt(tokens));
    if (device == kGpu) {
        const std::vector<Quantized> w = codes_of(layers, DType::bf16);
        const auto projection = [&](size_t t) -> autograd::Projection {
            return {w[t], layers[t].bias, steps[t]};
        };
        const Quantized y = autograd::attention(autograd::quantize(x, input), projection(0), projection(1),
                                                projection(2), probability, output, heads, s);
        return outcome_of(y.q, output.alpha.value().item(), leaves);
    }
    Variable projected[3];
    for (size_t t = 0; t < 3; ++t) {
        const double unit = input.alpha.value().item() * layers[t].alpha.value().item();
        const Variable product = autograd::linear(behind(x, input), values_of(layers[t]), {});
        const Variable codes = rounded(autograd::scale(product, 1 / unit));  // of the codes, a whole number
        projected[t] =
            behind(autograd::add_broadcast(autograd::scale(codes, unit), layers[t].bias), steps[t]);
    }
    const Variable scores = autograd::attention_scores(projected[0], projected[1], heads);
    const Variable p = behind(autograd::softmax(scores, s), probability);
    return outcome_of(behind(rounded(autograd::attention_mix(p, projected[2])), output), 1.0, leaves);
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
