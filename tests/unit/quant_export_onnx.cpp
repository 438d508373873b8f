// ONNX models as plain values: whole graphs of every family, in the forms that were asked for.
#include <set>

#include "autograd/trace.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/export/onnx_export.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Shape;
using engine::Tensor;
using tests::contains;

std::unique_ptr<nn::Model> small(const std::string& name, const BitWidths& bits, bool quantized = true) {
    nn::ModelConfig config = nn::model_config(name);
    config.img_size = 16;
    config.patch_size = config.family == "deit" || config.family == "deit_distilled" ? 8 : 2;
    config.embed_dim = 12;
    config.depth = 2;
    config.num_heads = 3;
    config.depths = {2, 2};
    config.heads = {3, 3};
    config.window_size = 4;
    config.num_classes = 5;
    auto model = nn::make_model(config, DType::f32, 5);
    if (!quantized) return model;
    attach(*model, bits);
    calibrate_weights(*model);
    calibrate_activations(*model, tests::filled("images", {2, 3, 16, 16}, 1.5, DType::f32));
    return model;
}

/// Each name is made once, before it is used; the logits come last.
void check_whole(const OnnxModel& model) {
    std::set<std::string> known = {model.input.name};
    for (const OnnxTensor& constant : model.constants) {
        CHECK(known.insert(constant.name).second);
        int64_t count = 1;
        for (const int64_t size : constant.shape) count *= size;
        CHECK(constant.bytes.size() == static_cast<size_t>((count * bits_of(constant.type) + 7) / 8));
    }
    for (const OnnxNode& node : model.nodes) {
        INFO(node.name);
        for (const std::string& input : node.inputs) CHECK(known.count(input) == 1);
        for (const std::string& output : node.outputs) CHECK(known.insert(output).second);
    }
    CHECK(model.nodes.back().outputs == std::vector<std::string>{"logits"});
}

int count(const OnnxModel& model, const std::string& op) {
    return static_cast<int>(std::count_if(model.nodes.begin(), model.nodes.end(),
                                          [&](const OnnxNode& node) { return node.op == op; }));
}

int count(const OnnxModel& model, OnnxType type) {
    return static_cast<int>(std::count_if(model.constants.begin(), model.constants.end(),
                                          [&](const OnnxTensor& each) { return each.type == type; }));
}

/// The node that makes `name`; null for a constant.
const OnnxNode* maker(const OnnxModel& model, const std::string& name) {
    for (const OnnxNode& node : model.nodes) {
        if (node.outputs[0] == name) return &node;
    }
    return nullptr;
}

}  // namespace

TEST_CASE("onnx: a whole graph of every family, quantized and not") {
    for (const std::string name : {"deit_nano_patch4_28", "deit_tiny_distilled_patch16_224",
                                   "swin_tiny_patch4_window7_224", "SReT_T"}) {
        INFO(name);
        const OnnxModel floats = export_onnx(*small(name, {}, false), {});
        check_whole(floats);
        CHECK(count(floats, "QuantizeLinear") == 0);
        CHECK(floats.opset == 20);
        for (const int bits : {1, 2, 3, 4, 8}) {
            const OnnxModel model = export_onnx(*small(name, {.weights = bits, .activations = bits}), {});
            check_whole(model);
            CHECK(model.opset == (bits <= 2 ? 25 : bits <= 4 ? 21 : 20));
            CHECK(count(model, "DequantizeLinear") > count(model, "QuantizeLinear"));
        }
    }
    check_whole(
        export_onnx(*small("deit_nano_patch4_28", {.weights = 4, .activations = 4, .head_wise = true}), {}));
}

