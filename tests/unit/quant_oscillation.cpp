// quant/oscillation: how weights lie in their bins by hand, and a model's weights followed and frozen through
// training steps.
#include "quant/oscillation.h"

#include <cmath>

#include "apps/training/training_step.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using engine::CodeMark;
using engine::Device;
using engine::DType;
using engine::kernels;
using nn::Tensor;
using tests::contains;
using tests::message_of;
using tests::relative_error;

namespace {

/// A quantized model in f64 whose steps are taken on one batch.
struct Run {
    std::unique_ptr<nn::Model> model = tests::small_model();
    apps::DeviceBatch batch{Device::cpu, 4, 8, 5, false};
    std::unique_ptr<nn::Adamw> optimizer;

    explicit Run(quant::BitWidths bits = {3, 3}, nn::AdamwOptions options = {}) {
        data::Batch pictures;
        pictures.size = 4;
        pictures.image_size = 8;
        pictures.classes = 5;
        pictures.targets = {0, 3, 4, 1};
        for (const double u : tests::uniform01("pixels", 4 * 3 * 8 * 8))
            pictures.pixels.push_back(static_cast<uint8_t>(256 * u));
        batch.load(pictures);
        quant::attach(*model, bits);
        quant::calibrate_weights(*model);
        quant::calibrate_activations(*model, batch.pictures(DType::f64));
        optimizer = std::make_unique<nn::Adamw>(model->parameters(), options);
    }
    apps::TrainingStep steps(quant::OscillationTracker* tracker) {
        apps::StepOptions options{DType::f64, 0.1, true};
        options.oscillation = tracker;
        return {*model, *optimizer, batch, options};
    }
    std::vector<double> parameters() const {
        std::vector<double> all;
        for (const nn::NamedParameter& p : model->parameters()) {
            for (const double value : p.parameter.value().to_vector()) all.push_back(value);
        }
        return all;
    }
    nn::QuantizerSlot& slot(const std::string& wanted) const {
        for (const auto& [path, found] : quant::slots(*model)) {
            if (path == wanted) return *found;
        }
        FAIL(wanted);
        throw std::logic_error(wanted);
    }
    /// The codes of a weight, one way or the other of the kernels that quantize.
    std::vector<double> codes(const std::string& path) const {
        const nn::QuantizerSlot& weight = slot(path);
        const Tensor& w = weight.weight().value();
        const Tensor q(w.shape(), DType::i32);
        kernels(Device::cpu)
            .lsq_codes(w, dynamic_cast<const quant::Lsq&>(*weight.get()).values_for(w.shape()), q);
        return q.to_vector();
    }
};

constexpr const char* kLayer = "blocks.0.mlp.fc1";

apps::StepRates rates_of(int step, double threshold = 0) {
    apps::StepRates rates{5e-3, false, 0, 100U + static_cast<uint64_t>(step)};
    rates.freeze_threshold = threshold;
    return rates;
}

Tensor state_of(const quant::OscillationTracker& tracker, const std::string& name) {
    for (const auto& [own, tensor] : tracker.state()) {
        if (own == name) return tensor;
    }
    return {};
}

}  // namespace

TEST_CASE("weight_bins: occupancy and variance within bins by hand") {
    const nn::Variable w(Tensor::from({-0.9, -0.35, -0.1, 0.2, 0.45, 0.9, 1.1, 0}, {2, 4}, DType::f64), true);
    nn::QuantizerSlot slot(w, nn::Bits::configured);
    auto lsq =
        std::make_unique<quant::Lsq>(quant::QuantizerOptions{.bits = 2, .weight = true, .dtype = DType::f64});
    quant::Lsq& quantizer = *lsq;
    slot.fill(std::move(lsq));
    CHECK(quant::weight_bins(slot).occupancy.empty());
    quantizer.set_step(0.5);
    // v = -1.8 -0.7 -0.2 0.4 0.9 1.8 2.2 0; codes -2 -1 0 0 1 1 1 0
    quant::WeightBins bins = quant::weight_bins(slot);
    CHECK(bins.steps == std::vector<double>{0.5});
    CHECK(bins.occupancy == std::vector<double>{0.125, 0.125, 0.375, 0.375});
    const auto spread = [](std::vector<double> v) {
        double mean = 0, sum = 0;
        for (const double x : v) mean += x / static_cast<double>(v.size());
        for (const double x : v) sum += (x - mean) * (x - mean);
        return sum;
    };
    const double expected = (spread({-0.2, 0.4, 0}) + spread({0.9, 1.8, 2.2})) / 8;
    CHECK(std::abs(expected - 0.134166667) < 1e-8);
    CHECK(relative_error({bins.variance}, {expected}) <= 1e-12);

    nn::QuantizerSlot signs(w, nn::Bits::configured);
    signs.fill(quant::quantizer_kind("binary").make({.bits = 1, .weight = true, .dtype = DType::f64}));
    bins = quant::weight_bins(signs);
    CHECK(bins.occupancy == std::vector<double>{0.375, 0.125, 0.5});
    CHECK(relative_error({bins.variance}, {(spread({-0.9, -0.35, -0.1}) + spread({0.2, 0.45, 0.9, 1.1})) / 8 /
                                           0.25}) <= 1e-12);
}

