// Kernels of a training step, on the GPU against the CPU: draws, clipping, halting, AdamW.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::AdamwItem;
using engine::DType;
using engine::Tensor;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr engine::AdamwRates kRates{0.9, 0.999, 1e-8, 0.05};

/// Parameters of odd sizes, single ones among them, on the GPU in f32 and on the CPU in f64.
struct Parameters {
    std::vector<AdamwItem> gpu, cpu;

    explicit Parameters(int count) {
        const std::vector<int64_t> sizes = {1, 3, 31, 49, 192, 197, 4096, 4097, 1, 9001};
        for (int k = 0; k < count; ++k) {
            const int64_t n = sizes[static_cast<size_t>(k) % sizes.size()];
            const auto values = exact_fill(DType::f32, engine::concat("p", k), n, 1.0);
            const Tensor zero = Tensor::zeros({n}, DType::f32, kGpu);
            gpu.push_back({gpu_vector(values, DType::f32), zero, zero.clone(), zero.clone(), k % 3 != 0});
            const AdamwItem& item = gpu.back();
            cpu.push_back({as_f64(item.p), as_f64(item.g), as_f64(item.m), as_f64(item.v), item.decay});
        }
    }
    void set_gradients(int step) {
        for (size_t k = 0; k < gpu.size(); ++k) {
            const auto g =
                exact_fill(DType::f32, engine::concat("g", step, "/", k), gpu[k].g.numel(), 0.3, 0.01);
            on_gpu().copy(gpu_vector(g, DType::f32), gpu[k].g);
            on_cpu().copy(as_f64(gpu[k].g), cpu[k].g);
        }
    }
    std::vector<double> values() const {
        std::vector<double> all;
        for (const AdamwItem& item : gpu) {
            for (const Tensor& t : {item.p, item.m, item.v}) {
                const std::vector<double> some = t.to_vector();
                all.insert(all.end(), some.begin(), some.end());
            }
        }
        return all;
    }
};

Tensor schedule_of(int step, double gradient_scale) {
    return Tensor::from({5e-3, 1 - std::pow(0.9, step), 1 - std::pow(0.999, step), gradient_scale}, {4},
                        DType::f64);
}

}  // namespace

TEST_CASE("gpu kernels: adamw, more parameters than a launch takes", "[gpu]") {
    if (gpu_missing()) return;
    Parameters parameters(750);
    const Tensor found_inf = Tensor::from({0}, {1}, DType::i32), gpu_found_inf = found_inf.to(kGpu);
    for (int step = 1; step <= 4; ++step) {
        parameters.set_gradients(step);
        const Tensor schedule = schedule_of(step, step == 2 ? 0.25 : 1.0);
        on_gpu().adamw(parameters.gpu, kRates, schedule.to(kGpu), gpu_found_inf);
        on_cpu().adamw(parameters.cpu, kRates, schedule, found_inf);
    }
    CHECK(gpu_found_inf.item() == 0);
    Worst worst;
    for (size_t k = 0; k < parameters.gpu.size(); ++k) {
        const AdamwItem &gpu = parameters.gpu[k], &cpu = parameters.cpu[k];
        INFO("parameter " << k << " of " << gpu.p.numel());
        const double p = l2_error(gpu.p.to_vector(), cpu.p.to_vector());
        // a sum of four terms of either sign, of about 0.026 together: one of them alone may cancel
        const double m = l2_error(gpu.m.to_vector(), cpu.m.to_vector()) *
                         std::min(1.0, l2_norm(cpu.m.to_vector()) /
                                           (0.02 * std::sqrt(static_cast<double>(gpu.p.numel()))));
        const double v = l2_error(gpu.v.to_vector(), cpu.v.to_vector());
        worst.note(std::max({p, m, v}), engine::concat("parameter ", k));
        CHECK(p <= 1e-5);  // measured on an H200: 2.1e-7
        CHECK(m <= 1e-5);
        CHECK(v <= 1e-5);
    }
    WARN("adamw: " << worst.str());
}

