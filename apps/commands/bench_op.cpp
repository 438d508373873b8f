// `vvtq bench op`: the kernels of a DeiT's training step one by one, at its shapes, beside what the device
// could do.
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/training/interrupt.h"
#include "engine/kernels.h"

namespace vvtq::apps {
namespace {

using engine::DType;
using engine::LsqStep;
using engine::Tensor;

/// One kernel at one shape.
struct Op {
    std::string name;
    double count;         // times a step
    double bytes, flops;  // of one: bytes that must move, multiplications and additions of products
    std::function<void()> run;
};

/// The kernels of a step with their operands.
class StepOps {
  public:
    StepOps(const nn::ModelConfig& config, int64_t batch, const QuantizerFlags& bits, const Compute& compute)
        : kernel_(engine::kernels(compute.device)), device_(compute.device), dtype_(compute.dtype) {
        if (config.family != "deit") {
            engine::input_error("bench op: --model ", config.name,
                                ": operands are known for DeiT alone; `bench step` measures every model");
        }
        const int64_t side = config.img_size / config.patch_size;
        const int64_t tokens = side * side + 1, width = config.embed_dim, rows = batch * tokens;
        const auto hidden = static_cast<int64_t>(static_cast<double>(width) * config.mlp_ratio);
        const auto depth = static_cast<double>(config.depth);
        add_products("qkv", depth, rows, width, 3 * width);
        add_products("proj", depth, rows, width, width);
        add_products("fc1", depth, rows, width, hidden);
        add_products("fc2", depth, rows, hidden, width);
        add_norm(depth, rows, width, batch, bits.abits);
        add_gelu(depth, rows, hidden, bits.abits);
        add_attention(depth, batch, tokens, config.num_heads, width, bits.abits);
        const Tensor dy = values({rows, width});
        const Tensor dbias({width}, master(), device_);
        add("bias gradient", 2 * depth, size(dy), 0, [=, this] { kernel_.sum_rows(dy, dbias); });
        if (low(bits.wbits)) add_weights(depth, width, hidden, bits.wbits);
        add_optimizer(depth, width, hidden);
    }
    const std::vector<Op>& ops() const { return ops_; }

  private:
    static bool low(int width) { return width != -1 && width != 32; }
    DType master() const { return engine::master_of(dtype_); }
    Tensor values(const engine::Shape& shape) const { return noise(shape, dtype_, device_, 1.0); }
    static double size(const Tensor& t) { return static_cast<double>(t.bytes()); }
    void add(const std::string& name, double count, double bytes, double flops, std::function<void()> run) {
        ops_.push_back({name, count, bytes, flops, std::move(run)});
    }
    LsqStep step(int width, bool is_signed) const {
        if (!low(width)) return {};
        const auto range =
            is_signed ? engine::CodeRange::signed_bits(width) : engine::CodeRange::unsigned_bits(width);
        const auto one = [&](double v) { return Tensor::full({1}, v, master(), device_); };
        return {one(3.0 / range.high), {}, range, one(1e-3)};
    }

    void add_products(const std::string& name, double depth, int64_t rows, int64_t inputs, int64_t outputs) {
        const Tensor x = values({rows, inputs}), w = values({outputs, inputs}), y = values({rows, outputs});
        const Tensor dx = x.like(), dw({outputs, inputs}, master(), device_);
        const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
        const double bytes = size(x) + size(y) + size(w);
        add(name + " forward", depth, bytes, flops, [=, this] { kernel_.linear(x, w, {}, {}, y); });
        add(name + " input gradient", depth, bytes, flops,
            [=, this] { kernel_.linear_backward_input(y, w, {}, dx); });
        add(name + " weight gradient", depth, bytes, flops,
            [=, this] { kernel_.linear_backward_weight(y, x, {}, dw); });
    }

