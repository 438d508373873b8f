// TrainingStep on the CPU: the step against its parts, its results, and how it halts and explains.
#include "apps/training/training_step.h"

#include <cmath>

#include "apps/commands/model_setup.h"
#include "autograd/ops.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using engine::Device;
using engine::DType;
using nn::Tensor;
using nn::Variable;
using tests::contains;
using tests::message_of;

namespace {

constexpr double kSmoothing = 0.1;

data::Batch pictures_with(bool soft) {
    data::Batch batch;
    batch.size = 4;
    batch.image_size = 8;
    batch.classes = 5;
    batch.targets = {0, 3, 4, 1};
    for (const double u : tests::uniform01("pixels", 4 * 3 * 8 * 8))
        batch.pixels.push_back(static_cast<uint8_t>(256 * u));
    for (const double u : tests::uniform01("soft", soft ? 4 * 5 : 0))
        batch.soft.push_back(static_cast<float>(0.4 * u));
    return batch;
}

/// A small model in f64 with its batch and optimizer.
struct Run {
    apps::DeviceBatch batch{Device::cpu, 4, 8, 5, false};
    std::unique_ptr<nn::Model> model;
    std::unique_ptr<nn::Adamw> optimizer;

    explicit Run(bool soft = false, bool quantized = true) : batch(Device::cpu, 4, 8, 5, soft) {
        nn::ModelConfig config = nn::model_config("deit_nano_patch4_28_quant");
        config.img_size = 8;
        config.embed_dim = 12;
        config.depth = 2;
        config.num_heads = 3;
        config.num_classes = 5;
        config.drop_path = 0.3;
        model = nn::make_model(config, DType::f64, 7);
        batch.load(pictures_with(soft));
        if (quantized) {
            apps::attach_quantizers(*model, {3, 3, false, false});
            quant::calibrate_weights(*model);
            quant::calibrate_activations(*model, batch.pictures(DType::f64));
        }
        optimizer = std::make_unique<nn::Adamw>(model->parameters(), nn::AdamwOptions{});
    }
    apps::TrainingStep steps() { return {*model, *optimizer, batch, {DType::f64, kSmoothing, true}}; }

    std::vector<double> parameters() const {
        std::vector<double> all;
        for (const nn::NamedParameter& p : model->parameters()) {
            for (const double value : p.parameter.value().to_vector()) all.push_back(value);
        }
        return all;
    }
    void spoil(const std::string& name) {
        for (nn::NamedParameter& p : model->parameters()) {
            if (p.name == name) engine::kernels(Device::cpu).fill(std::nan(""), p.parameter.value());
        }
    }
};

apps::StepRates rates_of(int step, bool regularize) {
    return {1e-3 * (step + 1), regularize, regularize ? 0.02 * (step + 1) : 0.0,
            100U + static_cast<uint64_t>(step)};
}

/// The same step from its parts.
apps::StepResult by_hand(Run& run, const apps::StepRates& rates) {
    run.optimizer->clear_grad();
    quant::regularize(*run.model, rates.regularize);
    const Variable logits =
        run.model->forward(run.batch.pictures(DType::f64), nn::random_key(rates.random_key));
    const Tensor soft = run.batch.soft_targets(DType::f64);
    const Variable loss = soft.defined() ? nn::soft_cross_entropy(logits, soft)
                                         : nn::cross_entropy(logits, run.batch.labels(), kSmoothing);
    apps::StepResult result{loss.value().item(), 0.0, 0, 0, false, 0};
    Variable total = loss;
    if (rates.regularize) {
        const Variable term =
            autograd::scale(quant::bin_regularizer(*run.model).total, rates.regularizer_weight);
        result.regularizer = term.value().item();
        total = autograd::add(loss, term);
    }
    total.backward();
    run.optimizer->step(rates.lr);
    const std::vector<double> counts = nn::count_top(logits.value(), run.batch.labels()).to_vector();
    result.top1 = static_cast<int64_t>(counts[0]);
    result.top5 = static_cast<int64_t>(counts[1]);
    return result;
}

}  // namespace