TEST_CASE("onnx: every product of codes has its two dequantizers right in front") {
    for (const std::string name : {"deit_nano_patch4_28", "swin_tiny_patch4_window7_224", "SReT_T"}) {
        const OnnxModel model = export_onnx(*small(name, {.weights = 4, .activations = 4}), {});
        int products = 0, others = 0;
        for (const OnnxNode& node : model.nodes) {
            if (node.op != "MatMul" && node.op != "Conv") continue;
            bool codes = true;
            for (size_t i = 0; i < 2; ++i) {
                const OnnxNode* operand = maker(model, node.inputs[i]);
                codes = codes && operand != nullptr && operand->op == "DequantizeLinear";
            }
            ++(codes ? products : others);
        }
        INFO(name);
        CHECK(products > 30 / 2);
        // Swin quantizes neither its pictures nor the input of its merging
        CHECK(others == (name.starts_with("swin") ? 2 : 0));
    }
}

TEST_CASE("onnx: the three styles") {
    const auto model = small("deit_nano_patch4_28", {.weights = 2, .activations = 4});
    constexpr int kActivations = 2 * 8 + 2;  // two blocks, and the first and the last layer's
    const OnnxModel uint8 = export_onnx(*model, {.style = OnnxStyle::uint8});
    CHECK(count(uint8, "Cast") == 2 * 6);
    CHECK(count(uint8, "Clip") == kActivations - 2);  // 8 bits saturate
    CHECK(count(uint8, OnnxType::i2) == 2 * 6);
    CHECK(uint8.opset == 25);
    const OnnxModel clip = export_onnx(*model, {.style = OnnxStyle::int8_clip});
    CHECK(count(clip, "Cast") == 0);
    CHECK(count(clip, "Clip") == kActivations - 2);
    CHECK(count(clip, OnnxType::i2) + count(clip, OnnxType::i4) == 0);
    CHECK(clip.opset == 20);
    const OnnxModel native = export_onnx(*model, {.style = OnnxStyle::native});
    CHECK(count(native, "Cast") + count(native, "Clip") == 0);
    CHECK(count(native, OnnxType::i4) >= 1);  // zero points
    CHECK(count(native, OnnxType::u4) >= 1);
    for (const OnnxModel* each : {&uint8, &clip, &native}) {
        check_whole(*each);
        CHECK(count(*each, "QuantizeLinear") == kActivations);
    }
    CHECK(parse_onnx_style("native") == OnnxStyle::native);
    CHECK(
        contains(tests::message_of(engine::Fault::input, [] { parse_onnx_style("int4"); }), "`style` int4"));
}

TEST_CASE("onnx: weights beside floats are no operands that could be quantized") {
    const auto model = small("deit_nano_patch4_28", {.weights = 4, .activations = -1});
    for (const OnnxStyle style : {OnnxStyle::uint8, OnnxStyle::int8_clip}) {
        const OnnxModel graph = export_onnx(*model, {.style = style});
        check_whole(graph);
        CHECK(count(graph, "QuantizeLinear") == 2);  // of the first and the last layer
        CHECK(count(graph, "DequantizeLinear") == 2 * 2);
        CHECK(count(graph, "Cast") == 2 * 6);
        CHECK(graph.opset == (style == OnnxStyle::uint8 ? 21 : 20));
    }
    const OnnxModel native = export_onnx(*model, {.style = OnnxStyle::native});
    CHECK(count(native, "DequantizeLinear") == 2 * 2 + 2 * 6);
}

TEST_CASE("onnx: input of pixels, operator sets") {
    const auto model = small("deit_nano_patch4_28", {.weights = 4, .activations = 4});
    OnnxOptions pixels{.pixels = true, .mean = {0.1, 0.2, 0.3}, .std = {1, 2, 3}};
    const OnnxModel bytes = export_onnx(*model, pixels);
    check_whole(bytes);
    CHECK(bytes.input.name == "pixels");
    CHECK(bytes.input.type == OnnxType::u8);
    CHECK(bytes.input.shape == std::vector<int64_t>{3, 16, 16});
    CHECK(bytes.output.shape == std::vector<int64_t>{5});
    for (const int opset : {21, 25, 27}) CHECK(export_onnx(*model, {.opset = opset}).opset == opset);
    const auto refused = [&](nn::Model& of, int opset) {
        return tests::message_of(engine::Fault::input, [&] { export_onnx(of, {.opset = opset}); });
    };
    CHECK(contains(refused(*model, 28), "`opset` 28: unknown here; give 20 to 27"));
    CHECK(contains(refused(*model, 13), "`opset` 13"));
    CHECK(contains(refused(*model, 20), "no type for codes of 4 bits; give 21 to 27"));
    CHECK(contains(refused(*small("SReT_T", {.weights = 2, .activations = 2}), 24), "codes of 2 bits"));
}

