// A quantized model of two blocks on the GPU against float64 on the CPU: logits, loss and every gradient. It
// has few activations, so few of them lie beside a tie, where rounding to f32 can change a code. Where one
// does, the figures of that pass change. So each figure is compared on several batches, and the median must
// agree. A deep model has too many activations for this: a code that changes there changes others in every
// block behind it (gpu_model_test.cpp).
#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "nn/losses.h"
#include "nn/model.h"
#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::Device;
using engine::DType;
using engine::Shape;
using engine::Tensor;

namespace {

struct Pass {
    std::vector<double> logits;
    double loss = 0, regularizer = 0;
    std::vector<std::pair<std::string, std::vector<double>>> gradients;
};

/// Calibrates the model and goes through it once, forward and back; parameters of `master`, activations of
/// `dtype`. `draw` chooses the image. Start values are multiplied by 1 + `moved` (2u - 1).
Pass pass_of(Device device, DType master, DType dtype, int bits, int draw, double moved = 0.0) {
    nn::ModelConfig config = nn::model_config("deit_nano_patch4_28_quant");
    config.depth = 2;
    config.drop_path = 0.3;
    const auto model = nn::make_model(config, master, 5);
    for (const nn::NamedParameter& p : model->parameters()) {  // away from their start, and exact in f32
        const Shape shape = p.parameter.shape();
        const bool norm = shape.rank() == 1 && p.name.ends_with(".weight");
        const double scale =
            shape.rank() == 1 ? 0.1 : 1.7 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
        auto values = exact_fill(DType::f32, "shallow/" + p.name, shape.numel(), scale, norm ? 1.0 : 0.0);
        if (moved > 0) {
            const auto factors = fill("shallow/moved/" + p.name, shape.numel(), moved, 1.0);
            for (size_t i = 0; i < values.size(); ++i) values[i] *= factors[i];
        }
        on_cpu().copy(Tensor::from(values, shape, master), p.parameter.value());
    }
    model->to(device);
    quant::attach(*model, {bits, bits});
    const Shape shape{1, 3, config.img_size, config.img_size};
    const auto pixels =
        exact_fill(DType::bf16, engine::concat("shallow/pictures/", draw), shape.numel(), 2.0);
    const Tensor pictures = Tensor::from(pixels, shape, dtype, device);
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, pictures);

    model->train(true);
    quant::regularize(*model, true);
    const autograd::Variable logits = model->forward(pictures, nn::random_key(3, device));
    const autograd::Variable loss = nn::cross_entropy(logits, nn::label_tensor({draw % 10}, 10, device), 0.1);
    const autograd::Variable term = quant::bin_regularizer(*model).total;
    autograd::add(loss, autograd::scale(term, 0.5)).backward();
    Pass pass{logits.value().to_vector(), loss.value().item(), term.value().item(), {}};
    for (const nn::NamedParameter& p : model->parameters()) {
        const Tensor& gradient = p.parameter.grad();
        pass.gradients.emplace_back(p.name,
                                    gradient.defined() ? gradient.to_vector() : std::vector<double>{});
    }
    return pass;
}

double relative(double a, double b) { return std::abs(a / b - 1); }

constexpr int kDraws = 12;

/// One pass for each draw.
std::vector<Pass> passes_of(Device device, DType master, DType dtype, int bits, double moved = 0.0) {
    std::vector<Pass> passes;
    for (int draw = 0; draw < kDraws; ++draw) {
        passes.push_back(pass_of(device, master, dtype, bits, draw, moved));
    }
    return passes;
}

/// `error(pass, its reference)` of all draws, ascending.
template <typename F>
std::vector<double> errors_of(const std::vector<Pass>& passes, const std::vector<Pass>& references,
                              F&& error) {
    std::vector<double> errors;
    for (size_t draw = 0; draw < passes.size(); ++draw) {
        errors.push_back(error(passes[draw], references[draw]));
    }
    std::sort(errors.begin(), errors.end());
    return errors;
}
template <typename F>
double quartile_error(const std::vector<Pass>& passes, const std::vector<Pass>& references, F&& error) {
    return errors_of(passes, references, error)[kDraws / 4];
}
template <typename F>
double median_error(const std::vector<Pass>& passes, const std::vector<Pass>& references, F&& error) {
    return errors_of(passes, references, error)[kDraws / 2];
}

double logits_error(const Pass& a, const Pass& b) { return l2_error(a.logits, b.logits); }
double loss_error(const Pass& a, const Pass& b) { return relative(a.loss, b.loss); }
double regularizer_error(const Pass& a, const Pass& b) { return relative(a.regularizer, b.regularizer); }