TEST_CASE("a training step is forward, loss, regularizer, backward and update") {
    for (const bool soft : {false, true}) {
        Run stepped(soft), parts(soft);
        apps::TrainingStep steps = stepped.steps();
        const bool regularized[] = {false, true, true, false};
        for (int i = 0; i < 4; ++i) {
            INFO("step " << i << ", soft " << soft);
            const apps::StepRates rates = rates_of(i, regularized[i]);
            steps.submit(rates);
            CHECK(steps.pending() == 1);
            const apps::StepResult result = steps.take();
            const apps::StepResult expected = by_hand(parts, rates);
            CHECK(result.loss == expected.loss);
            CHECK(result.regularizer == Approx(expected.regularizer).epsilon(1e-14));
            CHECK((result.regularizer > 0) == regularized[i]);
            CHECK(result.top1 == expected.top1);
            CHECK(result.top5 == 4);  // of five classes
            CHECK(result.found_inf == 0);
            CHECK(steps.pending() == 0);
            CHECK(tests::relative_error(stepped.parameters(), parts.parameters()) <= 1e-12);
        }
        CHECK(stepped.optimizer->steps_done() == 4);
    }
}

TEST_CASE("steps can be submitted ahead of reading them") {
    Run ahead, one_by_one;
    apps::TrainingStep steps = ahead.steps(), others = one_by_one.steps();
    std::vector<double> expected;
    for (int i = 0; i < 3; ++i) {
        steps.submit(rates_of(i, false));
        others.submit(rates_of(i, false));
        expected.push_back(others.take().loss);
    }
    CHECK(steps.pending() == 3);
    for (const double loss : expected) CHECK(steps.take().loss == loss);
    CHECK_THROWS_AS(steps.take(), engine::Error);
    CHECK(ahead.parameters() == one_by_one.parameters());
}

TEST_CASE("a loss that is not finite halts: parameters stay, and the reason is named") {
    Run run;
    apps::TrainingStep steps = run.steps();
    steps.submit(rates_of(0, false));
    CHECK(steps.take().found_inf == 0);
    run.spoil("blocks.1.attn.proj.bias");
    const std::vector<double> before = run.parameters();
    const auto same = [&] {
        const std::vector<double> now = run.parameters();
        for (size_t i = 0; i < now.size(); ++i) {
            if (now[i] != before[i] && !std::isnan(before[i])) return false;
        }
        return now.size() == before.size();
    };
    const apps::StepRates rates = rates_of(1, false);
    steps.submit(rates);
    steps.submit(rates_of(2, true));  // enqueued before anyone knew
    const apps::StepResult bad = steps.take();
    CHECK(bad.found_inf == 1);
    CHECK(std::isnan(bad.loss));
    CHECK(steps.take().found_inf == 1);
    CHECK(same());
    const std::string message = message_of(engine::Fault::run, [&] { steps.explain(rates, bad); });
    INFO(message);
    CHECK(contains(message, "the loss is not finite"));
    CHECK(contains(message, "blocks.1.attn.proj.bias"));
    CHECK(contains(message, "`lr`"));
    CHECK(same());
}

TEST_CASE("where parameters are finite the op that is not is named") {
    Run run(false, false);
    apps::TrainingStep steps = run.steps();
    for (nn::NamedParameter& p : run.model->parameters()) {  // their products overflow
        if (p.name == "blocks.1.mlp.fc1.bias" || p.name == "blocks.1.mlp.fc2.weight") {
            engine::kernels(Device::cpu).fill(1e200, p.parameter.value());
        }
    }
    const apps::StepRates rates = {.lr = 1e-3, .random_key = 100};
    run.model->train(false);  // no branch is left out
    steps.submit(rates);
    const apps::StepResult bad = steps.take();
    REQUIRE(bad.found_inf == 1);
    const std::string message = message_of(engine::Fault::run, [&] { steps.explain(rates, bad); });
    INFO(message);
    CHECK(contains(message, "mlp in blocks.1.mlp"));
}

TEST_CASE("a regularizer that is not finite halts and is named") {
    Run run;
    apps::TrainingStep steps = run.steps();
    const apps::StepRates rates{.lr = 1e-3, .regularize = true, .regularizer_weight = HUGE_VAL};
    const std::vector<double> before = run.parameters();
    steps.submit(rates);
    const apps::StepResult bad = steps.take();
    CHECK(bad.found_inf == 1);
    CHECK(std::isfinite(bad.loss));
    CHECK(run.parameters() == before);
    CHECK(contains(message_of(engine::Fault::run, [&] { steps.explain(rates, bad); }),
                   "the bin regularizer is not finite"));
}

TEST_CASE("a step that is not finite after an update is named") {
    Run run;
    apps::TrainingStep steps = run.steps();
    const apps::StepRates rates{.lr = HUGE_VAL};
    steps.submit(rates);
    const apps::StepResult bad = steps.take();
    CHECK(bad.found_inf == 2);
    CHECK(std::isfinite(bad.loss));
    const std::string message = message_of(engine::Fault::run, [&] { steps.explain(rates, bad); });
    INFO(message);
    CHECK((contains(message, ".alpha is not finite after the update") ||
           contains(message, ".beta is not finite after the update")));
}
