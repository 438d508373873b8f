#include "quant/export/onnx_export.h"

#include <cmath>

#include "engine/check.h"
#include "quant/export/onnx_values.h"

namespace vvtq::quant {

using autograd::TracedOp;
using autograd::Variable;
using engine::QuantParams;
using engine::Shape;
using engine::Tensor;

namespace {

constexpr int kFirstOpset = 20, kLastOpset = 27;

/// Translates the ops of a forward pass as they come.
class Translator {
  public:
    Translator(OnnxGraph& graph, const OnnxOptions& options, const Tensor& pictures, std::string input)
        : graph_(graph), values_(graph, options.style), pictures_(pictures), input_(std::move(input)) {}

    void see(const TracedOp& op) {
        graph_.enter(op.scope);
        for (const Variable& x : op.inputs) {
            const bool is_input = x.defined() && x.value().memory_id() == pictures_.memory_id();
            if (is_input && values_.find(x) == nullptr) values_.set(x, {input_, x.shape()});
        }
        const bool live = std::any_of(op.inputs.begin(), op.inputs.end(), [&](const Variable& x) {
            return x.defined() && values_.find(x) != nullptr;
        });
        const auto& table = live ? kOfPictures : kOfConstants;
        const auto found = table.find(op.op);
        if (found != table.end()) return (this->*found->second)(op);
        if (!live) return;  // its value is all there is to know
        engine::input_error(op.scope, ": the operation ", op.op,
                            " has no form in ONNX yet; export a packed file, .safetensors");
    }

    std::string name(const Variable& variable) { return values_.name(variable); }

  private:
    using Handler = void (Translator::*)(const TracedOp& op);
    static const std::map<std::string, Handler> kOfPictures, kOfConstants;

    void result(const TracedOp& op, OnnxValue value, size_t output = 0) {
        values_.set(op.outputs.at(output), std::move(value));
    }
    void result(const TracedOp& op, std::string name) {
        result(op, {std::move(name), op.outputs[0].shape()});
    }
    std::string name(const TracedOp& op, size_t input) { return values_.name(op.inputs.at(input)); }
    const OnnxValue& in(const TracedOp& op, size_t input) const { return values_.at(op.inputs.at(input)); }
    /// Whether the op has this input.
    static bool has(const TracedOp& op, size_t input) { return op.inputs.at(input).defined(); }
    std::string scalar(double value) { return graph_.scalar(static_cast<float>(value)); }
    std::string norm(const TracedOp& op, const std::string& x, size_t gamma) {
        return graph_.add("LayerNormalization", {x, name(op, gamma), name(op, gamma + 1)},
                          {{"axis", int64_t{-1}}, {"epsilon", static_cast<float>(op.get<double>("eps"))}});
    }

    // --- constants
    void weights(const TracedOp& op) {
        const auto& quantizers = op.get<std::vector<QuantParams>>("quantizers");
        for (size_t i = 0; i < quantizers.size(); ++i) {
            values_.set_weight(op.outputs[i], {op.outputs[i].value(), quantizers[i]});
        }
    }
    void weight_codes(const TracedOp& op) {
        const auto& quantizer = op.get<QuantParams>("quantizer");
        const Tensor& w = op.inputs[0].value();
        const Tensor codes = w.like();
        engine::kernels(w.device()).lsq_codes(w, quantizer, codes);
        if (quantizer.offset.defined()) return;
        values_.set_weight(op.outputs[0], {codes, quantizer});
    }
    void weight_signs(const TracedOp& op) {
        const Tensor& y = op.outputs[0].value();
        std::vector<double> values = y.to_vector();
        double step = 0;
        for (const double value : values) step = std::max(step, std::abs(value));
        if (op.get<Shape>("scale_shape").numel() != 1 || step < engine::kLeastStep) return;
        for (double& value : values) value = value > 0 ? 1 : (value < 0 ? -1 : 0);
        values_.set_weight(op.outputs[0], {Tensor::from(values, y.shape(), y.dtype()),
                                           {Tensor::full({1}, step, y.dtype()),
                                            {},
                                            engine::range_tensor({-1, 1}, engine::Device::cpu),
                                            {}}});
    }
    /// Codes in another order or shape.
    void moved_weight(const TracedOp& op) {
        const OnnxWeight* weight = values_.find_weight(op.inputs[0]);
        if (weight != nullptr) values_.set_weight(op.outputs[0], {op.outputs[0].value(), weight->quantizer});
    }
    void moved_values(const TracedOp& op) {  // what a weight's lsq gave: its codes keep their shape
        const OnnxWeight* weight = values_.find_weight(op.inputs[0]);
        if (weight == nullptr) return;
        values_.set_weight(op.outputs[0], {weight->values.reshape(op.outputs[0].shape()), weight->quantizer});
    }
    void table_bias(const TracedOp& op) {
        const Tensor& index = op.get<Tensor>("index");
        const std::vector<double> entries = index.to_vector();
        const std::string rows =
            graph_.add("Gather", {graph_.constant(op.inputs[0].value()),
                                  graph_.integers({entries.begin(), entries.end()}, index.shape().vec())});
        result(op, graph_.transpose(rows, {2, 0, 1}));
    }

