// A packed file whose weights stay integer codes gives the logits of the model it was made of.
#include "apps/training/checkpoint.h"
#include "apps/training/packed_file.h"
#include "nn/inference.h"
#include "quant/weight_pass.h"
#include "tests/catch.h"
#include "tests/unit/data_support.h"
#include "tests/unit/integer_support.h"

namespace vvtq::tests {
namespace {

/// The model of the packed file, whose weights stay codes where that is possible.
std::unique_ptr<nn::Model> loaded(const std::string& path, const quant::BitWidths& bits) {
    const apps::Checkpoint checkpoint(path, "CKPT");
    auto model = nn::make_model(*checkpoint.model_config(), DType::f32);
    quant::attach(*model, bits);
    checkpoint.load_parameters(*model, {.codes = true});
    model->train(false);
    return model;
}

void pack(nn::Model& model, const std::string& path) {
    apps::CheckpointInfo info;
    info.command = "train";
    info.model = model.config();
    info.quantized = true;
    apps::save_packed(path, info, model, apps::PackedFloats::f32);
}

/// Of all weights with a quantizer, how many have floats.
int64_t float_weights(nn::Model& model) {
    int64_t count = 0;
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->values() == nn::Values::weight && !slot->idle()) {
            count += slot->weight().value().has_memory() ? 1 : 0;
        }
    }
    return count;
}

}  // namespace

TEST_CASE("weights of a packed file stay codes for integer inference") {
    const std::string name = GENERATE(from_range(std::begin(kModels), std::end(kModels)));
    const int bits = GENERATE(2, 3, 4, 8);
    INFO(name << " at " << bits << " bits");
    const Scratch scratch;
    const quant::BitWidths widths{.weights = bits, .activations = bits};
    const auto original = quantized(name, widths);
    const std::string path = scratch / "packed";
    pack(*original, path);
    const auto model = loaded(path, widths);
    CHECK(float_weights(*model) == 0);
    const Tensor pictures = noise({3, 3, 32, 32}, 7);
    const std::vector<double> expected = logits(*original, pictures);
    for (int i = 0; i < 2; ++i) {
        const nn::Inference inference(*model, engine::DType::f32, nn::Products::integers);
        CHECK(logits(*model, pictures) == expected);
        CHECK(logits(*model, pictures) == expected);
    }
    CHECK(logits(*model, pictures) == expected);  // with products of floats, too
}

TEST_CASE("weights of a packed file are floats where a product cannot be integer") {
    const std::string name = GENERATE(from_range(std::begin(kModels), std::end(kModels)));
    const quant::BitWidths widths =
        GENERATE(quant::BitWidths{.weights = 4}, quant::BitWidths{.weights = 4, .activations = 1},
                 quant::BitWidths{.weights = 1, .activations = 4});
    INFO(name << " at " << widths.weights << " and " << widths.activations << " bits");
    const Scratch scratch;
    const auto original = quantized(name, widths);
    const std::string path = scratch / "packed";
    pack(*original, path);
    const auto model = loaded(path, widths);
    CHECK(float_weights(*model) > 0);
    const Tensor pictures = noise({3, 3, 32, 32}, 7);
    CHECK(logits(*model, pictures) == logits(*original, pictures));
}

TEST_CASE("codes of another width than the model's are read as floats") {
    const Scratch scratch;
    const auto original = quantized(kModels[0], {.weights = 4, .activations = 4});
    const std::string path = scratch / "packed";
    pack(*original, path);
    const auto model = loaded(path, {.weights = 3, .activations = 4});
    CHECK(float_weights(*model) > 0);
    const Tensor pictures = noise({2, 3, 32, 32}, 7);
    const std::vector<double> expected = logits(*model, pictures);
    const nn::Inference inference(*model, engine::DType::f32, nn::Products::integers);
    CHECK(logits(*model, pictures) == expected);
}

}  // namespace vvtq::tests