TEST_CASE("gpu kernels: adamw changes nothing behind a halt, and marks a step that is not finite",
          "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    Parameters parameters(20);
    parameters.set_gradients(1);
    const Tensor schedule = schedule_of(1, 1.0).to(kGpu), found_inf = gpu_vector({0}, DType::i32);
    const std::vector<double> before = parameters.values();
    on_gpu().find_not_finite(gpu_vector({1, 2, kNaN, 4}, DType::f32), found_inf);
    CHECK(found_inf.item() == 1);
    on_gpu().adamw(parameters.gpu, kRates, schedule, found_inf);
    CHECK(parameters.values() == before);
    CHECK(found_inf.item() == 1);

    on_gpu().fill(0, found_inf);
    on_gpu().find_not_finite(gpu_vector({1, -2, 0, 1e30}, DType::f32), found_inf);
    CHECK(found_inf.item() == 0);
    on_gpu().fill(kNaN, parameters.gpu[2].g);  // of 31 elements: a loss would have told
    on_gpu().adamw(parameters.gpu, kRates, schedule, found_inf);
    CHECK(found_inf.item() == 0);
    on_gpu().fill(kNaN, parameters.gpu[8].g);  // of one element
    on_gpu().adamw(parameters.gpu, kRates, schedule, found_inf);
    CHECK(found_inf.item() == 2);
}

TEST_CASE("gpu kernels: gradients are clipped to the norm of all", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const double most : {0.5, 1e6}) {
        Parameters parameters(31);
        parameters.set_gradients(1);
        const Tensor schedule = schedule_of(1, 1.0), gpu_schedule = schedule.to(kGpu);
        const Tensor found_inf = Tensor::from({0}, {1}, DType::i32), on_device = found_inf.to(kGpu);
        on_gpu().clip_gradients(parameters.gpu, most, gpu_schedule, on_device);
        on_cpu().clip_gradients(parameters.cpu, most, schedule, found_inf);
        CHECK(largest_difference(gpu_schedule.to_vector(), schedule.to_vector()) <= 1e-9);
        CHECK((gpu_schedule.to_vector()[3] < 1) == (most < 1));
        CHECK(on_device.item() == 0);
        on_gpu().fill(kNaN, parameters.gpu[2].g);
        on_gpu().clip_gradients(parameters.gpu, most, gpu_schedule, on_device);
        CHECK(gpu_schedule.to_vector()[3] == 1);
        CHECK(on_device.item() == 4);
    }
}

TEST_CASE("gpu kernels: stochastic depth draws what the CPU draws", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    const Tensor rates = Tensor::from({0, 0.05, 0.1, 0.5, 0.9}, {5}, DType::f64);
    for (const double key : {0.0, 1.0, -7.0, 123456789012345.0}) {
        for (const int64_t samples : {1, 31, 512}) {
            INFO("key " << key << ", " << samples << " samples");
            std::vector<double> numbers;
            for (int64_t b = 0; b < samples; ++b) numbers.push_back(static_cast<double>(700 - 3 * b));
            const Tensor numbered = Tensor::from(numbers, {samples}, DType::i32);
            const Tensor host_key = Tensor::from({key}, {1}, DType::i64);
            const Tensor keep({5, samples}, DType::f32, kGpu), expected({5, samples}, DType::f32);
            for (const Tensor& places : {Tensor(), numbered}) {
                const Tensor on_device = places.defined() ? places.to(kGpu) : places;
                on_gpu().stochastic_depth(host_key.to(kGpu), rates.to(kGpu), on_device, keep);
                on_cpu().stochastic_depth(host_key, rates, places, expected);
                CHECK(keep.to_vector() == expected.to_vector());
            }
        }
    }
}

TEST_CASE("gpu kernels: steps are raised in place, more than a launch takes", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    std::vector<Tensor> steps, host_steps;
    for (int k = 0; k < 1500; ++k) {
        const Tensor step =
            gpu_vector(exact_fill(DType::f32, engine::concat("steps", k), 1 + k % 3, 3e-4), DType::f32);
        steps.push_back(step);
        host_steps.push_back(step.to(engine::Device::cpu).clone());
    }
    on_gpu().clamp_steps(steps);
    on_cpu().clamp_steps(host_steps);
    for (size_t k = 0; k < steps.size(); ++k) CHECK(steps[k].to_vector() == host_steps[k].to_vector());
}
