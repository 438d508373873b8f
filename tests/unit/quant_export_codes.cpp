// Packed codes: bits and codes of every width, and weights as codes and steps.
#include <cmath>

#include "data/elements.h"
#include "engine/random.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/export/bit_codes.h"
#include "quant/export/weight_codes.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;
using tests::small_model;

/// Codes of every value a width has, in a drawn order.
std::vector<int8_t> drawn_codes(int bits, size_t count) {
    engine::Random random(static_cast<uint64_t>(bits) * 1000 + count);
    std::vector<int8_t> codes;
    for (size_t i = 0; i < count; ++i) {
        const int stored = static_cast<int>(random.below(uint64_t{1} << bits));
        codes.push_back(static_cast<int8_t>(bits == 1 ? 2 * stored - 1 : stored - (1 << (bits - 1))));
    }
    return codes;
}

/// Every weight's codes of a quantized model, times their steps, are what its quantizer makes of it; and it
/// makes the same of them again, bit for bit.
int check_model(nn::Model& model) {
    int checked = 0;
    for (const auto& [path, slot] : slots(model)) {
        const auto found = weight_codes(*slot);
        if (slot->values() != nn::Values::weight) CHECK_FALSE(found);
        if (!found) continue;
        INFO(path);
        ++checked;
        const autograd::NoGrad off_tape;
        const Tensor y = (*slot->get())(slot->weight()).value();
        REQUIRE(found->codes.size() == static_cast<size_t>(y.numel()));
        const Tensor w = y.like();
        for (size_t i = 0; i < found->codes.size(); ++i) {
            w.data<float>()[i] = found->steps[i / static_cast<size_t>(found->inner) % found->steps.size()] *
                                 static_cast<float>(found->codes[i]);
        }
        CHECK(w.to_vector() == y.to_vector());
        CHECK((*slot->get())(nn::Variable(w)).value().to_vector() == y.to_vector());
    }
    return checked;
}

int check_bits(const BitWidths& bits) {
    const auto model = small_model(DType::f32);
    attach(*model, bits);
    calibrate_weights(*model);
    return check_model(*model);
}

}  // namespace

TEST_CASE("packed codes: the bits of a row stand as the format says") {
    using Row = std::vector<uint8_t>;
    CHECK(pack_codes(std::vector<int8_t>{-8, 7, 0}, 4) == Row{0xF0, 0x08});
    CHECK(pack_codes(std::vector<int8_t>{-2, -1, 0, 1, 1}, 2) == Row{0xE4, 0x03});
    CHECK(pack_codes(std::vector<int8_t>{-128, 127, 0}, 8) == Row{0x00, 0xFF, 0x80});
    CHECK(pack_codes(std::vector<int8_t>{1, -1, 1, 1, -1, -1, -1, -1, 1}, 1) == Row{0x0D, 0x01});
    // stored 1, 2, 7: 001, 010, 111 from the lowest bit on, the third across the border of a byte
    CHECK(pack_codes(std::vector<int8_t>{-3, -2, 3}, 3) == Row{0xD1, 0x01});
}

TEST_CASE("packed codes come back for every width and any number of them") {
    for (int bits = 1; bits <= 8; ++bits) {
        for (size_t count = 0; count <= 40; ++count) {
            INFO(bits << " bits, " << count << " codes");
            const std::vector<int8_t> codes = drawn_codes(bits, count);
            const std::vector<uint8_t> bytes = pack_codes(codes, bits);
            CHECK(bytes.size() == (count * static_cast<size_t>(bits) + 7) / 8);
            CHECK(bytes.size() == packed_size(count, bits));
            CHECK(unpack_codes(bytes, count, bits) == codes);
        }
        const std::vector<int8_t> many = drawn_codes(bits, 100003);
        CHECK(unpack_codes(pack_codes(many, bits), many.size(), bits) == many);
    }
    for (const auto& wrong : {std::pair(2, 2), {-3, 2}, {0, 1}, {2, 1}, {4, 3}, {-9, 4}}) {
        INFO(wrong.first << " of " << wrong.second);
        const std::vector<int8_t> codes = {static_cast<int8_t>(wrong.first)};
        CHECK_FALSE(
            tests::message_of(engine::Fault::internal, [&] { pack_codes(codes, wrong.second); }).empty());
    }
    CHECK_FALSE(tests::message_of(engine::Fault::internal, [] {
                    unpack_codes(std::vector<uint8_t>(2), 5, 4);
                }).empty());
}