TEST_CASE("freeze_threshold falls along half a cosine") {
    CHECK(quant::freeze_threshold(0.04, 0.04, 3, 10) == 0.04);
    CHECK(quant::freeze_threshold(0.05, 0.01, 0, 10) == 0.05);
    CHECK(std::abs(quant::freeze_threshold(0.05, 0.01, 5, 10) - 0.03) <= 1e-15);
    CHECK(std::abs(quant::freeze_threshold(0.05, 0.01, 10, 10) - 0.01) <= 1e-15);
}

TEST_CASE("tracking follows the codes of every weight and changes nothing") {
    for (const quant::BitWidths& bits :
         {quant::BitWidths{3, 3}, quant::BitWidths{1, 3},
          quant::BitWidths{.weights = 3, .activations = 3, .head_wise = true}}) {
        INFO("bits " << bits.weights << ", by head " << bits.head_wise);
        Run plain(bits), tracked(bits);
        quant::OscillationTracker tracker(*tracked.model, false);
        apps::TrainingStep plain_steps = plain.steps(nullptr), steps = tracked.steps(&tracker);
        const bool lsq = bits.weights > 1;
        std::vector<double> codes = lsq ? tracked.codes(kLayer) : std::vector<double>(), latest(576, 0.0),
                            f(576, 0.0);
        for (int t = 0; t < 12; ++t) {
            plain_steps.submit(rates_of(t));
            steps.submit(rates_of(t));
            CHECK(plain_steps.take().loss == steps.take().loss);
            if (!lsq) continue;
            const std::vector<double> now = tracked.codes(kLayer);
            for (size_t i = 0; i < now.size(); ++i) {
                const double d = (now[i] > codes[i]) - (now[i] < codes[i]);
                f[i] = 0.99 * f[i] + 0.01 * (d != 0 && d == -latest[i]);
                if (d != 0) latest[i] = d;
            }
            codes = now;
        }
        CHECK(plain.parameters() == tracked.parameters());
        const auto layers = tracker.layers();
        CHECK(layers.size() == 14);  // the first and the last layer, six in each block
        const quant::Oscillation total = tracker.total(layers);
        CHECK(total.share > 0);
        CHECK(total.frozen == 0);
        double weighted = 0, count = 0;
        for (const auto& [path, layer] : layers) {
            const auto numel = static_cast<double>(tracked.slot(path).weight().shape().numel());
            weighted += layer.mean * numel;
            count += numel;
        }
        CHECK(relative_error({total.mean}, {weighted / count}) <= 1e-12);
        if (!lsq) continue;
        REQUIRE(state_of(tracker, std::string(kLayer) + ".weight.osc_frequency").numel() == 576);
        CHECK(relative_error(state_of(tracker, std::string(kLayer) + ".weight.osc_frequency").to_vector(),
                             f) <= 1e-5);
        const auto found = std::find_if(layers.begin(), layers.end(),
                                        [](const auto& layer) { return layer.first == kLayer; });
        const auto oscillating = std::count_if(f.begin(), f.end(), [](double x) { return x > 0.005; });
        CHECK(oscillating > 0);
        CHECK(found->second.share == static_cast<double>(oscillating) / 576);
    }
}

