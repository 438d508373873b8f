#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/step_gemms.h"
#include "apps/training/device_batch.h"
#include "apps/training/interrupt.h"
#include "apps/training/log.h"
#include "apps/training/memory_fit.h"
#include "apps/training/training_step.h"
#include "autograd/ops.h"
#include "engine/device.h"
#include "engine/threads.h"
#include "engine/random.h"
#include "quant/calibrate.h"

namespace vvtq::apps {
namespace {

constexpr int kWarmupSteps = 3;
constexpr double kRegularizerWeight = 0.005;  // in the middle of the schedule's range

/// Random pictures and classes with some probability on the others, as from a label file.
data::Batch synthetic_batch(const nn::ModelConfig& config, int64_t size, uint64_t seed) {
    engine::Random random(seed);
    data::Batch batch;
    batch.size = size;
    batch.image_size = static_cast<int>(config.img_size);
    batch.classes = static_cast<int>(config.num_classes);
    batch.pixels.resize(static_cast<size_t>(size * 3 * config.img_size * config.img_size));
    for (uint8_t& pixel : batch.pixels) pixel = static_cast<uint8_t>(random.bits());
    constexpr float kShare = 0.6f;
    const float rest = (1.0f - kShare) / static_cast<float>(std::max<int64_t>(1, config.num_classes - 1));
    batch.soft.assign(static_cast<size_t>(size * config.num_classes), rest);
    for (int64_t i = 0; i < size; ++i) {
        batch.targets.push_back(static_cast<int>(random.below(static_cast<uint64_t>(config.num_classes))));
        batch.soft[static_cast<size_t>(i * config.num_classes + batch.targets.back())] = kShare;
    }
    return batch;
}

struct Times {
    std::vector<double> step_ms, gemm_ms;  // gemm_ms: of the step's bare products; empty for an evaluation
    double gemm_flops = 0;
    size_t peak = 0;  // bytes of a step, before the bare products take their buffers
};

Times measure(const Options& options, const Compute& compute, nn::Model& model, nn::Adamw& optimizer) {
    engine::Runtime& runtime = engine::runtime(compute.device);
    const nn::ModelConfig& config = model.config();
    const int64_t size = options.data.batch_size;
    DeviceBatch place(compute.device, size, config.img_size, config.num_classes, true);
    place.load(synthetic_batch(config, size, options.run.seed));
    TrainingStep step(model, optimizer, place, {compute.dtype, 0.0, !options.run.no_graph});
    const StepRates rates{1e-5, options.quantizer.reg, kRegularizerWeight, options.run.seed};
    const auto work = [&] {
        if (options.run.evaluate) {
            const autograd::NoGrad off_tape;
            model.forward(place.pictures(compute.dtype));
        } else {
            step.submit(rates);
        }
    };
    const auto settle = [&] {
        while (step.pending() > 0) {
            const StepResult result = step.take();
            if (result.halt != 0) step.explain(rates, result);
        }
    };
    model.train(!options.run.evaluate);
    engine::pool(compute.device).trim();
    engine::pool(compute.device).reset_peak();
    for (int i = 0; i < kWarmupSteps && !interrupted(); ++i) work();
    settle();
    Times times;
    times.peak = engine::pool(compute.device).peak();
    std::optional<StepGemms> gemms;
    if (!options.run.evaluate && config.family == "deit") {
        gemms.emplace(config, size, has_low_bits(options.quantizer), compute.dtype, compute.device);
        times.gemm_flops = gemms->flops();
        gemms->run();
    }
    for (int i = 0; i < options.bench.steps && !interrupted(); ++i) {
        times.step_ms.push_back(timed(runtime, work));
        settle();
        if (gemms) times.gemm_ms.push_back(timed(runtime, [&] { gemms->run(); }));
    }
    return times;
}

/// Starts the steps as a training run does, from a batch of at most 64 pictures.
void calibrate(const Options& options, const Compute& compute, nn::Model& model) {
    const nn::ModelConfig& config = model.config();
    const int64_t size = std::min<int64_t>(options.data.batch_size, 64);
    DeviceBatch place(compute.device, size, config.img_size, config.num_classes, true);
    place.load(synthetic_batch(config, size, options.run.seed));
    quant::calibrate_weights(model);
    quant::calibrate_activations(model, place.pictures(compute.dtype));
}

}  // namespace

int command_bench_step(Options& options) {
    const Compute compute = pick_compute(options.run);
    const nn::ModelConfig config = resolve_config(options, nullptr, 0);
    const auto model = make_model(options, config, nullptr, compute);
    const bool quantized = has_low_bits(options.quantizer);
    if (options.quantizer.reg && !quantized) {
        engine::input_error("--reg: needs quantized weights; set --wbits and --abits");
    }
    if (quantized) {
        attach_quantizers(*model, options.quantizer);
        calibrate(options, compute, *model);
    }
    nn::Adamw optimizer(model->parameters(), {});
    install_interrupt_handler();
    Times times;
    try {
        times = measure(options, compute, *model, optimizer);
    } catch (const engine::OutOfMemory&) {
        refuse_batch(*model, optimizer, compute, options.quantizer.reg, options.data.batch_size);
    }
    if (interrupted()) {
        std::cerr << "vvtq bench step: stopped by " << interrupt_name() << " after " << times.step_ms.size()
                  << " of " << options.bench.steps << " timed steps" << std::endl;
        return 1;
    }
    const double ms = quantile(times.step_ms, 0.5);
    const bool on_gpu = compute.device == engine::Device::cuda;
    nlohmann::ordered_json line = {
        {"bench", "step"},
        {"what", options.run.evaluate ? "eval" : "train"},
        {"model", config.name},
        {"wbits", options.quantizer.wbits},
        {"abits", options.quantizer.abits},
        {"reg", options.quantizer.reg},
        {"batch_size", options.data.batch_size},
        {"device", engine::name_of(compute.device)},
        {"name", engine::runtime(compute.device).description()},
        {"precision", options.run.precision},
        {"graph", on_gpu && !options.run.no_graph && !options.run.evaluate},
        {"threads", engine::threads()},
        {"steps", options.bench.steps},
        {"ms", ms},
        {"spread", (quantile(times.step_ms, 0.9) - quantile(times.step_ms, 0.1)) / ms},
        {"img_s", 1e3 * static_cast<double>(options.data.batch_size) / ms},
    };
    if (!times.gemm_ms.empty()) {
        const double bare = quantile(times.gemm_ms, 0.5);
        line["gemm_ms"] = bare;
        line["gemm_gflops"] = times.gemm_flops / bare * 1e-6;
        line["ratio"] = ms / bare;
    } else if (!options.run.evaluate) {
        line["ratio"] = nullptr;  // the bare products of a step are known for DeiT alone
    }
    if (on_gpu) line["copy_gb_s"] = copy_bandwidth(compute.device) * 1e-9;
    line["peak_mib"] = static_cast<double>(times.peak) / (1 << 20);
    std::cout << line.dump() << std::endl;
    return 0;
}

}  // namespace vvtq::apps