TEST_CASE("steps times codes are the quantized weights, and are quantized to the same codes") {
    constexpr int kWeights = 2 * 6 + 2;  // of two blocks, and the first and the last layer
    for (int bits = 1; bits <= 8; ++bits) {
        INFO(bits);
        CHECK(check_bits({.weights = bits, .activations = 4}) == kWeights);
    }
    CHECK(check_bits({.weights = 3, .activations = 3, .head_wise = true}) == kWeights);
    CHECK(check_bits({.activations = 4}) == 2);
    CHECK(check_model(*small_model(DType::f32)) == 0);  // no quantizers

    const auto model = small_model(DType::f32);
    attach(*model, {.weights = 1, .activations = 4});
    const auto all = slots(*model);
    const auto fc1 = std::find_if(all.begin(), all.end(),
                                  [](const auto& named) { return named.first == "blocks.0.mlp.fc1"; });
    REQUIRE(fc1 != all.end());
    CHECK(weight_codes(*fc1->second)->steps.size() == 1);
    CHECK_FALSE(weight_codes(*fc1->second)->learned);
    fc1->second->weight().value().data<float>()[5] = 0;  // sign(0) is neither of the two codes
    CHECK_FALSE(weight_codes(*fc1->second));
}

TEST_CASE("a step below the least one is used as the least one") {
    const auto model = small_model(DType::f32);
    attach(*model, {.weights = 4, .activations = 4});
    calibrate_weights(*model);
    const auto all = slots(*model);
    for (const auto& [path, slot] : all) {
        if (slot->values() == nn::Values::weight) slot->get()->steps()[0].data<float>()[0] = 3e-5F;
    }
    CHECK(check_model(*model) > 0);
    for (const auto& [path, slot] : all) {
        if (slot->values() != nn::Values::weight) continue;
        CHECK(weight_codes(*slot)->steps[0] == static_cast<float>(engine::kLeastStep));
    }
}

TEST_CASE("floats of 16 bits are the nearest, ties to even") {
    const data::Element& half = *data::find_element("F16");
    const auto back = [&](uint16_t bits) { return half.to_float(reinterpret_cast<const uint8_t*>(&bits)); };
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {  // each is its own nearest
        const float value = back(static_cast<uint16_t>(bits));
        if (std::isnan(value)) {
            CHECK(std::isnan(back(data::half_bits(value))));
        } else {
            if (data::half_bits(value) != bits) FAIL_CHECK(bits);
            const auto next = static_cast<uint16_t>(bits + 1);
            if ((bits & 0x7FFF) >= 0x7BFF) continue;
            // half way to the next the even one, just beside it the nearer one
            const float middle = (value + back(next)) / 2;
            const auto even = static_cast<uint16_t>(bits % 2 == 0 ? bits : next);
            if (data::half_bits(middle) != even) FAIL_CHECK("between " << bits << " and the next");
            if (data::half_bits(std::nextafter(middle, value)) != bits) FAIL_CHECK("below " << bits);
            if (data::half_bits(std::nextafter(middle, back(next))) != next) FAIL_CHECK("above " << bits);
        }
    }
    CHECK(data::half_bits(65519.0F) == 0x7BFF);
    CHECK(data::half_bits(65520.0F) == 0x7C00);
    CHECK(data::half_bits(-1e30F) == 0xFC00);
}

}  // namespace vvtq::quant