    void add_norm(double depth, int64_t rows, int64_t width, int64_t batch, int bits) {
        const Tensor x = values({rows, width}), f = values({rows, width}), y = x.like(), q = x.like(),
                     df = x.like();
        const Tensor mean({rows}, master(), device_), rstd = mean.like();
        const Tensor gamma = Tensor::full({width}, 1.0, master(), device_),
                     beta = Tensor::zeros({width}, master(), device_);
        const Tensor keep = Tensor::full({batch}, 1.1, master(), device_);
        const Tensor dgamma = gamma.like(), dbeta = gamma.like(), dalpha({1}, master(), device_);
        const LsqStep lsq = step(bits, true);
        add("residual + norm + quantize", 2 * depth, 4 * size(x), 0,
            [=, this] { kernel_.residual_norm(x, f, keep, gamma, beta, 1e-6, lsq, y, q, mean, rstd); });
        add("norm + quantize again", 2 * depth, 2 * size(x), 0,
            [=, this] { kernel_.residual_norm(x, {}, {}, gamma, beta, 1e-6, lsq, {}, q, mean, rstd); });
        add("residual + norm + quantize, backward", 2 * depth, 5 * size(x), 0, [=, this] {
            kernel_.residual_norm_backward(f, x, y, keep, gamma, beta, mean, rstd, lsq, q, df, dgamma, dbeta,
                                           lsq.defined() ? dalpha : Tensor());
        });
    }

    void add_gelu(double depth, int64_t rows, int64_t hidden, int bits) {
        const Tensor z = values({rows, hidden}), q = z.like(), dq = values({rows, hidden}), dz = z.like();
        LsqStep lsq = step(bits, false);
        if (lsq.defined()) lsq.beta = Tensor::full({1}, -0.17, master(), device_);
        const Tensor dalpha({1}, master(), device_), dbeta = dalpha.like(),
                                                     dbias({hidden}, master(), device_);
        add("GELU + quantize", depth, 2 * size(z), 0, [=, this] { kernel_.gelu_quantize(z, lsq, q); });
        add("GELU + quantize, backward", depth, 4 * size(z), 0, [=, this] {
            const bool on = lsq.defined();
            kernel_.gelu_quantize_backward(dq, z, lsq, dz, q, on ? dalpha : Tensor(), on ? dbeta : Tensor(),
                                           dbias);
        });
    }

    void add_attention(double depth, int64_t batch, int64_t tokens, int64_t heads, int64_t width, int bits) {
        const Tensor z = values({batch, tokens, 3 * width}), o({batch, tokens, width}, dtype_, device_),
                     codes = o.like();
        const Tensor lse({batch, heads, tokens}, master(), device_), dy = values({batch, tokens, width});
        const Tensor dz = z.like(), dbias({3 * width}, master(), device_), dalphas({5}, master(), device_);
        engine::AttentionSteps steps{};
        steps.q = steps.k = steps.v = steps.output = step(bits, true);
        steps.probability = step(bits, false);
        if (low(bits)) steps.probability.alpha = Tensor::full({1}, 1.5e-3, master(), device_);
        steps.heads = heads;
        steps.scale = std::sqrt(static_cast<double>(heads) / static_cast<double>(width));
        const double products = 4.0 * static_cast<double>(batch * tokens * tokens * width);
        const Tensor out = steps.output.defined() ? codes : Tensor();
        add("attention", depth, size(z) + 2 * size(o), products,
            [=, this] { kernel_.attention(z, steps, o, out, lse); });
        add("attention, backward", depth, 2 * size(z) + 2 * size(o), 2.5 * products,
            [=, this] { kernel_.attention_backward(dy, z, steps, o, lse, dz, dbias, dalphas, {}); });
        if (!low(bits)) return;
        add("attention's output codes again", depth, 2 * size(o), 0,
            [=, this] { kernel_.lsq_codes(o, steps.output.alpha, {}, steps.output.range, codes); });
    }

    std::vector<Tensor> weights(double depth, int64_t width, int64_t hidden) const {
        std::vector<Tensor> all;
        for (int i = 0; i < static_cast<int>(depth); ++i) {
            for (int projection = 0; projection < 4; ++projection)
                all.push_back(noise({width, width}, master(), device_));
            all.push_back(noise({hidden, width}, master(), device_));
            all.push_back(noise({width, hidden}, master(), device_));
        }
        return all;
    }

