#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/model_setup.h"
#include "apps/step_gemms.h"
#include "apps/training_step.h"
#include "engine/process.h"
#include "engine/random.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"

namespace vvtq::apps {
namespace {

constexpr int kWarmupSteps = 3;
constexpr double kRegularizerWeight = 0.005;  // in the middle of the schedule's range

double quantile(std::vector<double> values, double q) {
    const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
    return values[at];
}

/// Normal pictures and random classes with some probability on the others, as from a label file.
StepInput synthetic_input(const nn::ModelConfig& config, int64_t batch, engine::DType dtype, uint64_t seed) {
    engine::Random random(seed);
    const engine::Shape pictures({batch, config.in_chans, config.img_size, config.img_size});
    std::vector<double> values(static_cast<size_t>(pictures.numel()));
    for (double& value : values) {
        value = random.normal();
    }
    StepInput input;
    input.pictures = engine::Tensor::from(values, pictures, dtype);
    constexpr double kShare = 0.6;
    const double rest = (1.0 - kShare) / static_cast<double>(std::max<int64_t>(1, config.num_classes - 1));
    std::vector<double> targets(static_cast<size_t>(batch * config.num_classes), rest);
    for (int64_t i = 0; i < batch; ++i) {
        input.labels.push_back(static_cast<int>(random.below(static_cast<uint64_t>(config.num_classes))));
        targets[static_cast<size_t>(i * config.num_classes + input.labels.back())] = kShare;
    }
    input.soft_targets = engine::Tensor::from(targets, {batch, config.num_classes}, dtype);
    return input;
}

}  // namespace

int command_bench_step(const Options& options) {
    const engine::Device device = pick_device(options.run);
    const engine::DType dtype = pick_dtype(options.run);
    const nn::ModelConfig config = resolve_config(options, nullptr, 0);
    const auto model = make_model(options, config, nullptr);
    const bool quantized = has_low_bits(options.quantizer);
    if (options.quantizer.reg && !quantized) {
        engine::input_error("--reg: needs quantized weights; set --wbits and --abits");
    }
    const int64_t batch = options.data.batch_size;
    StepInput input = synthetic_input(config, batch, dtype, options.run.seed);
    if (quantized) {
        attach_quantizers(*model, options.quantizer);
        quant::calibrate_weights(*model);
        quant::calibrate_activations(*model, input.pictures);
    }
    model->train(true);
    nn::Adamw optimizer(model->parameters(), {});
    input.lr = 1e-5;
    input.regularize = options.quantizer.reg;
    input.regularizer_weight = kRegularizerWeight;
    install_interrupt_handler();
    engine::pool(device).reset_peak();
    for (int i = 0; i < kWarmupSteps && !interrupted(); ++i) {
        training_step(*model, optimizer, input);
    }
    const size_t peak = engine::pool(device).peak();  // before the bare products take their buffers
    const StepGemms gemms(config, batch, quantized, dtype, device);
    gemms.run();
    std::vector<double> step_ms, gemm_ms;
    for (int i = 0; i < options.bench.steps && !interrupted(); ++i) {
        Stopwatch watch;
        training_step(*model, optimizer, input);
        step_ms.push_back(1e3 * watch.lap());
        gemms.run();
        gemm_ms.push_back(1e3 * watch.lap());
    }
    if (interrupted()) {
        std::cerr << "vvtq bench step: stopped by " << interrupt_name() << " after " << step_ms.size()
                  << " of " << options.bench.steps << " timed steps" << std::endl;
        return 1;
    }
    const double ms = quantile(step_ms, 0.5);
    const double bare = quantile(gemm_ms, 0.5);
    const nlohmann::ordered_json line = {
        {"bench", "step"},
        {"model", config.name},
        {"wbits", options.quantizer.wbits},
        {"abits", options.quantizer.abits},
        {"reg", options.quantizer.reg},
        {"batch_size", batch},
        {"device", engine::name_of(device)},
        {"precision", options.run.precision},
        {"threads", engine::threads()},
        {"steps", options.bench.steps},
        {"ms", ms},
        {"spread", (quantile(step_ms, 0.9) - quantile(step_ms, 0.1)) / ms},
        {"img_s", 1e3 * static_cast<double>(batch) / ms},
        {"gemm_ms", bare},
        {"gemm_gflops", gemms.flops() / bare * 1e-6},
        {"ratio", ms / bare},
        {"peak_mib", static_cast<double>(peak) / (1 << 20)},
    };
    std::cout << line.dump() << std::endl;
    return 0;
}

}  // namespace vvtq::apps
