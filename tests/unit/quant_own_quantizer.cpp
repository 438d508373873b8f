// A quantizer that only this file knows: registered by one line, attached by name, trained, saved, inspected.
#include <cmath>

#include "apps/training/checkpoint.h"
#include "autograd/ops.h"
#include "nn/losses.h"
#include "nn/optimizer.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/inspect/inspect.h"
#include "quant/registry.h"
#include "tests/catch.h"
#include "tests/unit/data_support.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using engine::Tensor;
using nn::Variable;

namespace {

/// LSQ's codes with a step that is rounded to a power of two; the gradient reaches the step itself.
class PowerOfTwo : public nn::Quantizer {
  public:
    explicit PowerOfTwo(const quant::QuantizerOptions& options)
        : options_(options),
          range_(options.is_signed ? engine::CodeRange::signed_bits(options.bits)
                                   : engine::CodeRange::unsigned_bits(options.bits)),
          step_(add_parameter("step", Tensor::zeros({1}, options.dtype, options.device))) {}

    Variable operator()(const Variable& x) override {
        if (!ready_) calibrate(x.value());
        const Tensor rounded = Tensor::full({1}, power(), options_.dtype, options_.device);
        const Tensor g = Tensor::full({1}, 0.01, options_.dtype, options_.device);
        const Variable straight =
            autograd::record("test.round_step", rounded, {step_},
                             [](const Tensor& dy, autograd::Gradients& dx) { dx.set(0, dy); });
        return autograd::lsq(x, {straight, {}, engine::range_tensor(range_, options_.device), g});
    }
    nn::QuantizerDescription describe() const override {
        return {
            "power of two", options_.bits, range_, ready_ ? std::vector{power()} : std::vector<double>{}, {}};
    }
    bool ready() const override { return ready_; }
    void reset() override { ready_ = false; }
    void calibrate(const Tensor& x) override {
        engine::kernels(options_.device).fill(quant::activation_start(x, options_.bits), step_.value());
        ready_ = true;
    }
    std::vector<std::string> state_names() const override { return {"step"}; }
    void state_loaded() override { ready_ = true; }
    double power() const { return std::exp2(std::round(std::log2(std::max(1e-4, step_.value().item())))); }

  private:
    quant::QuantizerOptions options_;
    engine::CodeRange range_;
    Variable& step_;
    bool ready_ = false;
};

const bool known = quant::register_quantizer(
    {"power of two", [](const quant::QuantizerOptions& o) { return std::make_unique<PowerOfTwo>(o); }});

/// A small model with this file's quantizers, which have no steps yet.
std::unique_ptr<nn::Model> quantized_model() {
    auto model = tests::small_model();
    quant::attach(*model, {.weights = 3,
                           .activations = 3,
                           .weight_quantizer = "power of two",
                           .activation_quantizer = "power of two"});
    return model;
}

/// One step of training; returns the loss before it.
double train_step(nn::Model& model, nn::Adamw& optimizer) {
    const Tensor targets = Tensor::full({2, 5}, 0.2, engine::DType::f64);
    optimizer.clear_grad();
    const Variable loss =
        nn::soft_cross_entropy(model.forward(tests::small_pictures(), nn::random_key(0)), targets);
    loss.backward();
    optimizer.step(1e-3);
    return loss.value().item();
}

}  // namespace

TEST_CASE("a quantizer of a test file is attached by name, trained, saved, and inspected") {
    REQUIRE(known);
    CHECK_THROWS_AS(quant::register_quantizer({"power of two", nullptr}), engine::Error);
    const auto model = quantized_model();
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, tests::small_pictures());
    nn::Adamw optimizer(model->parameters(), {});
    const double first = train_step(*model, optimizer);
    for (int i = 0; i < 2; ++i) train_step(*model, optimizer);

    const tests::Scratch scratch;
    apps::CheckpointInfo info;
    info.command = "train";
    info.model = model->config();
    info.quantized = true;
    info.step = optimizer.steps_done();
    apps::save_checkpoint(scratch / "saved.safetensors", info, *model, optimizer);
    const apps::Checkpoint saved(scratch / "saved.safetensors", "--resume");
    const auto resumed = quantized_model();
    saved.load_parameters(*resumed);
    nn::Adamw resumed_optimizer(resumed->parameters(), {});
    saved.load_optimizer(resumed_optimizer);
    for (int i = 0; i < 2; ++i) {
        const double loss = train_step(*model, optimizer);
        CHECK(loss < first);
        CHECK(train_step(*resumed, resumed_optimizer) == loss);
    }
    const auto parameters = model->parameters(), others = resumed->parameters();
    REQUIRE(parameters.size() == others.size());
    int found = 0;
    const std::set<std::string> names = quant::quantizer_state_names(*model);
    for (size_t i = 0; i < parameters.size(); ++i) {
        INFO(parameters[i].name);
        CHECK(parameters[i].parameter.value().to_vector() == others[i].parameter.value().to_vector());
        if (!parameters[i].name.ends_with(".step")) continue;
        CHECK(names.count(parameters[i].name) == 1);
        ++found;
    }
    CHECK(found > 20);
    for (const auto& [path, slot] : quant::slots(*resumed)) {
        INFO(path);
        REQUIRE(slot->get() != nullptr);
        if (slot->values() != nn::Values::weight) continue;
        const nn::QuantizerDescription description = slot->get()->describe();
        CHECK(description.kind == "power of two");
        CHECK(std::log2(description.scale[0]) == std::round(std::log2(description.scale[0])));
        const quant::Inspection seen = quant::inspect(*slot->get(), slot->weight().value());
        CHECK(static_cast<int64_t>(seen.codes.size()) == slot->weight().value().numel());
        CHECK(seen.signal_to_noise_db > 0);
    }
}
