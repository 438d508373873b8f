// `vvtq bench op`: the kernels of a training step one by one, as the step itself calls them, beside what the
// device could do.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/bench_model.h"
#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "engine/kernels.h"

namespace vvtq::apps {
namespace {

/// Multiplications and additions a second of one large product.
double product_rate(const Compute& compute) {
    const int64_t n = compute.device == engine::Device::cuda ? 8192 : 1024;
    const engine::Tensor a = noise({n, n}, compute.dtype, compute.device),
                         b = noise({n, n}, compute.dtype, compute.device);
    const engine::Tensor y = a.like();
    std::vector<double> ms;
    for (int i = 0; i < 7; ++i) {
        ms.push_back(timed(engine::runtime(compute.device),
                           [&] { engine::kernels(compute.device).linear(a, b, {}, {}, y); }));
    }
    return 2.0 * std::pow(static_cast<double>(n), 3) / quantile(ms, 0.5) * 1e3;
}

}  // namespace

int command_bench_op(Options& options) {
    constexpr int kWarmups = 3;
    refuse_integer(options.run);
    BenchModel bench(options);
    engine::Runtime& runtime = engine::runtime(bench.compute.device);
    const double bandwidth = copy_bandwidth(bench.compute.device), rate = product_rate(bench.compute);
    std::cout << nlohmann::ordered_json{{"bench", "ceilings"},
                                        {"name", runtime.description()},
                                        {"precision", options.run.precision},
                                        {"copy_gb_s", bandwidth * 1e-9},
                                        {"product_tflop_s", rate * 1e-12}}
                     .dump()
              << std::endl;
    bench.load_batch(options);
    for (const engine::KernelCall& call : bench.calls_of_step(false)) {
        const int64_t count =
            call.count - call.nested;  // a kernel that is built from others is measured as one
        std::vector<double> ms;
        for (int i = 0; i < kWarmups + options.bench.steps && count > 0; ++i) {
            const double one = timed(runtime, call.repeat);
            if (i >= kWarmups) ms.push_back(one);
        }
        if (ms.empty()) continue;
        const double median = quantile(ms, 0.5);
        const double floor = 1e3 * std::max(call.bytes / bandwidth, call.flops / rate);
        std::cout << nlohmann::ordered_json{{"bench", "op"},
                                            {"op", call.kernel},
                                            {"shapes", call.shapes},
                                            {"count", count},
                                            {"ms", median},
                                            {"spread", (quantile(ms, 0.9) - quantile(ms, 0.1)) / median},
                                            {"step_ms", median * static_cast<double>(count)},
                                            {"gb_s", call.bytes / median * 1e-6},
                                            {"tflop_s", call.flops / median * 1e-9},
                                            {"floor_ms", floor},
                                            {"share", floor / median}}
                         .dump()
                  << std::endl;
    }
    return 0;
}

}  // namespace vvtq::apps