    // --- pictures
    void quantize(const TracedOp& op) {
        OnnxValue y = in(op, 0);
        if (y.quantizer.defined()) y = {values_.name(y), y.shape};
        y.quantizer = op.get<QuantParams>("quantizer");
        result(op, std::move(y));
    }
    void binary(const TracedOp& op) {
        const std::string x = name(op, 0), size = graph_.add("Abs", {x});
        const bool of_columns = op.get<Shape>("scale_shape").rank() == 2;
        const std::string axes = of_columns ? graph_.integers({1}) : graph_.integers({1, 2});
        const std::string step = graph_.add("ReduceMean", {size, axes}, {{"keepdims", int64_t{1}}});
        result(op, graph_.add("Mul", {graph_.add("Sign", {x}), step}));
    }
    void reshape(const TracedOp& op) { result(op, values_.reshape(in(op, 0), op.outputs[0].shape())); }
    void gather_tokens(const TracedOp& op) {
        result(op, values_.gather_tokens(in(op, 0), op.get<Tensor>("index")));
    }
    void patchify(const TracedOp& op) {
        OnnxValue y = in(op, 0);
        const auto patch = op.get<int64_t>("patch");
        const int64_t channels = y.shape[1], high = y.shape[2] / patch, wide = y.shape[3] / patch;
        y.name = graph_.transpose(graph_.reshape(y.name, {channels, high, patch, wide, patch}),
                                  {0, 2, 4, 1, 3, 5});
        y.name = graph_.reshape(y.name, {high * wide, channels * patch * patch});
        y.shape = op.outputs[0].shape();
        result(op, std::move(y));
    }
    void unfold(const TracedOp& op) {
        OnnxValue y = in(op, 0);
        y.windows = op.get<engine::Convolution>("shape");
        result(op, std::move(y));
    }
    void linear(const TracedOp& op) { result(op, values_.linear(in(op, 0), op.inputs[1], op.inputs[2])); }
    void grouped_convolution(const TracedOp& op) {
        const auto& shape = op.get<engine::Convolution>("shape");
        const OnnxWeight* weight = values_.find_weight(op.inputs[1]);
        result(op, values_.convolution(in(op, 0), shape,
                                       weight != nullptr ? *weight : OnnxWeight{op.inputs[1].value(), {}},
                                       shape.channels, op.inputs[2]));
    }
    void prepend_token(const TracedOp& op) {
        const std::string x = name(op, 1);
        const std::string batch = graph_.add("Shape", {x}, {{"start", int64_t{0}}, {"end", int64_t{1}}});
        const std::string shape = graph_.add(
            "Concat", {batch, graph_.integers({1, op.outputs[0].shape()[2]})}, {{"axis", int64_t{0}}});
        const std::string token = graph_.add("Expand", {name(op, 0), shape});
        result(op, graph_.add("Concat", {token, x}, {{"axis", int64_t{1}}}));
    }
    void select_token(const TracedOp& op) {
        const std::string index = graph_.integers({op.get<int64_t>("index")}, {});
        result(op, graph_.add("Gather", {name(op, 0), index}, {{"axis", int64_t{1}}}));
    }
    void add(const TracedOp& op) { result(op, graph_.add("Add", {name(op, 0), name(op, 1)})); }
    void scale(const TracedOp& op) {
        result(op, graph_.add("Mul", {name(op, 0), scalar(op.get<double>("s"))}));
    }
    void gelu(const TracedOp& op) { result(op, graph_.add("Gelu", {name(op, 0)})); }
    void layer_norm(const TracedOp& op) { result(op, norm(op, name(op, 0), 1)); }
    void residual_norm(const TracedOp& op) {
        std::string y = name(op, 0);
        if (has(op, 1)) y = graph_.add("Add", {y, name(op, 1)});
        result(op, {norm(op, y, 2), op.outputs[0].shape(), op.get<QuantParams>("quantizer")});
        result(op, {y, op.outputs[1].shape()}, 1);
    }
    void mean_tokens(const TracedOp& op) {
        result(op, graph_.add("ReduceMean", {name(op, 0), graph_.integers({1})}, {{"keepdims", int64_t{0}}}));
    }
    void weighted_sum(const TracedOp& op) {
        const std::string x = graph_.add("Mul", {name(op, 0), name(op, 2)});
        result(op, graph_.add("Add", {x, graph_.add("Mul", {name(op, 1), name(op, 3)})}));
    }
    void batch_norm_relu(const TracedOp& op) {  // x gain + shift
        const auto gamma = op.inputs[1].value().to_vector(), beta = op.inputs[2].value().to_vector();
        const auto mean = op.get<Tensor>("mean").to_vector(),
                   variance = op.get<Tensor>("variance").to_vector();
        std::vector<float> gain, shift;
        for (size_t c = 0; c < gamma.size(); ++c) {
            const double g = gamma[c] / std::sqrt(variance[c] + op.get<double>("eps"));
            gain.push_back(static_cast<float>(g));
            shift.push_back(static_cast<float>(beta[c] - mean[c] * g));
        }
        const auto channels = static_cast<int64_t>(gain.size());
        const std::string y = graph_.add("Mul", {name(op, 0), graph_.constant(gain, {channels})});
        result(op, graph_.add("Relu", {graph_.add("Add", {y, graph_.constant(shift, {channels})})}));
    }
    void attention_scores(const TracedOp& op) {
        result(op, values_.scores(in(op, 0), in(op, 1), op.get<int64_t>("heads")));
    }
    void attention_apply(const TracedOp& op) { result(op, values_.apply(in(op, 0), in(op, 1))); }
    void softmax(const TracedOp& op) { result(op, values_.softmax(in(op, 0), op.get<double>("s"), "", {})); }
    void biased_softmax(const TracedOp& op) {
        result(op, values_.softmax(in(op, 0), op.get<double>("s"), has(op, 1) ? name(op, 1) : "",
                                   op.get<Tensor>("mask")));
    }
    void attention(const TracedOp& op) {
        constexpr size_t kWeight = 1, kBias = 4, kScoreBias = 12;  // as autograd::attention records them
        const auto& problem = op.get<engine::AttentionProblem>("problem");
        OnnxValue x = in(op, 0);
        const Shape whole = x.shape;  // (B, N, C)
        if (problem.order.defined()) x = values_.gather_tokens(x, problem.order);
        if (problem.groups > 1) {
            x = values_.reshape(x, {whole[0] * problem.groups, whole[1] / problem.groups, whole[2]});
        }
        OnnxValue qkv[3];
        for (size_t t = 0; t < 3; ++t) {
            qkv[t] = values_.linear(x, op.inputs[kWeight + t], op.inputs[kBias + t]);
            qkv[t].quantizer = *problem.quantizers()[t];
        }
        const OnnxValue z = values_.scores(qkv[0], qkv[1], problem.heads);
        OnnxValue p =
            values_.softmax(z, problem.scale, has(op, kScoreBias) ? name(op, kScoreBias) : "", problem.mask);
        p.quantizer = problem.probability;
        OnnxValue y = values_.apply(p, qkv[2]);
        if (problem.groups > 1) y = values_.reshape(y, whole);
        if (problem.order.defined()) y = values_.gather_tokens(y, problem.inverse);
        y.quantizer = problem.output;
        result(op, std::move(y));
    }
    void mlp(const TracedOp& op) {
        const OnnxValue z = values_.linear(in(op, 0), op.inputs[1], op.inputs[2]);
        const OnnxValue h{graph_.add("Gelu", {z.name}), z.shape, op.get<QuantParams>("hidden")};
        result(op, values_.linear(h, op.inputs[5], op.inputs[6]));
    }

