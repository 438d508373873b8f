// WeightPass: all weights of a model at once, for the time of one forward pass.
#include "quant/weight_pass.h"

#include "autograd/ops.h"
#include "nn/layers.h"
#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;
using nn::Variable;
using tests::contains;
using tests::filled;
using tests::message_of;
using tests::relative_error;
using tests::small_model;
using tests::small_pictures;

Lsq& lsq_at(nn::Module& model, std::string_view path) {
    for (const auto& [name, slot] : slots(model)) {
        if (name == path) return dynamic_cast<Lsq&>(*slot->get());
    }
    FAIL("no slot " << path);
    throw engine::Error(engine::Fault::internal, std::string(path));
}

nn::QuantizerSlot& slot_at(nn::Module& model, std::string_view path) {
    for (const auto& [name, slot] : slots(model)) {
        if (name == path) return *slot;
    }
    FAIL("no slot " << path);
    throw engine::Error(engine::Fault::internal, std::string(path));
}

std::unique_ptr<nn::Model> calibrated_model(const BitWidths& bits) {
    auto model = small_model();
    for (nn::NamedParameter& p : model->parameters()) {  // products of codes that are exactly 0 are ties
        if (p.name.ends_with(".bias")) p.parameter.set_value(filled(p.name, p.parameter.shape(), 0.1));
    }
    attach(*model, bits);
    calibrate_weights(*model);
    calibrate_activations(*model, small_pictures());
    return model;
}

/// Logits, and the gradients of all parameters by name.
struct Outcome {
    std::vector<double> logits;
    std::map<std::string, std::vector<double>> gradients;
};
Outcome outcome_of(nn::Model& model) {
    for (nn::NamedParameter& p : model.parameters()) p.parameter.clear_grad();
    const Variable logits = model.forward(small_pictures(), nn::random_key(0));
    logits.backward(filled("upstream", logits.shape(), 1.0));
    Outcome outcome{logits.value().to_vector(), {}};
    for (const nn::NamedParameter& p : model.parameters()) {
        const Tensor& g = p.parameter.grad();
        outcome.gradients[p.name] = g.defined() ? g.to_vector() : std::vector<double>{};
    }
    return outcome;
}

/// Counts and hands on.
class Counting : public nn::WeightPass {
  public:
    explicit Counting(std::vector<std::string>& calls) : calls_(calls) {}
    void prepare(DType dtype, bool) override {
        calls_.push_back(std::string("prepare ") + engine::name_of(dtype));
    }
    void release() override { calls_.push_back("release"); }
    std::vector<Variable> collected() const override { return {}; }
    void backward(const Variable&) override {}

  private:
    std::vector<std::string>& calls_;
};

}  // namespace

TEST_CASE("a model with its weights quantized in one pass computes what one by one gives") {
    for (const BitWidths& bits : {BitWidths{4, 4}, BitWidths{3, -1}, BitWidths{-1, 4}, BitWidths{1, 2}}) {
        INFO(bits.weights << " and " << bits.activations << " bits");
        const auto model = calibrated_model(bits);
        REQUIRE(model->weight_pass() != nullptr);
        const Outcome at_once = outcome_of(*model);
        model->set_weight_pass(nullptr);
        const Outcome one_by_one = outcome_of(*model);
        CHECK(relative_error(at_once.logits, one_by_one.logits) <= 1e-14);  // measured: 3.2e-16
        double most = 0;
        for (const auto& [name, gradient] : one_by_one.gradients)
            for (const double g : gradient) most = std::max(most, std::fabs(g));
        for (const auto& [name, gradient] : one_by_one.gradients) {
            INFO(name);
            REQUIRE(at_once.gradients.at(name).size() == gradient.size());
            for (size_t i = 0; i < gradient.size(); ++i) {
                // some are zero but for rounding; measured: 2.3e-17 of the largest
                CHECK(at_once.gradients.at(name)[i] ==
                      Approx(gradient[i]).epsilon(1e-9).margin(1e-15 * most));
            }
        }
    }
}

