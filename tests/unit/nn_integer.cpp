// Integer inference gives the logits of the f32 forward pass.
#include "nn/inference.h"

#include "engine/threads.h"
#include "tests/catch.h"
#include "tests/unit/integer_support.h"

namespace vvtq::tests {
namespace {

std::vector<double> integer_logits(nn::Model& model, const Tensor& pictures) {
    const nn::Inference inference(model, engine::DType::f32, nn::Products::integers);
    model.forward(pictures);  // the second pass takes the same weights
    return model.forward(pictures).value().to_vector();
}

}  // namespace

TEST_CASE("integer inference gives the logits of f32, bit for bit") {
    const std::string name = GENERATE(from_range(std::begin(kModels), std::end(kModels)));
    const int bits = GENERATE(2, 3, 4, 8);
    INFO(name << " at " << bits << " bits");
    const auto model = quantized(name, {.weights = bits, .activations = bits});
    CHECK(quant::has_integer_products(*model));
    const int threads = engine::threads();
    for (const int64_t batch : {1, 3}) {
        const Tensor pictures = noise({batch, 3, 32, 32}, 7);
        const std::vector<double> expected = logits(*model, pictures);
        for (const int count : {1, 3}) {
            engine::set_threads(count);
            CHECK(integer_logits(*model, pictures) == expected);
        }
        engine::set_threads(threads);
        engine::use_code_instructions(false);
        CHECK(integer_logits(*model, pictures) == expected);
        engine::use_code_instructions(true);
        CHECK(logits(*model, pictures) == expected);  // nothing is left behind
    }
}

TEST_CASE("quantizers that have no 8-bit codes keep working beside integer ones") {
    const std::string name = GENERATE(from_range(std::begin(kModels), std::end(kModels)));
    const quant::BitWidths bits = GENERATE(
        quant::BitWidths{.weights = 1, .activations = 4}, quant::BitWidths{.weights = 4, .activations = 1},
        quant::BitWidths{.weights = 4}, quant::BitWidths{.activations = 4},
        quant::BitWidths{.weights = 3, .activations = 4, .head_wise = true});
    INFO(name << " at " << bits.weights << " and " << bits.activations << " bits");
    const auto model = quantized(name, bits);
    const bool one_step = bits.head_wise && !name.starts_with("deit") && !name.starts_with("swin");
    CHECK(quant::has_integer_products(*model) == one_step);  // SReT has no steps of heads
    const Tensor pictures = noise({2, 3, 32, 32}, 7);
    CHECK(integer_logits(*model, pictures) == logits(*model, pictures));
}

TEST_CASE("sums of codes that 32 bits cannot hold are sums of floats") {
    for (const int64_t inputs : {65'000, 70'000}) {
        const Tensor codes({1, inputs}, DType::u8), weight({1, inputs}, DType::i8);
        std::fill_n(codes.data<uint8_t>(), inputs, uint8_t{255});
        std::fill_n(weight.data<int8_t>(), inputs, int8_t{127});
        autograd::Quantized x{autograd::Variable(codes)}, w{autograd::Variable(weight)};
        x.scale = w.scale = Tensor::full({1}, 1.0, DType::f32);
        const autograd::NoGrad off_tape;
        const double y = autograd::linear(x, w, {}).value().to_vector()[0];
        CHECK(y == Approx(255.0 * 127.0 * static_cast<double>(inputs)).epsilon(1e-4));
    }
}

TEST_CASE("a model without quantizers computes in f32 under integer inference") {
    auto model = nn::make_model(small(kModels[0]), DType::f32, 3);
    model->train(false);
    CHECK_FALSE(quant::has_integer_products(*model));
    const Tensor pictures = noise({2, 3, 32, 32}, 7);
    CHECK(integer_logits(*model, pictures) == logits(*model, pictures));
}

}  // namespace vvtq::tests
