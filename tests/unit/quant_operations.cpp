// operations, stand_in, allocate: what a picture costs, other quantizers for a while, bits within a budget.
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/inspect/allocate.h"
#include "quant/inspect/operations.h"
#include "quant/inspect/stand_in.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;
using tests::small_model;
using tests::small_pictures;

std::unique_ptr<nn::Model> quantized(const BitWidths& bits) {
    auto model = small_model();
    attach(*model, bits);
    calibrate_weights(*model);
    calibrate_activations(*model, small_pictures());
    model->train(false);
    return model;
}

std::map<std::string, int> widths_of(nn::Model& model) {
    std::map<std::string, int> widths;
    for (const auto& [path, slot] : slots(model)) {
        if (slot->get() != nullptr) widths[path] = slot->get()->describe().bits;
    }
    return widths;
}

// 8 x 8 pictures in patches of 4: 4 tokens and the class token, 12 wide, 3 heads of 4, hidden 48
constexpr double kProjection = 5 * 12 * 12, kScores = 3 * 5 * 5 * 4, kApply = 5 * 12 * 5, kMlp = 5 * 12 * 48;
constexpr double kPatches = 4 * 48 * 12, kHead = 12 * 5;

}  // namespace

TEST_CASE("operations: each product of DeiT, with the quantizers of its operands") {
    for (const bool head_wise : {false, true}) {
        const auto model = quantized({.weights = 3, .activations = 2, .head_wise = head_wise});
        const PictureCost cost = picture_cost(*model, small_pictures().slice(0, 1));
        const std::string b = "blocks.0.attn.";
        const std::vector<Product> expected = {
            {"patch_embed.proj", kPatches, "patch_embed.quant", "patch_embed.proj"},
            {b + "proj_q", kProjection, b + "quant_input", b + "proj_q"},
            {b + "proj_k", kProjection, b + "quant_input", b + "proj_k"},
            {b + "proj_v", kProjection, b + "quant_input", b + "proj_v"},
            {"blocks.0.attn", kScores, b + "quant_q", b + "quant_k"},
            {"blocks.0.attn", kApply, b + "quant_attn", b + "quant_v"},
            {b + "proj", kProjection, b + "quant_output", b + "proj"},
            {"blocks.0.mlp.fc1", kMlp, "blocks.0.mlp.quant1", "blocks.0.mlp.fc1"},
            {"blocks.0.mlp.fc2", kMlp, "blocks.0.mlp.quant2", "blocks.0.mlp.fc2"}};
        REQUIRE(cost.products.size() == 1 + 2 * 8 + 1);
        for (size_t i = 0; i < expected.size(); ++i) {
            INFO(i << " " << cost.products[i].layer);
            CHECK(cost.products[i].layer == expected[i].layer);
            CHECK(cost.products[i].operations == expected[i].operations);
            CHECK(cost.products[i].left == expected[i].left);
            CHECK(cost.products[i].right == expected[i].right);
        }
        CHECK(cost.products.back().operations == kHead);
        CHECK(cost.values.at("blocks.1.attn.quant_attn").count == 3 * 5 * 5);
        CHECK(cost.values.at("blocks.1.mlp.quant2").count == 5 * 48);
        const double layers = 2 * (4 * kProjection + 2 * kMlp), attention = 2 * (kScores + kApply);
        CHECK(bit_operations(cost.products, widths_of(*model)) ==
              layers * 6 + attention * 4 + (kPatches + kHead) * 64);
    }
}

TEST_CASE("operations: what is not quantized has 32 bits, and leaves no trace in the model") {
    const auto model = quantized({.weights = 4, .activations = 32});
    const auto before = model->forward(small_pictures()).value().to_vector();
    const PictureCost cost = picture_cost(*model, small_pictures().slice(0, 1));
    const double layers = 2 * (4 * kProjection + 2 * kMlp), attention = 2 * (kScores + kApply);
    CHECK(bit_operations(cost.products, widths_of(*model)) ==
          layers * 4 * 32 + attention * 32 * 32 + (kPatches + kHead) * 64);
    for (const auto& [path, slot] : slots(*model)) {
        const bool quantizes = slot->values() == nn::Values::weight || slot->bits() == nn::Bits::always_8;
        CHECK((slot->get() != nullptr) == quantizes);
    }
    CHECK(model->forward(small_pictures()).value().to_vector() == before);
}

TEST_CASE("stand-ins: a model with all slots float computes what one without quantizers does") {
    const auto model = quantized({.weights = 2, .activations = 2});
    const auto plain = small_model();
    plain->train(false);
    const auto before = model->forward(small_pictures()).value().to_vector();
    {
        Float as_float;
        std::vector<std::unique_ptr<StandIn>> all;
        for (const auto& [path, slot] : slots(*model))
            all.push_back(std::make_unique<StandIn>(*slot, as_float));
        const auto got = model->forward(small_pictures()).value().to_vector();
        const auto expected = plain->forward(small_pictures()).value().to_vector();
        REQUIRE(got.size() == expected.size());
        for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).epsilon(1e-10));
        CHECK(got != before);
    }
    CHECK(model->forward(small_pictures()).value().to_vector() == before);
}

TEST_CASE("stand-ins: a fitted quantizer of a weight has the step of the mean-squared error") {
    const auto model = quantized({.weights = 8, .activations = 8});
    for (const auto& [path, slot] : slots(*model)) {
        if (path != "blocks.0.mlp.fc1") continue;
        const auto fitted = fitted_quantizer(*slot, 2, slot->weight().value());
        CHECK(fitted->describe().bits == 2);
        CHECK(fitted->describe().scale[0] ==
              fit_step(slot->weight().value(), engine::CodeRange::signed_bits(2)).step);
        const auto before = model->forward(small_pictures()).value().to_vector();
        const StandIn stand_in(*slot, *fitted);
        CHECK(model->forward(small_pictures()).value().to_vector() != before);
    }
}

TEST_CASE("allocate: bits go where a bit's loss is worth most") {
    // a: 4 -> 0; one bit more gains 3, the next 0.75. b: 1 -> 0: 0.75, 0.1875. c gains nothing.
    const std::vector<BitLoss> losses = {{"a", 0, 4}, {"b", 0, 1}, {"c", 1, 0.5}};
    CHECK(expected_loss(losses[0], 2) == 4);
    CHECK(expected_loss(losses[0], 3) == 1);
    CHECK(expected_loss(losses[2], 2) == 1);
    const std::map<std::string, int> start = {{"a", 2}, {"b", 2}, {"c", 2}};
    const auto equal = [](const std::map<std::string, int>& w) {
        return static_cast<double>(w.at("a") + w.at("b") + w.at("c"));
    };
    const auto with = [&](double budget, const auto& cost) {
        return allocate_bits(losses, start, budget, cost);
    };
    CHECK(with(6, equal) == start);
    CHECK(with(7, equal) == std::map<std::string, int>{{"a", 3}, {"b", 2}, {"c", 2}});
    CHECK(with(10, equal) ==
          std::map<std::string, int>{{"a", 5}, {"b", 3}, {"c", 2}});  // a comes first in a tie
    // a's bits are dear: 3 for 10 is less than 0.75 for 1
    const auto dear = [](const std::map<std::string, int>& w) {
        return 10.0 * w.at("a") + w.at("b") + w.at("c");
    };
    CHECK(with(24 + 1, dear) == std::map<std::string, int>{{"a", 2}, {"b", 3}, {"c", 2}});
    CHECK(with(1000, dear) == std::map<std::string, int>{{"a", 8}, {"b", 8}, {"c", 2}});
}

}  // namespace vvtq::quant