void check_f32(int bits, const std::vector<Pass>& tested, const std::vector<Pass>& exact) {
    const double logits = quartile_error(tested, exact, logits_error);
    const double loss = quartile_error(tested, exact, loss_error);
    CHECK(logits <= 1e-5);  // f32 on the CPU: 8.4e-8
    CHECK(loss <= 1e-5);    // f32 on the CPU: 9.0e-8
    CHECK(quartile_error(tested, exact, regularizer_error) <= 1e-5);
    double largest = 0;
    for (const auto& [name, gradient] : exact[0].gradients) largest = std::max(largest, l2_norm(gradient));
    Worst worst;
    for (size_t i = 0; i < exact[0].gradients.size(); ++i) {
        const std::string& name = exact[0].gradients[i].first;
        INFO("gradient of " << name);
        // the softmax is blind to a bias of k that is not clipped
        const bool blind = l2_norm(exact[0].gradients[i].second) <= 1e-9 * largest;
        const auto error_of = [&](double factor) {
            return quartile_error(tested, exact, [&](const Pass& a, const Pass& b) {
                const std::vector<double> gradient = scaled(a.gradients.at(i).second, factor);
                REQUIRE(gradient.size() == b.gradients[i].second.size());
                return blind ? l2_norm(gradient) / largest : l2_error(gradient, b.gradients[i].second);
            });
        };
        if (blind) {
            CHECK(error_of(1.0) <= 1e-6);
            continue;
        }
        worst.note(error_of(1.0), name);
        CHECK(error_of(1.0) <= 1e-3);  // f32 on the CPU: 5.6e-5 (quant.alpha)
        CHECK_FALSE(error_of(1.01) <= 1e-3);
    }
    WARN("shallow model, f32, " << bits << " bits: quartiles of logits " << logits << ", loss " << loss
                                << ", gradients " << worst.str());
}

}  // namespace

TEST_CASE("gpu models: a shallow quantized model in f32, and every gradient of it", "[gpu]") {
    if (gpu_missing()) return;
    for (const int bits : {2, 3, 4}) {
        INFO(bits << " bits");
        check_f32(bits, passes_of(kGpu, DType::f32, DType::f32, bits),
                  passes_of(Device::cpu, DType::f64, DType::f64, bits));
    }
}

// bf16 moves every value by up to 2^-9, and codes with it. What that may do is measured on the CPU in f64:
// start values moved by 1e-3 to 4e-3 change the logits of 2, 4 and 8 bits by 0.96 to 1.2, 0.47 to 0.65 and
// 0.13 to 0.16 (medians).
TEST_CASE("gpu models: a shallow quantized model in bf16", "[gpu]") {
    if (gpu_missing()) return;
    for (const int bits : {2, 4, 8}) {
        INFO(bits << " bits");
        const std::vector<Pass> gpu = passes_of(kGpu, DType::f32, DType::bf16, bits);
        const std::vector<Pass> cpu = passes_of(Device::cpu, DType::f64, DType::f64, bits);
        double logits = 0, loss = 0;
        for (const double by : {1e-3, 2e-3, 4e-3}) {
            const std::vector<Pass> moved = passes_of(Device::cpu, DType::f64, DType::f64, bits, by);
            logits = std::max(logits, median_error(moved, cpu, logits_error));
            loss = std::max(loss, median_error(moved, cpu, loss_error));
        }
        for (const Pass& pass : gpu) {
            for (const auto& [name, gradient] : pass.gradients) CHECK(all_finite(gradient));
        }
        const double gpu_logits = median_error(gpu, cpu, logits_error);
        const double gpu_loss = median_error(gpu, cpu, loss_error);
        WARN("shallow model, bf16, " << bits << " bits: medians of logits " << gpu_logits << ", loss "
                                     << gpu_loss << "; start values moved " << logits << " and " << loss);
        CHECK(gpu_logits <= 1.5 * logits);
        CHECK(gpu_loss <= 2 * loss);
        if (bits == 8) {
            std::vector<Pass> larger = gpu;
            for (Pass& pass : larger) pass.logits = scaled(pass.logits, 1.3);
            CHECK_FALSE(median_error(larger, cpu, logits_error) <= 1.5 * logits);
        }
        CHECK(median_error(gpu, cpu, regularizer_error) <= 1e-5);  // of weights, which are f32
    }
}