    OnnxGraph& graph_;
    OnnxValues values_;
    Tensor pictures_;
    std::string input_;
};

const std::map<std::string, Translator::Handler> Translator::kOfConstants = {
    {"quantize_weights", &Translator::weights},   {"lsq", &Translator::weight_codes},
    {"binary", &Translator::weight_signs},        {"reshape", &Translator::moved_values},
    {"gather_tokens", &Translator::moved_weight}, {"table_bias", &Translator::table_bias}};

const std::map<std::string, Translator::Handler> Translator::kOfPictures = {
    {"quantize", &Translator::quantize},
    {"lsq", &Translator::quantize},
    {"binary", &Translator::binary},
    {"reshape", &Translator::reshape},
    {"gather_tokens", &Translator::gather_tokens},
    {"patchify", &Translator::patchify},
    {"unfold", &Translator::unfold},
    {"linear", &Translator::linear},
    {"grouped_convolution", &Translator::grouped_convolution},
    {"prepend_token", &Translator::prepend_token},
    {"select_token", &Translator::select_token},
    {"add", &Translator::add},
    {"residual", &Translator::add},
    {"add_broadcast", &Translator::add},
    {"scale", &Translator::scale},
    {"gelu", &Translator::gelu},
    {"layer_norm", &Translator::layer_norm},
    {"residual_norm", &Translator::residual_norm},
    {"mean_tokens", &Translator::mean_tokens},
    {"weighted_sum", &Translator::weighted_sum},
    {"batch_norm_relu", &Translator::batch_norm_relu},
    {"attention_scores", &Translator::attention_scores},
    {"attention_apply", &Translator::attention_apply},
    {"softmax", &Translator::softmax},
    {"biased_softmax", &Translator::biased_softmax},
    {"attention", &Translator::attention},
    {"mlp", &Translator::mlp}};

/// (x / 255 - mean) / std of bytes x (B, C, S, S).
std::string normalized(OnnxGraph& graph, const std::string& pixels, const OnnxOptions& options) {
    constexpr float kWhite = 255;
    const auto of_channels = [&](const std::vector<double>& values) {
        return graph.constant(std::vector<float>(values.begin(), values.end()),
                              {static_cast<int64_t>(values.size()), 1, 1});
    };
    std::string x = graph.add("Cast", {pixels}, {{"to", static_cast<int64_t>(OnnxType::f32)}});
    x = graph.add("Div", {x, graph.scalar(kWhite)});
    x = graph.add("Sub", {x, of_channels(options.mean)});
    return graph.add("Div", {x, of_channels(options.std)});
}

void choose_opset(OnnxGraph& graph, int asked) {
    const int lowest = graph.lowest_opset();
    if (asked == 0) {
        graph.model().opset = lowest;
        return;
    }
    if (asked < kFirstOpset || asked > kLastOpset) {
        engine::input_error("`opset` ", asked, ": unknown here; give ", kFirstOpset, " to ", kLastOpset);
    }
    if (asked < lowest) {
        engine::input_error("`opset` ", asked, ": has no type for codes of ", lowest > 21 ? 2 : 4,
                            " bits; give ", lowest, " to ", kLastOpset);
    }
    graph.model().opset = asked;
}

}  // namespace

OnnxModel export_onnx(nn::Model& model, const OnnxOptions& options) {
    const nn::ModelConfig& config = model.config();
    OnnxGraph graph;
    const std::vector<int64_t> sizes = {config.in_chans, config.img_size, config.img_size};
    graph.model().input = {options.pixels ? "pixels" : "pictures",
                           options.pixels ? OnnxType::u8 : OnnxType::f32, sizes};
    graph.model().output = {"logits", OnnxType::f32, {config.num_classes}};
    const std::string input = graph.model().input.name;
    model.train(false);
    const autograd::NoGrad off_tape;
    const Tensor pictures =
        Tensor::zeros({2, config.in_chans, config.img_size, config.img_size}, engine::DType::f32);
    Translator translator(graph, options, pictures,
                          options.pixels ? normalized(graph, input, options) : input);
    Variable logits;
    {
        const autograd::Trace trace([&](const TracedOp& op) { translator.see(op); });
        logits = model.forward(pictures);
    }
    graph.enter("");
    const std::string last = translator.name(logits);
    graph.model().nodes.push_back({"Identity", "logits", {last}, {"logits"}, {}});
    choose_opset(graph, options.opset);
    return std::move(graph.model());
}

}  // namespace vvtq::quant