TEST_CASE("frozen weights keep their codes while steps, other weights and weight decay go on") {
    for (const bool head_wise : {false, true}) {
        INFO("by head " << head_wise);
        nn::AdamwOptions options;
        options.weight_decay = 0.5;
        options.clip_grad = 0.3;
        Run run({.weights = 3, .activations = 3, .head_wise = head_wise}, options);
        quant::OscillationTracker tracker(*run.model, true);
        apps::TrainingStep steps = run.steps(&tracker);
        const std::string layer = "blocks.1.attn.proj_q";
        const Tensor mark = state_of(tracker, layer + ".weight.osc_mark"),
                     code = state_of(tracker, layer + ".weight.osc_code");
        constexpr size_t kFrozen = 7;
        std::vector<double> first;
        double step = 0;
        for (int t = 0; t < 25; ++t) {
            if (t == 5) {  // by hand: the first seven weights
                for (size_t i = 0; i < kFrozen; ++i)
                    mark.data<uint8_t>()[i] = static_cast<uint8_t>(CodeMark::frozen);
                first = code.to_vector();
                step = run.slot(layer).get()->describe().scale[0];
            }
            steps.submit(rates_of(t, 1.0));
            CHECK(steps.take().found_inf == 0);
            CHECK(run.codes(layer).size() == 144);
            if (t < 5) continue;
            const std::vector<double> now = run.codes(layer),
                                      w = run.slot(layer).weight().value().to_vector();
            const double a = run.slot(layer).get()->describe().scale[0];
            for (size_t i = 0; i < kFrozen; ++i) {
                CHECK(now[i] == first[i] - 4);
                CHECK(std::abs(w[i] - a * now[i]) <= 1e-12);
            }
        }
        CHECK(std::abs(run.slot(layer).get()->describe().scale[0] - step) > 1e-4);  // it went on learning
        const std::vector<double> now = run.codes(layer);
        int changed = 0;
        for (size_t i = kFrozen; i < now.size(); ++i) changed += now[i] != first[i] - 4 ? 1 : 0;
        CHECK(changed > 0);
        const auto layers = tracker.layers();
        for (const auto& [path, found] : layers) CHECK(found.frozen == (path == layer ? 7.0 / 144 : 0.0));
        // frozen weights have no gradient that the others are clipped with
        for (const nn::NamedParameter& p : run.model->parameters()) {
            if (p.name != layer + ".weight") continue;
            const std::vector<double> gradient = p.parameter.grad().to_vector();
            CHECK(std::all_of(gradient.begin(), gradient.begin() + kFrozen, [](double g) { return g == 0; }));
            CHECK(gradient[kFrozen] != 0);
        }
    }
}

TEST_CASE("weights freeze by themselves above the threshold, and a lower one freezes more") {
    std::vector<double> frozen;
    for (const double threshold : {0.9, 0.06, 0.03}) {
        Run run;
        quant::OscillationTracker tracker(*run.model, true);
        apps::TrainingStep steps = run.steps(&tracker);
        for (int t = 0; t < 60; ++t) {
            steps.submit(rates_of(t, threshold));
            steps.take();
        }
        const auto layers = tracker.layers();
        frozen.push_back(tracker.total(layers).frozen);
        for (const auto& [name, tensor] : tracker.state()) {
            if (!name.ends_with(".osc_frequency")) continue;
            const std::string weight = name.substr(0, name.rfind('.'));
            const auto marks = state_of(tracker, weight + ".osc_mark").to_vector(), f = tensor.to_vector();
            for (size_t i = 0; i < f.size(); ++i) CHECK((marks[i] == 3 || f[i] <= threshold));
        }
    }
    CHECK(frozen[0] == 0);
    CHECK(frozen[1] > 0);
    CHECK(frozen[2] > frozen[1]);
}

TEST_CASE("a file's state of oscillation that cannot be is refused by name") {
    Run run;
    quant::OscillationTracker tracker(*run.model, true);
    CHECK_NOTHROW(tracker.state_loaded());
    const std::string name = "blocks.0.attn.proj_q.weight";
    const auto refused = [&](const char* what, const auto& spoil) {
        const Tensor tensor = state_of(tracker, name + what), before = tensor.clone();
        spoil(tensor);
        const std::string message = message_of(engine::Fault::input, [&] { tracker.state_loaded(); });
        kernels(Device::cpu).copy(before, tensor);
        return contains(message, name + what);
    };
    CHECK(refused(".osc_code", [](const Tensor& t) { t.data<uint8_t>()[3] = 8; }));
    CHECK(refused(".osc_mark", [](const Tensor& t) { t.data<uint8_t>()[3] = 5; }));
    CHECK(refused(".osc_frequency", [](const Tensor& t) { t.data<float>()[3] = 1.5f; }));
    CHECK(refused(".osc_frequency", [](const Tensor& t) { t.data<float>()[3] = std::nanf(""); }));
    CHECK(refused(".osc_mean", [](const Tensor& t) { t.data<float>()[3] = -4.5f; }));
}