    void add_weights(double depth, int64_t width, int64_t hidden, int bits) {
        std::vector<engine::WeightItem> items;
        std::vector<engine::WeightGradientItem> gradients;
        double bytes = 0;
        for (const Tensor& w : weights(depth, width, hidden)) {
            const LsqStep lsq = step(bits, true);
            items.push_back({w, Tensor::full({1}, 0.01, master(), device_), lsq.range,
                             Tensor(w.shape(), dtype_, device_), lsq.g, Tensor({1}, master(), device_),
                             Tensor({lsq.range.count(), 3}, DType::f64, device_)});
            gradients.push_back({w, items.back().alpha, lsq.range, lsq.g, items.back().stats,
                                 noise(w.shape(), master(), device_), false, w.like(),
                                 Tensor({1}, master(), device_)});
            bytes += size(w);
        }
        const Tensor dreg = Tensor::full({1}, 5e-3, master(), device_);
        add("all weights + regularizer", 1, 1.5 * bytes, 0, [=, this] { kernel_.quantize_weights(items); });
        add("all weights + regularizer, backward", 1, 3 * bytes, 0,
            [=, this] { kernel_.quantize_weights_backward(gradients, dreg); });
    }

    void add_optimizer(double depth, int64_t width, int64_t hidden) {
        std::vector<engine::AdamwItem> items;
        double bytes = 0;
        for (const Tensor& w : weights(depth, width, hidden)) {
            items.push_back({w, noise(w.shape(), master(), device_),
                             Tensor::zeros(w.shape(), master(), device_),
                             Tensor::zeros(w.shape(), master(), device_), true});
            bytes += size(w);
        }
        const Tensor schedule = Tensor::from({1e-5, 0.1, 0.001, 1}, {4}, DType::f64, device_);
        const Tensor halt = Tensor::from({0}, {1}, DType::i32, device_);
        add("AdamW", 1, 7 * bytes, 0, [=, this] {
            kernel_.adamw(items, {0.9, 0.999, 1e-8, 1e-4}, schedule, halt);
        });
    }

    const engine::Kernels& kernel_;
    engine::Device device_;
    DType dtype_;
    std::vector<Op> ops_;
};

/// Multiplications and additions a second of one large product.
double product_rate(const Compute& compute) {
    const int64_t n = compute.device == engine::Device::cuda ? 8192 : 1024;
    const Tensor a = noise({n, n}, compute.dtype, compute.device),
                 b = noise({n, n}, compute.dtype, compute.device);
    const Tensor y = a.like();
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
    const Compute compute = pick_compute(options.run);
    const nn::ModelConfig config = resolve_config(options, nullptr, 0);
    install_interrupt_handler();
    const double bandwidth = copy_bandwidth(compute.device), rate = product_rate(compute);
    std::cout << nlohmann::ordered_json{{"bench", "ceilings"},
                                        {"name", engine::runtime(compute.device).description()},
                                        {"precision", options.run.precision},
                                        {"copy_gb_s", bandwidth * 1e-9},
                                        {"product_tflop_s", rate * 1e-12}}
                     .dump()
              << std::endl;
    const StepOps step(config, options.data.batch_size, options.quantizer, compute);
    for (const Op& op : step.ops()) {
        std::vector<double> ms;
        for (int i = 0; i < kWarmups + options.bench.steps && !interrupted(); ++i) {
            const double one = timed(engine::runtime(compute.device), op.run);
            if (i >= kWarmups) ms.push_back(one);
        }
        if (interrupted()) {
            std::cerr << "vvtq bench op: stopped by " << interrupt_name() << std::endl;
            return 1;
        }
        const double median = quantile(ms, 0.5);
        const double floor = 1e3 * std::max(op.bytes / bandwidth, op.flops / rate);
        std::cout << nlohmann::ordered_json{{"bench", "op"},
                                            {"op", op.name},
                                            {"count", op.count},
                                            {"ms", median},
                                            {"spread", (quantile(ms, 0.9) - quantile(ms, 0.1)) / median},
                                            {"step_ms", median * op.count},
                                            {"gb_s", op.bytes / median * 1e-6},
                                            {"tflop_s", op.flops / median * 1e-9},
                                            {"floor_ms", floor},
                                            {"share", floor / median}}
                         .dump()
                  << std::endl;
    }
    return 0;
}

}  // namespace vvtq::apps
