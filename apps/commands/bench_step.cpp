#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/bench_model.h"
#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "apps/launch/team.h"
#include "apps/training/interrupt.h"
#include "apps/training/memory_fit.h"
#include "engine/device.h"
#include "engine/threads.h"
#include "nn/inference.h"

namespace vvtq::apps {
namespace {

constexpr int kWarmupSteps = 3;

struct Times {
    std::vector<double> step_ms, gemm_ms;  // gemm_ms: of the step's bare products; empty for an evaluation
    double gemm_flops = 0;
    size_t peak = 0;  // bytes of a step, before the bare products take their buffers
    // with several processes
    std::vector<double> alone_ms, reduce_ms;  // the step without communication, the communication alone
    size_t bytes = 0;                         // of gradients that a process sends
};

/// Milliseconds of each of `count` steps that are enqueued one behind the other, two ahead of the one whose
/// result is read, as in training. `take_until(n)` reads results until n are left.
std::vector<double> timed_steps(engine::Runtime& runtime, int count, const std::function<void()>& work,
                                const std::function<void(size_t)>& take_until) {
    constexpr size_t kAhead = 2;
    std::vector<std::unique_ptr<engine::Event>> marks;
    const auto mark = [&] {
        marks.push_back(runtime.make_event());
        marks.back()->record();
    };
    mark();
    for (int i = 0; i < count && !interrupted(); ++i) {
        work();
        mark();
        take_until(kAhead);
    }
    take_until(0);
    std::vector<double> ms;
    for (size_t i = 1; i < marks.size(); ++i) ms.push_back(marks[i]->since(*marks[i - 1]));
    return ms;
}

/// What processes add to a step of one shard: the same step by each process alone, and the sum of as many
/// bytes alone.
void measure_parts(const Options& options, BenchModel& bench, size_t bytes, const Processes& processes,
                   Times& times) {
    engine::Runtime& runtime = engine::runtime(bench.compute.device);
    TrainingStep alone(*bench.model, *bench.optimizer, *bench.place,
                       {bench.compute.dtype, 0.0, !options.run.no_graph, false, {}, bench.oscillation.get()});
    const auto dtype = options.parallel.reduce_precision == "bf16" ? engine::DType::bf16 : engine::DType::f32;
    const nn::Tensor gradients({static_cast<int64_t>(bytes / engine::size_of(dtype))}, dtype,
                               bench.compute.device);
    const auto step = [&] { alone.submit(bench.rates); };
    const auto take_until = [&](size_t left) {
        while (alone.pending() > left) alone.take();
    };
    timed_steps(runtime, kWarmupSteps, step, take_until);
    times.alone_ms = timed_steps(runtime, options.bench.steps, step, take_until);
    const auto reduce = [&] {
        processes.communicator->all_reduce({gradients});
        processes.communicator->wait();
    };
    processes.exchange("");  // all begin together
    timed_steps(runtime, kWarmupSteps, reduce, take_until);
    times.reduce_ms = timed_steps(runtime, options.bench.steps, reduce, take_until);
}

Times measure(const Options& options, BenchModel& bench, const Processes& processes) {
    engine::Runtime& runtime = engine::runtime(bench.compute.device);
    bench.load_batch(options, processes.size, options.parallel.shards);
    TrainingStep step(*bench.model, *bench.optimizer, *bench.place,
                      {bench.compute.dtype,
                       0.0,
                       !options.run.no_graph,
                       false,
                       {processes.communicator, options.parallel.shards,
                        options.parallel.reduce_precision == "bf16", options.parallel.buckets},
                       bench.oscillation.get()});
    const auto work = [&] {
        processes.progress(false);
        if (options.run.evaluate) {
            bench.model->forward(bench.place->pictures(bench.compute.dtype));
        } else {
            step.submit(bench.rates);
        }
    };
    const auto take_until = [&](size_t left) {
        while (step.pending() > left) {
            const StepResult result = step.take();
            if (result.found_inf != 0) step.explain(bench.rates, result);
        }
    };
    const auto settle = [&] { take_until(0); };
    bench.model->train(!options.run.evaluate);
    std::optional<nn::Inference> inference;
    if (options.run.evaluate) {
        inference.emplace(*bench.model, bench.compute.dtype, bench.compute.products());
    }
    engine::Pool& pool = engine::pool(bench.compute.device);
    pool.trim();
    pool.reset_peak();
    for (int i = 0; i < kWarmupSteps && !interrupted(); ++i) work();
    settle();
    Times times;
    times.peak = pool.peak();
    std::vector<engine::KernelCall> products;
    const bool several = processes.communicator != nullptr;
    if (!options.run.evaluate && !several) products = bench.calls_of_step(true);
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
    times.step_ms = timed_steps(runtime, options.bench.steps, work, take_until);
    for (int i = 0; i < options.bench.steps && !interrupted() && !products.empty(); ++i) {
        times.gemm_ms.push_back(timed(runtime, bare_products));
    }
    times.bytes = step.bytes_sent();
    if (several && !options.run.evaluate && options.parallel.shards == 1)
        measure_parts(options, bench, times.bytes, processes, times);
    return times;
}

}  // namespace

int command_bench_step(Options& options, Job* job) {
    if (!options.run.evaluate) refuse_integer(options.run);
    BenchModel bench(options);
    if (options.run.evaluate) settle_integer(options.run, *bench.model, bench.compute);
    const Team team(job, bench.compute.device, options.launch.timeout);
    const Processes& processes = team.processes();
    share_parameters(*bench.model, processes);
    if (job == nullptr) install_interrupt_handler();  // else a signal ends all at once
    Times times;
    try {
        times = measure(options, bench, processes);
    } catch (const engine::OutOfMemory&) {
        refuse_batch(*bench.model, *bench.optimizer, bench.compute, options.quantizer.reg,
                     options.data.batch_size, std::max(processes.size, options.parallel.shards));
    }
    if (interrupted()) {
        std::cerr << "vvtq bench step: stopped by " << interrupt_name() << " after " << times.step_ms.size()
                  << " of " << options.bench.steps << " timed steps" << std::endl;
        return 1;
    }
    if (!processes.first()) return 0;
    const double ms = quantile(times.step_ms, 0.5);
    const bool on_gpu = bench.compute.device == engine::Device::cuda;
    nlohmann::ordered_json line = {
        {"bench", "step"},
        {"what", options.run.evaluate ? "eval" : "train"},
        {"model", bench.config.name},
        {"wbits", options.quantizer.wbits},
        {"abits", options.quantizer.abits},
        {"reg", options.quantizer.reg},
        {"track_osc", options.quantizer.track_oscillation},
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
    if (processes.communicator != nullptr) {
        line["processes"] = processes.size;
        line["shards"] = options.parallel.shards;
        line["backend"] = processes.communicator->description();
    }
    if (!times.alone_ms.empty()) {
        const double alone = quantile(times.alone_ms, 0.5);
        line["ms_alone"] = alone;
        line["exposed_ms"] = ms - alone;
        line["reduce_ms"] = quantile(times.reduce_ms, 0.5);
        line["bytes"] = times.bytes;
    }
    if (on_gpu) line["copy_gb_s"] = copy_bandwidth(bench.compute.device) * 1e-9;
    line["peak_mib"] = static_cast<double>(times.peak) / (1 << 20);
    std::cout << line.dump() << std::endl;
    return 0;
}

}  // namespace vvtq::apps
