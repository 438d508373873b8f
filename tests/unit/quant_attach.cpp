// attach: which slot gets what, and the widths that are refused.
#include <map>

#include "autograd/ops.h"
#include "quant/attach.h"
#include "quant/binary.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Fault;
using engine::Tensor;
using nn::Variable;
using tests::contains;
using tests::message_of;
using tests::small_model;
using tests::small_pictures;

/// What sits in a slot: "-", "1", or bits with s(igned) or u(nsigned), o(ffset), w(eight).
std::string describe(const nn::QuantizerSlot& slot) {
    if (slot.get() == nullptr) return "-";
    const nn::QuantizerDescription d = slot.get()->describe();
    if (d.kind == "binary") return engine::concat("1", d.weight ? "w" : "", "h", slot.heads());
    const bool offset = slot.get()->state_names().size() == 2;
    return engine::concat(d.bits, d.is_signed ? "s" : "u", offset ? "o" : "", d.weight ? "w" : "");
}

std::map<std::string, std::string> described(const BitWidths& bits) {
    const auto model = small_model();
    attach(*model, bits);
    std::map<std::string, std::string> found;
    for (const auto& [path, slot] : slots(*model)) found[path] = describe(*slot);
    return found;
}

const std::vector<std::string> kProjections = {"attn.proj_q", "attn.proj_k", "attn.proj_v",
                                               "attn.proj",   "mlp.fc1",     "mlp.fc2"};

}  // namespace

TEST_CASE("each slot gets the quantizer of its place") {
    const auto found = described({.weights = 3, .activations = 2});
    CHECK(found.size() == 2 * (6 + 8) + 4);
    for (const std::string block : {"blocks.0.", "blocks.1."}) {
        for (const std::string& layer : kProjections) CHECK(found.at(block + layer) == "3sw");
        for (const std::string slot : {"attn.quant_input", "attn.quant_q", "attn.quant_k", "attn.quant_v",
                                       "attn.quant_output", "mlp.quant1"}) {
            CHECK(found.at(block + slot) == "2s");
        }
        CHECK(found.at(block + "attn.quant_attn") == "2u");
        CHECK(found.at(block + "mlp.quant2") == "2uo");
    }
}

TEST_CASE("first and last layer have 8 bits in every configuration") {
    for (const int bits : {-1, 1, 2, 8, 32}) {
        const auto found = described({.weights = bits, .activations = bits});
        CHECK(found.at("patch_embed.quant") == "8s");
        CHECK(found.at("patch_embed.proj") == "8sw");
        CHECK(found.at("quant") == "8s");
        CHECK(found.at("head") == "8sw");
    }
}

TEST_CASE("names give widths: the last match counts, before those of all layers") {
    const auto found = described({.weights = 2,
                                  .activations = 2,
                                  .by_name = {{"blocks.*", 4},
                                              {"blocks.?.attn.proj_q", 3},
                                              {"*.quant_attn", 1},
                                              {"blocks.1.mlp.fc1", 32},
                                              {"head", 5}}});
    CHECK(found.at("blocks.0.attn.proj_k") == "4sw");
    CHECK(found.at("blocks.0.attn.proj_q") == "3sw");
    CHECK(found.at("blocks.1.attn.proj_q") == "3sw");
    CHECK(found.at("blocks.0.mlp.quant2") == "4uo");
    CHECK(found.at("blocks.0.attn.quant_attn") == "1h3");
    CHECK(found.at("blocks.1.mlp.fc1") == "-");
    CHECK(found.at("head") == "5sw");
    CHECK(found.at("quant") == "8s");
    const auto message = [](const std::string& pattern, int bits) {
        return message_of(Fault::input, [&] {
            described({.weights = 2, .activations = 2, .by_name = {{"head", 4}, {pattern, bits}}});
        });
    };
    CHECK(contains(message("blocks.2.*", 3),
                   "`bits`: no quantizer of this model has a name like 'blocks.2.*'"));
    CHECK(contains(message("head", 9), "`bits` 9"));
}

TEST_CASE("float stays float, weights and activations by themselves") {
    for (const int none : {-1, 32}) {
        const auto weights_only = described({.weights = 4, .activations = none});
        CHECK(weights_only.at("blocks.0.mlp.fc1") == "4sw");
        CHECK(weights_only.at("blocks.0.mlp.quant1") == "-");
        const auto activations_only = described({.weights = none, .activations = 4});
        CHECK(activations_only.at("blocks.0.mlp.fc1") == "-");
        CHECK(activations_only.at("blocks.0.mlp.quant1") == "4s");
    }
}

TEST_CASE("one bit: heads where the values belong to heads") {
    const auto found = described({.weights = 1, .activations = 1});
    for (const std::string& layer : kProjections) CHECK(found.at("blocks.1." + layer) == "1wh0");
    for (const std::string slot : {"attn.quant_input", "mlp.quant1", "mlp.quant2"}) {
        CHECK(found.at("blocks.1." + slot) == "1h0");
    }
    for (const std::string slot : {"quant_q", "quant_k", "quant_v", "quant_attn", "quant_output"}) {
        CHECK(found.at("blocks.1.attn." + slot) == "1h3");
    }
}

TEST_CASE("a model trains at every width, one bit included") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        for (const int bits : {1, 2, 5, 8}) {
            const auto model = small_model(dtype);
            attach(*model, {.weights = bits, .activations = bits});
            calibrate_weights(*model);
            calibrate_activations(*model, small_pictures(dtype));
            const Variable logits = model->forward(small_pictures(dtype), nn::random_key(1));
            autograd::soft_cross_entropy(logits, Tensor::full({2, 5}, 0.2, dtype)).backward();
            for (const nn::NamedParameter& p : model->parameters()) {
                INFO(p.name << " at " << bits << " bits");
                CHECK(p.parameter.value().dtype() == dtype);
                REQUIRE(p.parameter.grad().defined());
                const Tensor bad(engine::Shape{1}, DType::i64);
                engine::kernels(bad.device()).count_not_finite(p.parameter.grad(), bad);
                CHECK(bad.item() == 0);
            }
        }
    }
}

TEST_CASE("fixed scales are parameters without gradients") {
    const auto model = small_model();
    attach(*model, {.weights = 4, .activations = 4, .fixed_scale = true});
    size_t steps = 0;
    for (const nn::NamedParameter& p : model->parameters()) {
        const bool step = p.name.ends_with(".alpha") || p.name.ends_with(".beta");
        steps += step;
        CHECK(p.parameter.requires_grad() == !step);
    }
    CHECK(steps == 2 * (6 + 8) + 4 + 2);
}

TEST_CASE("other widths are refused by the flag's name") {
    for (const int bits : {-2, 0, 9, 16, 31, 33}) {
        const auto model = small_model();
        const std::string weights = message_of(Fault::input, [&] { attach(*model, {.weights = bits}); });
        CHECK(contains(weights, engine::concat("`wbits` ", bits)));
        const std::string activations =
            message_of(Fault::input, [&] { attach(*model, {.activations = bits}); });
        CHECK(contains(activations, engine::concat("`abits` ", bits)));
        for (const auto& [path, slot] : slots(*model)) CHECK(slot->get() == nullptr);
    }
}

TEST_CASE("attaching twice is a programming error") {
    const auto model = small_model();
    attach(*model, {.weights = 4});
    message_of(Fault::internal, [&] { attach(*model, {.weights = 4}); });
}

}  // namespace vvtq::quant