TEST_CASE("queries, keys and values of a model lie in one matrix, whatever their width") {
    const auto model = calibrated_model({4, 4});
    nn::WeightPass& pass = *model->weight_pass();
    pass.prepare(DType::f64, false);
    const Tensor matrix = slot_at(*model, "blocks.0.attn.proj_q").matrix().codes;
    const int64_t width = slot_at(*model, "blocks.0.attn.proj_q").weight().shape()[0];
    REQUIRE(matrix.shape() == engine::Shape({3 * width, width}));
    int64_t row = 0;
    for (const char* name : {"proj_q", "proj_k", "proj_v"}) {
        const nn::QuantizerSlot& slot = slot_at(*model, std::string("blocks.0.attn.") + name);
        CHECK(matrix.slice(row, row + width).raw() ==
              slot_at(*model, std::string("blocks.0.attn.") + name).quantized_weight().q.value().raw());
        CHECK(slot.matrix().codes.shape()[0] == 3 * width - row);
        row += width;
    }
    CHECK(slot_at(*model, "blocks.0.attn.proj").matrix().codes.shape()[0] == width);
    pass.release();
    CHECK_FALSE(slot_at(*model, "blocks.0.attn.proj_q").matrix().codes.defined());
}

TEST_CASE("steps that fell below 1e-4 are raised in their parameters before the pass") {
    const auto model = calibrated_model({4, 4});
    const std::vector<std::string> places = {"patch_embed.quant",        "blocks.0.attn.proj_k",
                                             "blocks.0.attn.quant_attn", "blocks.1.mlp.quant2",
                                             "blocks.1.mlp.fc2",         "head"};
    const double kept = lsq_at(*model, "quant").step();
    for (const double low : {1e-5, 0.0, -0.7}) {
        for (const std::string& place : places) {
            engine::kernels(engine::Device::cpu).fill(low, lsq_at(*model, place).alpha().value());
        }
        model->forward(small_pictures(), nn::random_key(0));
        for (const std::string& place : places) {
            INFO(place);
            CHECK(lsq_at(*model, place).step() == engine::kLeastStep);
        }
        CHECK(lsq_at(*model, "quant").step() == kept);
    }
}

TEST_CASE("weights without a start step get one in the pass") {
    const auto model = small_model();
    attach(*model, {.weights = 4, .activations = 4});
    CHECK_FALSE(lsq_at(*model, "blocks.1.mlp.fc1").ready());
    model->forward(small_pictures(), nn::random_key(0));
    const nn::QuantizerSlot& slot = slot_at(*model, "blocks.1.mlp.fc1");
    const Lsq& quantizer = lsq_at(*model, "blocks.1.mlp.fc1");
    CHECK(quantizer.ready());
    CHECK(quantizer.step() == fit_step(slot.weight().value(), quantizer.range()).step);
}

TEST_CASE("codes are prepared for a forward pass and forgotten behind it") {
    const auto model = calibrated_model({4, 4});
    nn::QuantizerSlot& slot = slot_at(*model, "blocks.0.mlp.fc1");
    const auto codes = [&] { return slot.quantized_weight().scale.defined(); };  // values have no step
    CHECK_FALSE(codes());
    nn::WeightPass& pass = *model->weight_pass();
    pass.prepare(DType::f64, false);
    CHECK(codes());
    CHECK(slot.quantized_weight().q.value().raw() == slot.quantized_weight().q.value().raw());
    pass.release();
    CHECK_FALSE(codes());
    model->forward(small_pictures(), nn::random_key(0));
    CHECK_FALSE(codes());

    // a weight that changes is seen by the next pass
    const auto logits = [&] { return model->forward(small_pictures()).value().to_vector(); };
    model->train(false);
    const std::vector<double> before = logits();
    CHECK(logits() == before);
    engine::kernels(engine::Device::cpu).fill(0.25, slot.weight().value());
    CHECK(logits() != before);
}

