// Whole training steps of a small model: they learn, and end in the same bits whatever the number of threads.
#include "autograd/ops.h"
#include "engine/random.h"
#include "engine/threads.h"
#include "nn/losses.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "tests/catch.h"

namespace vvtq::nn {

namespace {

using engine::DType;

struct Outcome {
    std::vector<double> losses;
    std::vector<std::vector<double>> parameters;
};

/// Trains a small model for `steps` steps on one batch of random pictures.
Outcome train(int steps, quant::BitWidths bits, int threads, uint64_t seed) {
    const int before = engine::threads();
    engine::set_threads(threads);
    ModelConfig config = model_config("deit_nano_patch4_28");
    config.patch_size = 7;
    config.depth = 2;
    config.drop_path = 0.1;
    const auto model = make_model(config, DType::f32, seed);
    constexpr int64_t kBatch = 13;
    std::vector<double> pixels(static_cast<size_t>(kBatch * 3 * 28 * 28));
    engine::Random random(seed);
    for (double& pixel : pixels) pixel = random.normal();
    const Tensor pictures = Tensor::from(pixels, {kBatch, 3, 28, 28}, DType::f32);
    std::vector<int> classes(kBatch);
    for (int& label : classes) label = static_cast<int>(random.below(10));
    const Tensor labels = label_tensor(classes, 10);

    quant::attach(*model, bits);
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, pictures);
    model->train(true);
    Adamw optimizer(model->parameters(), {});
    Outcome outcome;
    for (int step = 0; step < steps; ++step) {
        optimizer.clear_grad();
        quant::regularize(*model, true);
        const Variable logits = model->forward(pictures, random_key(static_cast<uint64_t>(step)));
        const Variable loss = cross_entropy(logits, labels, 0.1);
        outcome.losses.push_back(loss.value().item());
        autograd::add(loss, autograd::scale(quant::bin_regularizer(*model).total, 0.005)).backward();
        optimizer.step(1e-3);
    }
    for (const NamedParameter& p : model->parameters())
        outcome.parameters.push_back(p.parameter.value().to_vector());
    engine::set_threads(before);
    return outcome;
}

}  // namespace

TEST_CASE("training ends in the same bits with one thread, two, three, and again") {
    const Outcome one = train(3, {4, 4}, 1, 5);
    for (const int threads : {1, 2, 3}) {
        INFO(threads << " threads");
        const Outcome other = train(3, {4, 4}, threads, 5);
        CHECK(one.losses == other.losses);
        CHECK(one.parameters == other.parameters);
    }
    CHECK(one.losses != train(3, {4, 4}, 1, 6).losses);
}

TEST_CASE("a small model learns one batch by heart, in full precision and at 2 bits") {
    for (const quant::BitWidths& bits : {quant::BitWidths{}, quant::BitWidths{2, 2}}) {
        const std::vector<double> losses = train(40, bits, 1, 5).losses;
        INFO(losses.front() << " -> " << losses.back());
        CHECK(losses.front() > 2.0);  // log 10 = 2.30
        CHECK(losses.back() < 1.0);   // label smoothing 0.1 leaves 0.50
    }
}

}  // namespace vvtq::nn
