#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/bench_model.h"
#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "apps/training/interrupt.h"
#include "apps/training/memory_fit.h"
#include "engine/device.h"
#include "engine/threads.h"

namespace vvtq::apps {
namespace {

constexpr int kWarmupSteps = 3;

struct Times {
    std::vector<double> step_ms, gemm_ms;  // gemm_ms: of the step's bare products; empty for an evaluation
    double gemm_flops = 0;
    size_t peak = 0;  // bytes of a step, before the bare products take their buffers
};

Times measure(const Options& options, BenchModel& bench) {
    engine::Runtime& runtime = engine::runtime(bench.compute.device);
    bench.load_batch(options);
    TrainingStep step(*bench.model, *bench.optimizer, *bench.place,
                      {bench.compute.dtype, 0.0, !options.run.no_graph});
    const auto work = [&] {
        if (options.run.evaluate) {
            const autograd::NoGrad off_tape;
            bench.model->forward(bench.place->pictures(bench.compute.dtype));
        } else {
            step.submit(bench.rates);
        }
    };
    const auto settle = [&] {
        while (step.pending() > 0) {
            const StepResult result = step.take();
            if (result.found_inf != 0) step.explain(bench.rates, result);
        }
    };
    bench.model->train(!options.run.evaluate);
    engine::Pool& pool = engine::pool(bench.compute.device);
    pool.trim();
    pool.reset_peak();
    for (int i = 0; i < kWarmupSteps && !interrupted(); ++i) work();
    settle();
    Times times;
    times.peak = pool.peak();
    std::vector<engine::KernelCall> products;
    if (!options.run.evaluate) products = bench.calls_of_step(true);
    for (const engine::KernelCall& call : products) {
        times.gemm_flops += call.flops * static_cast<double>(call.count);
    }
    const auto bare_products = [&] {
        for (const engine::KernelCall& call : products) {
            for (int64_t i = 0; i < call.count; ++i) call.repeat();
        }
    };
    if (!products.empty() && !interrupted()) {
        bare_products();
        work();  // takes memory beside that of the products
        settle();
    }
    for (int i = 0; i < options.bench.steps && !interrupted(); ++i) {
        times.step_ms.push_back(timed(runtime, work));
        settle();
        if (!products.empty()) times.gemm_ms.push_back(timed(runtime, bare_products));
    }
    return times;
}

}  // namespace

int command_bench_step(Options& options) {
    BenchModel bench(options);
    install_interrupt_handler();
    Times times;
    try {
        times = measure(options, bench);
    } catch (const engine::OutOfMemory&) {
        refuse_batch(*bench.model, *bench.optimizer, bench.compute, options.quantizer.reg,
                     options.data.batch_size);
    }
    if (interrupted()) {
        std::cerr << "vvtq bench step: stopped by " << interrupt_name() << " after " << times.step_ms.size()
                  << " of " << options.bench.steps << " timed steps" << std::endl;
        return 1;
    }
    const double ms = quantile(times.step_ms, 0.5);
    const bool on_gpu = bench.compute.device == engine::Device::cuda;
    nlohmann::ordered_json line = {
        {"bench", "step"},
        {"what", options.run.evaluate ? "eval" : "train"},
        {"model", bench.config.name},
        {"wbits", options.quantizer.wbits},
        {"abits", options.quantizer.abits},
        {"reg", options.quantizer.reg},
        {"batch_size", options.data.batch_size},
        {"device", engine::name_of(bench.compute.device)},
        {"name", engine::runtime(bench.compute.device).description()},
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
    }
    if (on_gpu) line["copy_gb_s"] = copy_bandwidth(bench.compute.device) * 1e-9;
    line["peak_mib"] = static_cast<double>(times.peak) / (1 << 20);
    std::cout << line.dump() << std::endl;
    return 0;
}

}  // namespace vvtq::apps