TEST_CASE("onnx: codes in bytes, constants once") {
    OnnxGraph graph;
    graph.codes({-8, 7, 1}, OnnxType::i4, {3});
    CHECK(graph.lowest_opset() == 21);
    graph.codes({-2, 1, 0, -1, 1}, OnnxType::i2, {5});
    CHECK(graph.lowest_opset() == 25);
    graph.codes({0, 200}, OnnxType::u8, {2});
    const auto bytes = [&](size_t i) { return graph.model().constants[i].bytes; };
    CHECK(bytes(0) == std::vector<uint8_t>{0x78, 0x01});
    CHECK(bytes(1) == std::vector<uint8_t>{0xC6, 0x01});
    CHECK(bytes(2) == std::vector<uint8_t>{0x00, 0xC8});
    CHECK(graph.codes({-8, 7, 1}, OnnxType::i4, {3}) == graph.model().constants[0].name);
    CHECK(graph.codes({-8, 7, 1}, OnnxType::i4, {1, 3}) != graph.model().constants[0].name);
    CHECK(graph.model().constants.size() == 4);
    CHECK_FALSE(
        tests::message_of(engine::Fault::internal, [&] { graph.codes({2}, OnnxType::i2, {1}); }).empty());
}

TEST_CASE("where the steps of groups lie") {
    const auto at = [](const Shape& shape, int64_t groups, int64_t inner) {
        const auto found = group_axis(shape, groups, inner);
        return found ? std::pair(found->axis, found->repeat) : std::pair(int64_t{-1}, int64_t{0});
    };
    using Place = std::pair<int64_t, int64_t>;
    CHECK(at({2, 5, 12}, 3, 4) == Place(2, 4));     // columns of heads
    CHECK(at({2, 3, 5, 5}, 3, 25) == Place(1, 1));  // index of heads
    CHECK(at({12, 7}, 3, 28) == Place(0, 4));       // rows of a weight
    CHECK(at({12, 7}, 12, 7) == Place(0, 1));       // each row
    CHECK(at({12, 7}, 5, 3) == Place(-1, 0));
}

TEST_CASE("a trace sees every op, its layer and what it was told, and nothing else changes") {
    const auto model = small("deit_nano_patch4_28", {.weights = 4, .activations = 4});
    const Tensor pictures = tests::filled("images", {2, 3, 16, 16}, 1.5, DType::f32);
    model->train(false);
    const std::vector<double> expected = model->forward(pictures).value().to_vector();
    std::map<std::string, int> ops;
    {
        const autograd::Trace trace([&](const autograd::TracedOp& op) {
            ++ops[op.op];
            if (op.op == "attention") {
                CHECK(contains(op.scope, ".attn"));
                CHECK(op.get<engine::AttentionProblem>("problem").heads == 3);
                CHECK_FALSE(
                    tests::message_of(engine::Fault::internal, [&] { op.get<double>("heads"); }).empty());
            }
        });
        CHECK(model->forward(pictures).value().to_vector() == expected);
        CHECK_FALSE(tests::message_of(engine::Fault::internal, [] { autograd::Trace second({}); }).empty());
        CHECK(autograd::Trace::active());
    }
    CHECK_FALSE(autograd::Trace::active());
    CHECK(ops["attention"] == 2);
    CHECK(ops["mlp"] == 2);
    CHECK(ops["residual_norm"] == 5);
    CHECK(ops["quantize_weights"] == 1);
    const autograd::Variable x(pictures);
    autograd::gelu(x);
    CHECK(ops["gelu"] == 0);
}

}  // namespace vvtq::quant