TEST_CASE("codes are forgotten behind a forward pass that fails") {
    const auto model = calibrated_model({4, 4});
    for (nn::NamedParameter& p : model->parameters()) {
        if (p.name == "blocks.1.mlp.fc1.bias")
            engine::kernels(engine::Device::cpu).fill(NAN, p.parameter.value());
    }
    {
        const autograd::FiniteCheck check;
        const auto fail = [&] { model->forward(small_pictures(), nn::random_key(0)); };
        CHECK(contains(message_of(engine::Fault::run, fail), "blocks.1.mlp"));
    }
    CHECK_FALSE(slot_at(*model, "blocks.0.mlp.fc1").quantized_weight().scale.defined());
}

TEST_CASE("a forward pass prepares in the dtype of its pictures and releases once") {
    const auto model = small_model(DType::f32);
    std::vector<std::string> calls;
    model->set_weight_pass(std::make_unique<Counting>(calls));
    model->forward(small_pictures(DType::f32), nn::random_key(0));
    CHECK(calls == std::vector<std::string>{"prepare f32", "release"});
}

TEST_CASE("the regularizer is there where it was asked for, of the latest pass") {
    const auto model = calibrated_model({2, 4});
    auto* pass = dynamic_cast<WeightPass*>(model->weight_pass());
    REQUIRE(pass != nullptr);
    CHECK(pass->layers().size() == 14);
    pass->prepare(DType::f64, false);
    CHECK_FALSE(pass->regularizer().defined());
    CHECK(pass->terms().empty());
    regularize(*model, true);
    pass->prepare(DType::f64, false);
    REQUIRE(pass->terms().size() == 14);
    double total = 0;
    for (const Tensor& term : pass->terms()) total += term.item();
    CHECK(pass->regularizer().value().item() == Approx(total).epsilon(1e-14));
    regularize(*model, false);
    pass->prepare(DType::f64, false);
    CHECK_FALSE(pass->regularizer().defined());
    pass->release();
}

TEST_CASE("layers outside a model quantize their weights themselves") {
    nn::Mlp mlp(4, 6, DType::f64);
    for (nn::NamedParameter& p : mlp.parameters()) {
        p.parameter.set_value(filled(p.name, p.parameter.shape(), 0.7));
    }
    const auto values = [&] {
        return mlp.forward(Variable(filled("x", {2, 3, 4}, 1.0))).value().to_vector();
    };
    const std::vector<double> plain = values();
    attach(mlp, {.weights = 8, .activations = 8});
    values();  // sets the steps
    const std::vector<double> quantized = values();
    CHECK(quantized != plain);
    CHECK(relative_error(quantized, plain) < 0.5);
}

TEST_CASE("a layer that is used twice in a model has one slot and one code") {
    class Doubled : public nn::Model {
      public:
        Doubled() : nn::Model(nn::model_config("deit_nano_patch4_28")) {
            for (nn::NamedParameter& p : fc_.parameters()) {
                p.parameter.set_value(filled(p.name, p.parameter.shape(), 0.7));
            }
            add_module("first", fc_);
            add_module("second", fc_);
        }

      private:
        Variable compute(const Tensor& pictures, const nn::Draws&) override {
            const Variable x{pictures};
            return autograd::add(fc_.forward(fc_.forward(x)), x);
        }
        nn::Linear fc_{{5, 5}, DType::f64};
    };
    Doubled model;
    attach(model, {.weights = 3});
    const auto run = [&] {
        for (nn::NamedParameter& p : model.parameters()) p.parameter.clear_grad();
        const Variable y = model.forward(filled("x", {4, 5}, 1.0));
        autograd::sum(y).backward();
        std::vector<double> all = y.value().to_vector();
        for (const nn::NamedParameter& p : model.parameters()) {
            for (const double g : p.parameter.grad().to_vector()) all.push_back(g);
        }
        return all;
    };
    const std::vector<double> at_once = run();
    CHECK(dynamic_cast<WeightPass&>(*model.weight_pass()).layers() == std::vector<std::string>{"first"});
    model.set_weight_pass(nullptr);
    CHECK(relative_error(at_once, run()) <= 1e-14);
}

}  // namespace vvtq::quant
