// Traces of kernel calls, and the products of a training step that they find.
#include "apps/commands/bench_model.h"
#include "engine/trace.h"
#include "tests/catch.h"

using namespace vvtq;
using engine::Device;
using engine::DType;
using engine::KernelCall;
using engine::KernelTrace;
using engine::Tensor;

namespace {

const KernelCall& call_of(const std::vector<KernelCall>& calls, const std::string& kernel) {
    for (const KernelCall& call : calls) {
        if (call.kernel == kernel) return call;
    }
    FAIL("no call of " << kernel);
    return calls.front();
}

}  // namespace

TEST_CASE("a trace counts calls by shape and can repeat them", "[trace]") {
    const Tensor x = Tensor::full({3, 4}, 2.0, DType::f32), w = Tensor::full({5, 4}, 0.5, DType::f32);
    const Tensor y({3, 5}, DType::f32), z({1, 5}, DType::f32);
    std::vector<KernelCall> calls;
    {
        const KernelTrace trace(Device::cpu);
        for (int i = 0; i < 3; ++i) engine::kernels(Device::cpu).linear(x, w, {}, {}, y);
        engine::kernels(Device::cpu).linear(x.slice(0, 1), w, {}, {}, z);
        engine::kernels(Device::cpu).accumulate_add(y, y);
        calls = trace.calls();
    }
    REQUIRE(calls.size() == 3);
    CHECK(calls[0].kernel == "linear");
    CHECK(calls[0].count == 3);
    CHECK(calls[0].nested == 0);
    CHECK(calls[0].bytes == 4.0 * (12 + 20 + 15));
    CHECK(calls[0].flops == Approx(2.0 * 3 * 4 * 5));
    CHECK(calls[1].count == 1);
    CHECK(calls[1].flops == Approx(2.0 * 4 * 5));
    CHECK(calls[2].bytes == 4.0 * 3 * 15);  // its output is read as well
    engine::kernels(Device::cpu).fill(0.0, y);
    CHECK(calls[0].count == 3);  // nothing is noted behind the trace's life
    calls[0].repeat();
    CHECK(y.to_vector() == std::vector<double>(15, 4.0));
}

TEST_CASE("a trace tells calls within other kernels, and products alone", "[trace]") {
    const Tensor z = Tensor::full({2, 6}, 0.3, DType::f32), q = z.like();
    {
        const KernelTrace trace(Device::cpu);
        engine::kernels(Device::cpu).gelu_quantize(z, {}, q);
        CHECK(call_of(trace.calls(), "gelu_quantize").nested == 0);
        CHECK(call_of(trace.calls(), "gelu").nested == 1);
    }
    const KernelTrace trace(Device::cpu, true);
    engine::kernels(Device::cpu).gelu_quantize(z, {}, q);
    CHECK(trace.calls().empty());
    CHECK_THROWS_AS(KernelTrace(Device::cpu), engine::Error);
}

TEST_CASE("the products that a trace finds in a step are those of a DeiT", "[trace]") {
    const auto options = apps::parse_options({"bench", "step", "--model", "deit_tiny_patch16_224", "--depth",
                                              "2", "--batch-size", "1", "--device", "cpu"});
    apps::BenchModel bench(*options);
    bench.load_batch(*options);
    double flops = 0;
    for (const KernelCall& call : bench.calls_of_step(true))
        flops += call.flops * static_cast<double>(call.count);
    const double n = 197, d = 192;
    const double block = 12 * n * d * d + 2 * n * n * d;  // multiplications of a forward pass
    const double patch = 196 * 768 * d, head = d * 1000;
    // attention's backward on a CPU repeats one of its forward products
    const double again = n * n * d;
    CHECK(flops == Approx(2 * (2 * (3 * block + again) + 2 * patch + 3 * head)));
}
