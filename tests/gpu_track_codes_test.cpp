// track_codes and clear_frozen on the GPU: the CPU's bits.
#include <algorithm>
#include <cstring>

#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::CodeMark;
using engine::CodeTrackItem;
using engine::DType;
using engine::Tensor;

namespace {

/// The same weights on both devices.
struct Pair {
    CodeTrackItem gpu, cpu;
};

Tensor unseen(int64_t n) {
    const Tensor marks({n}, DType::u8);
    std::fill_n(marks.data<uint8_t>(), n, static_cast<uint8_t>(CodeMark::unseen));
    return marks;
}

/// `heads`: steps of so many groups; 0: one bit.
Pair pair_of(int64_t n, int heads, int bits, bool freezes, bool aligned) {
    const auto steps = exact_fill(DType::f32, engine::concat("step", n), std::max(heads, 1), 0.05, 0.1);
    const auto item = [&](engine::Device device) {
        const auto place = [&](const Tensor& host) {  // behind one element, where not aligned
            const Tensor whole({n + 1}, host.dtype());
            std::memset(whole.raw(), 0, whole.bytes());
            const int64_t begin = aligned ? 0 : 1;
            on_cpu().copy(host, whole.slice(begin, begin + n));
            return whole.to(device).slice(begin, begin + n);
        };
        const Tensor zero = Tensor::zeros({n}, DType::f32);
        engine::QuantParams params;
        if (heads > 0) {
            const Tensor scale = Tensor::from(steps, {heads}, DType::f32, device);
            params = kernel_params(scale, {}, engine::CodeRange::signed_bits(bits), {}, heads > 1 ? 5 : 1);
        }
        return CodeTrackItem{place(zero),      params,      place(Tensor({n}, DType::u8)),
                             place(unseen(n)), place(zero), freezes ? place(zero) : Tensor()};
    };
    return {item(kGpu), item(engine::Device::cpu)};
}

}  // namespace

TEST_CASE("gpu kernels: track_codes gives the CPU's bits, more weights than a launch takes",
          "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const bool freezes : {false, true}) {
        std::vector<Pair> pairs;
        for (const bool aligned : {true, false}) {
            for (const int bits : {2, 3, 4, 8}) {
                for (const int64_t n : {1, 3, 4, 197, 4096, 4097, 9001}) {
                    pairs.push_back(pair_of(n, 1, bits, freezes, aligned));
                }
                pairs.push_back(pair_of(4500, 3, bits, freezes, aligned));
            }
        }
        if (!freezes) pairs.push_back(pair_of(5000, 0, 1, false, true));
        while (pairs.size() < 300) pairs.push_back(pair_of(7, 1, 2, freezes, true));
        const Tensor host_threshold = freezes ? Tensor::from({0.03}, {1}, DType::f32) : Tensor();
        const Tensor threshold = freezes ? host_threshold.to(kGpu) : Tensor();
        int64_t frozen = 0, up = 0;
        for (int t = 0; t < 24; ++t) {
            INFO("step " << t << ", freezes " << freezes);
            std::vector<CodeTrackItem> gpu, cpu;
            for (size_t k = 0; k < pairs.size(); ++k) {
                const int64_t n = pairs[k].cpu.w.numel();
                const auto w = exact_fill(DType::f32, engine::concat("w", t % 5, "/", k), n, 0.4);
                on_cpu().copy(Tensor::from(w, {n}, DType::f32), pairs[k].cpu.w);
                on_gpu().copy(gpu_vector(w, DType::f32), pairs[k].gpu.w);
                if (t == 20 && pairs[k].cpu.params.defined()) {  // the codes of frozen weights stay
                    on_cpu().scale(pairs[k].cpu.params.scale.clone(), 1.37, pairs[k].cpu.params.scale);
                    on_gpu().copy(pairs[k].cpu.params.scale.to(kGpu), pairs[k].gpu.params.scale);
                }
                gpu.push_back(pairs[k].gpu);
                cpu.push_back(pairs[k].cpu);
            }
            const double found = t == 3 ? 1 : 0;
            on_gpu().track_codes(gpu, 0.01, threshold, gpu_vector({found}, DType::i32));
            on_cpu().track_codes(cpu, 0.01, host_threshold, Tensor::from({found}, {1}, DType::i32));
        }
        for (const Pair& pair : pairs) {
            INFO(pair.cpu.w.numel() << " weights, freezes " << freezes);
            CHECK(pair.gpu.w.to_vector() == pair.cpu.w.to_vector());
            CHECK(pair.gpu.code.to_vector() == pair.cpu.code.to_vector());
            CHECK(pair.gpu.mark.to_vector() == pair.cpu.mark.to_vector());
            CHECK(pair.gpu.frequency.to_vector() == pair.cpu.frequency.to_vector());
            if (freezes) CHECK(pair.gpu.mean.to_vector() == pair.cpu.mean.to_vector());
            for (const double mark : pair.cpu.mark.to_vector()) {
                frozen += mark == static_cast<double>(CodeMark::frozen) ? 1 : 0;
                up += mark == static_cast<double>(CodeMark::up) ? 1 : 0;
            }
            const Tensor gradient = Tensor::full(pair.gpu.w.shape(), 0.5, DType::f32, kGpu);
            const Tensor host = gradient.to(engine::Device::cpu).clone();
            on_gpu().clear_frozen({{gradient, pair.gpu.mark}});
            on_cpu().clear_frozen({{host, pair.cpu.mark}});
            CHECK(gradient.to_vector() == host.to_vector());
        }
        CHECK((frozen > 1000) == freezes);
        CHECK(up > (freezes ? 100 : 1000));  // with freezing, 151: most weights are frozen by then
    }
}
